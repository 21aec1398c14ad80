"""An e-CUSUM and a fuse over attempts in the order of dispatch, whatever the order in which they end."""

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from routing.analysis.ecusum import Ecusum, Odds

WINDOW = 128  # hits kept to be put in order; one that comes after so many later ones is counted, not stepped
ASIDE_MAX = 4_096  # attempts set aside that are remembered; a forgotten one is taken for good


class State(NamedTuple):
    """What is known just after a hit: the odds, the hits in a row that end with it, and those within the cap."""

    odds: Odds
    run: int
    within_cap: int = 0


class OrderedCusum:
    """Evidence of one objective. Mutable; not shared between threads.

    Attempts are named by the ticket of their dispatch: 0, 1, 2, ... An attempt is taken for good until it is known to
    be a hit, or is set aside (no evidence, or not yet). Only hits are steps: the good attempts between two hits are the
    difference of their tickets, so a good answer costs nothing. A hit that comes late is put in its place and the
    few steps after it are done again.

    This is exact where the order of arrival is not. Failures known at once beside answers that take two seconds are
    no run of failures, and neither are the time-outs that come in after the traffic has stopped. Every presumption
    is the kind one (what is learned later can only raise the odds), so a trip here is a trip of the e-CUSUM that
    knows how every attempt will end, and its promise holds for any latencies.

    Attributes:
        hits: Attempts charged.
        capped: Those of them that did not reach the e-CUSUM because of the cap on one key.
        late: Those of them that came after ``WINDOW`` later ones: counted, not stepped.
        set_aside: Attempts that are no evidence, so far.

    Args:
        fuse: Hits in a row that trip.
        all_burn: Those that are over the cap on one key count for the fuse too.
    """

    def __init__(self, test: Ecusum | None, fuse: int | None, *, all_burn: bool = True) -> None:
        self._test = test
        self._fuse = fuse
        self._all_burn = all_burn
        self._base = State(test.start if test else (), 0)
        self._base_ticket = -1
        self._hits: list[int] = []
        self._uncapped: list[bool] = []
        self._states: list[State] = []
        self._stale: int | None = None  # index of the first state that a later ``aside`` has changed
        self._aside: list[int] = []
        self.hits = self.capped = self.late = self.set_aside = 0

    def aside(self, ticket: int) -> None:
        """Take the attempt out of the count, unless it is a hit. A later ``hit`` brings it back. Idempotent."""
        at = bisect_left(self._hits, ticket)
        if ticket <= self._base_ticket or _holds(self._hits, at, ticket):
            return
        place = bisect_left(self._aside, ticket)
        if _holds(self._aside, place, ticket):
            return
        self._aside.insert(place, ticket)
        self.set_aside += 1
        if at < len(self._hits):
            self._stale = at if self._stale is None else min(at, self._stale)
        if len(self._aside) > ASIDE_MAX:
            del self._aside[: ASIDE_MAX // 4]

    def hit(self, ticket: int, capped: bool) -> State | None:
        """Charge the attempt; a second call for it changes nothing.

        Args:
            ticket: The attempt's place in the order of dispatch.
            capped: The hit says nothing to the e-CUSUM, it is as good as set aside there; a run goes on with it.

        Returns:
            The state that trips (evidence ``c`` or a run as long as the fuse), ``None`` while there is none.
        """
        at = bisect_left(self._hits, ticket)
        if _holds(self._hits, at, ticket):
            return None
        place = bisect_left(self._aside, ticket)
        if _holds(self._aside, place, ticket):
            del self._aside[place]
            self.set_aside -= 1
        self.hits += 1
        self.capped += capped
        if ticket <= self._base_ticket:
            self.late += 1
            return None
        self._hits.insert(at, ticket)
        self._uncapped.insert(at, not capped)
        self._states.insert(at, self._base)
        tripping = self._redo(at)
        if len(self._hits) > WINDOW:
            self._forget_oldest()
        return tripping

    def now(self, next_ticket: int) -> State:
        """The state before the attempt ``next_ticket``, all that is in flight taken for good."""
        before, last = self._before(len(self._hits))
        good = self._good_between(last, next_ticket)
        odds = self._test.step_good(before.odds, good) if self._test else before.odds
        return State(odds, 0, 0) if good else State(odds, before.run, before.within_cap)

    def _before(self, index: int) -> tuple[State, int]:
        if index:
            return self._states[index - 1], self._hits[index - 1]
        return self._base, self._base_ticket

    def _good_between(self, first: int, second: int) -> int:
        """Attempts taken for good among the tickets strictly between two."""
        between = second - first - 1
        if between and self._aside:
            between -= bisect_left(self._aside, second) - bisect_right(self._aside, first)
        return between

    def _redo(self, inserted: int) -> State | None:
        """Bring the states up to date from the first that is not, and stop where nothing changes any more."""
        only_inserted = self._stale is None
        first = inserted if self._stale is None else min(inserted, self._stale)
        self._stale = None
        state, last = self._before(first)
        tripping = None
        for index in range(first, len(self._hits)):
            ticket = self._hits[index]
            state = self._after_hit(state, self._good_between(last, ticket), self._uncapped[index])
            if only_inserted and index > inserted and state == self._states[index]:
                break
            self._states[index] = state
            if tripping is None and self._is_tripped(state):
                tripping = state
            last = ticket
        return tripping

    def _after_hit(self, state: State, good: int, uncapped: bool) -> State:
        odds, run, within_cap = state
        if good:
            run = within_cap = 0
        if self._test:
            odds = self._test.step_good(odds, good)
            if uncapped:
                odds = self._test.step(odds, bad=True)
        return State(odds, run + 1, within_cap + uncapped)

    def _is_tripped(self, state: State) -> bool:
        if self._fuse is not None and (state.run if self._all_burn else state.within_cap) >= self._fuse:
            return True
        return self._test is not None and self._test.evidence(state.odds) >= self._test.c

    def _forget_oldest(self) -> None:
        self._base, self._base_ticket = self._states.pop(0), self._hits.pop(0)
        self._uncapped.pop(0)


def _holds(ordered: list[int], at: int, ticket: int) -> bool:
    return at < len(ordered) and ordered[at] == ticket
