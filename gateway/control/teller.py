"""The worker's side of evidence and totals: what the guards here have seen and counted since the last time."""

from collections.abc import Callable, Iterable, Iterator

from gateway.control.messages import Count, Counted, Summed, Up
from gateway.runtime.arms import Evidence
from gateway.runtime.shadows import ShadowEvidence
from gateway.runtime.snapshot import Runtime
from gateway.runtime.totals import Number, arm_place, counted, news, shadow_place

TELL_S = 0.1  # between two words of evidence to the supervisor
ROUNDS_A_TOTAL = 4  # of them until totals are told too

Kept = Evidence | ShadowEvidence


class Teller:
    """Tells the supervisor what is new. Nothing is told twice.

    Args:
        tells_totals: The store is shared: somebody adds up over gateways.
    """

    def __init__(self, runtime: Runtime, tell: Callable[[Up], None], *, tells_totals: bool) -> None:
        self._runtime = runtime
        self._tell = tell
        self._tells_totals = tells_totals
        self._rounds = 0
        self._told: dict[str, tuple[Kept, dict[str, Number]]] = {}

    def turn(self) -> None:
        """Tell evidence; every ``ROUNDS_A_TOTAL`` times totals too."""
        if counts := tuple(self._counts()):
            self._tell(Counted(counts))
        self._rounds += 1
        if self._rounds % ROUNDS_A_TOTAL == 0:
            self.totals()

    def totals(self) -> None:
        """Tell what was counted since the last time."""
        if not self._tells_totals:
            return
        here = dict(self._places())
        gone = {place: kept for place, (kept, _) in self._told.items() if place not in here}
        if sums := tuple(self._sums([*here.items(), *gone.items()])):
            self._tell(Summed(sums))
        for place, kept in gone.items():  # an answer that comes late is counted where it belongs
            if not _in_flight(kept):
                del self._told[place]

    def _counts(self) -> Iterable[Count]:
        for route in self._runtime.current.routes.values():
            for arm in route.arms:
                evidence = arm.evidence
                deltas = evidence.take(is_stable=arm.is_stable)
                slots = () if arm.is_stable else tuple(evidence.detector.take_run())
                if deltas or slots:
                    ready = route.stable.slot.is_ready
                    yield Count(route.model, arm.version, evidence.epoch, arm.is_stable, ready, deltas, slots)

    def _places(self) -> Iterator[tuple[str, Kept]]:
        for route in self._runtime.current.routes.values():
            for arm in (*route.by_version.values(), route.stable):  # which may stand in
                yield arm_place(arm), arm.evidence
            for shadow in route.shadows:
                yield shadow_place(route.model, shadow), shadow.evidence

    def _sums(self, places: Iterable[tuple[str, Kept]]) -> Iterator[tuple[str, dict[str, Number], dict[str, Number]]]:
        for place, kept in places:
            held, before = self._told.get(place, (kept, {}))
            if held is not kept:  # the same place begun anew: a route that was deleted and made again
                before = {}
            now = counted(kept)
            added, largest = news(now, before)
            self._told[place] = (kept, now)
            if added or largest:
                yield place, added, largest


def _in_flight(kept: Kept) -> bool:
    if isinstance(kept, Evidence):
        return kept.counters.in_flight > 0
    return kept.in_flight + kept.waiting > 0
