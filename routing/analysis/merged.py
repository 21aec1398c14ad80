"""The guard on merged counters: siblings on one machine, replicas, and stable's own."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from routing.analysis.ecusum import C_DEFAULT, fuse_length
from routing.analysis.objective import FUSE, Objective, Trip, tolerated_failures
from routing.analysis.slots import Run, SlottedRun

SHARED_EVIDENCE = 1_000.0
SETTLING = 3  # flushes after which all sources have told of a slot that one has told of


def is_shared(stable_evidence: float) -> bool:
    """Whether stable breaks the objective too when a canary trips on it: keep the weights, raise an alarm."""
    return stable_evidence >= SHARED_EVIDENCE


class Slot(NamedTuple):
    """News of one slot of time, of all sources that it is known of: attempts, and which of them failed."""

    slot: int
    attempts: int
    failed: int
    within_cap: int


class MergedDetector:
    """The same test on merged counters: siblings, replicas, and stable's own. Mutable; stepped once per flush.

    Count attempts when they are dispatched and hits when they are known: hits that are known before the answers
    beside them then meet the attempts they were sent with.

    The fuse has the order of slots of time: a run is one in whatever order the attempts of a slot were, and
    whenever it became known that they failed (``SlottedRun``). One that is long only because of a key's charges over
    the cap counts when its slots have settled: what one source tells first, others may still break.

    Args:
        slo: Objectives with different names.

    Attributes:
        tripped: It has, and does so once only.
        is_unsettled: A run has to be looked at again at the next flush, whether anything comes or not.
    """

    def __init__(self, slo: Sequence[Objective]) -> None:
        self._fuse_p0 = tolerated_failures(slo)
        self._fuse = fuse_length(self._fuse_p0)
        self._run = SlottedRun()
        self._newest: deque[int] = deque(maxlen=SETTLING + 1)  # slot, at each of the last flushes
        self._tripped_run = 0
        self._tests = {objective.name: (objective, objective.test) for objective in slo}
        self._odds = {name: test.start for name, (_, test) in self._tests.items()}
        self._attempts = dict.fromkeys([*self._tests, FUSE], 0)
        self._charged = dict.fromkeys([*self._tests, FUSE], 0)
        self.tripped = False
        self.is_unsettled = False

    def flush(
        self, deltas: Mapping[str, tuple[int, int]], slots: Iterable[Slot] = (), *, all_burn: bool = True
    ) -> Trip | None:
        """Add what came since the last flush.

        Args:
            deltas: Attempts and hits by the name of an objective. There may be more hits than attempts (they were
                dispatched before the last flush). Unknown names are passed over.
            slots: News for the fuse, failures of whatever key.
            all_burn: Those that are over the cap on one key count for the fuse too.
        """
        trip = None
        for name, (attempts, hits) in deltas.items():
            if name not in self._tests:
                continue
            objective, test = self._tests[name]
            self._odds[name] = test.step_batch(self._odds[name], max(attempts, hits), hits)
            self._attempts[name] += attempts
            self._charged[name] += hits
            if self.evidence(name) >= objective.c:
                trip = trip or self._trip(objective)
        return trip or self._burn(slots, all_burn=all_burn)

    def as_state(self) -> dict[str, Any]:
        """What another detector of the same objectives goes on from, as plain data."""
        held: dict[str, Sequence[Any]] = {**self._odds, FUSE: self._run.as_state()}
        return {name: [list(odds), self._attempts[name], self._charged[name]] for name, odds in held.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``as_state`` gave; objectives that are not of the same form begin anew."""
        for name, (odds, attempts, charged) in state.items():
            if name == FUSE:
                self._run.restore(odds)
            elif name in self._tests and len(odds) == len(self._odds[name]):
                self._odds[name] = tuple(map(float, odds))
            else:
                continue
            self._attempts[name], self._charged[name] = int(attempts), int(charged)

    def evidence(self, name: str) -> float:
        """Odds against the objective, 1 where it is not known."""
        if name not in self._tests:
            return 1.0
        return self._tests[name][1].evidence(self._odds[name])

    def fuse(self) -> dict[str, Any]:
        """How far the fuse has burnt, as plain data."""
        run = self._tripped_run or self._run.last().failures
        return {"p0": self._fuse_p0, "run": run, "length": self._fuse, "charged": self._charged[FUSE]}

    def _burn(self, slots: Iterable[Slot], *, all_burn: bool) -> Trip | None:
        failed = 0
        for slot in slots:
            failed += self._run.add(*slot)
            self._attempts[FUSE] += slot.attempts
        self._charged[FUSE] += failed
        self._newest.append(self._run.newest)
        if self.tripped or not (failed or self.is_unsettled):
            return None
        run = self._found(all_burn=all_burn)
        if run is None:
            return None
        self.tripped, self.is_unsettled, self._tripped_run = True, False, run.failures
        counts = self._attempts[FUSE], self._charged[FUSE]
        return Trip(FUSE, self._fuse_p0, C_DEFAULT, 1.0, *counts, run=run.failures)

    def _found(self, *, all_burn: bool) -> Run | None:
        most, widest = self._run.longest()
        if widest.within_cap >= self._fuse:
            return most if all_burn else widest
        self.is_unsettled = all_burn and most.failures >= self._fuse
        if not self.is_unsettled or len(self._newest) <= SETTLING:
            return None
        settled, _ = self._run.longest(self._newest[0])
        return settled if settled.failures >= self._fuse else None

    def _trip(self, objective: Objective) -> Trip | None:
        if self.tripped:
            return None
        self.tripped = True
        name = objective.name
        return Trip(
            name,
            objective.p0,
            objective.c,
            self.evidence(name),
            self._attempts[name],
            self._charged[name],
            threshold_s=objective.threshold_s,
        )
