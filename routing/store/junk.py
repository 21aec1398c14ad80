"""What somebody else left among what gateways share: skipped or taken away, counted, told of once a place."""

import logging

log = logging.getLogger("turnout.store")

PLACES_TOLD = 256  # further places are counted and not told of


class Junk:
    """Hears of what cannot be read.

    Attributes:
        found: Times that something could not be.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self.found = 0

    def tell(self, place: str, what: str) -> None:
        """Something in ``place`` is not of ours."""
        self.found += 1
        if place not in self._told and len(self._told) < PLACES_TOLD:
            self._told.add(place)
            log.warning("the store holds what no gateway wrote", extra={"place": place, "what": what})
