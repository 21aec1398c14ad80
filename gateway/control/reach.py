"""Whether the store is there, as far as the last call could tell, and since when it is not."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

log = logging.getLogger("turnout.supervisor")

MARGIN_S = 0.001  # a timer may come a little early


class Reach:
    """Hears how calls of the store end, and says when it has been away for too long.

    Args:
        stale_after_s: How long it may be away until the table may be old.
        on_change: Told ``is_stale`` whenever the store goes, comes back, or has been away for so long.

    Attributes:
        is_there: As far as the last call could tell.
        problem: Why it is not; empty when it is, or when nobody has asked yet.
        losses: How often it went away.
    """

    def __init__(self, stale_after_s: float, on_change: Callable[[bool], None]) -> None:
        self._stale_after_s = stale_after_s
        self._on_change = on_change
        self._away_since_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_there = False
        self.problem = ""
        self.losses = 0

    @property
    def away_s(self) -> float:
        """How long the store has been away; 0 while it is there."""
        return 0.0 if self._away_since_s is None else monotonic() - self._away_since_s

    @property
    def is_stale(self) -> bool:
        """Whether the store has been away for so long that the table may be old."""
        return self._away_since_s is not None and self.away_s >= self._stale_after_s

    def lost(self, error: Exception) -> None:
        """A call found it away."""
        if self.is_there or not self.problem:
            self.losses += 1
            log.error("the store is gone: serving and guarding go on, edits do not", extra={"reason": str(error)})
            self._away_since_s = monotonic()
            self._tell()
        self.is_there, self.problem = False, str(error)

    def found(self) -> None:
        """A call found it there."""
        if not self.is_there and self.problem:
            log.warning("the store is back")
        if not self.is_there:
            self._away_since_s = None
            self._tell()
        self.is_there, self.problem = True, ""

    def stop(self) -> None:
        """Say nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        """Say it now and, while the store is away, when that has lasted too long."""
        self.stop()
        self._on_change(self.is_stale)
        if self._away_since_s is not None and not self.is_stale:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._stale_after_s - self.away_s + MARGIN_S, self._tell)
