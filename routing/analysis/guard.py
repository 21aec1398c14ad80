"""The guard of the data path: one detector for each canary version and epoch, stepped on every outcome."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from routing.analysis.ecusum import C_DEFAULT, fuse_length
from routing.analysis.objective import FUSE, Objective, Trip, tolerated_failures
from routing.analysis.ordered import OrderedCusum, State
from routing.analysis.slots import SLOT_S, SLOTS_MAX, SlotNews

CHARGES_PER_KEY = 2
FRESH_MAX = 256  # hits kept for who adds up detectors; of more between two calls nothing is said
KEYS_MAX = 4_096  # keys with charges that are remembered, those charged longest ago are forgotten first


class KeyCap:
    """Lets each sticky key be charged twice, so that one poisoned caller cannot flip a route.

    It remembers the ``KEYS_MAX`` keys that were charged last. A key that goes on failing is never forgotten; any other
    is let in again only after so many other keys have failed, so the bound costs little and never blinds the guard.
    """

    def __init__(self) -> None:
        self._charges: OrderedDict[int, int] = OrderedDict()

    def is_spent(self, key_hash: int | None) -> bool:
        """Count one charge and say whether it is over the cap; ``None`` (a keyless draw) never is."""
        if key_hash is None:
            return False
        charges = self._charges.pop(key_hash, 0)
        self._charges[key_hash] = min(charges + 1, CHARGES_PER_KEY)
        if len(self._charges) > KEYS_MAX:
            self._charges.popitem(last=False)
        return charges >= CHARGES_PER_KEY

    def as_state(self, keys: int) -> list[list[int]]:
        """The ``keys`` that were charged last, with their charges, as plain data."""
        newest = list(self._charges.items())[-keys:]
        return [[key, charges] for key, charges in newest]

    def restore(self, state: Iterable[Sequence[int]]) -> None:
        """Go on from what ``as_state`` gave."""
        self._charges = OrderedDict((int(key), int(charges)) for key, charges in state)


class _Watch:
    """One objective (or the fuse alone) with its evidence and its cap."""

    def __init__(self, objective: Objective | None, fuse: int | None, *, all_burn: bool = True) -> None:
        self.objective = objective
        self.evidence = OrderedCusum(objective.test if objective else None, fuse, all_burn=all_burn)
        self._cap = KeyCap()
        self._told = 0
        self.fresh: list[int | None] = []

    def hit(self, ticket: int, key_hash: int | None) -> State | None:
        is_capped = self._cap.is_spent(key_hash)
        if not is_capped and len(self.fresh) < FRESH_MAX:
            self.fresh.append(key_hash)
        return self.evidence.hit(ticket, is_capped)

    def take(self, attempts: int) -> tuple[int, list[int | None]]:
        """What came since the last call. Attempts that were told and then set aside are made up for by later ones."""
        told, fresh = max(self._told, attempts), self.fresh
        news = told - self._told, fresh
        self._told, self.fresh = told, []
        return news

    def odds(self, state: State) -> float:
        return sum(state.odds) / len(state.odds) if state.odds else 1.0


class _Slots:
    """In which slot each attempt was dispatched, and what of that was not told yet."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._firsts: list[int] = []  # the first ticket of each
        self._told = 0  # tickets below were told
        self._failed: list[tuple[int, int | None]] = []

    def begin(self, at_s: float, ticket: int) -> float:
        """A slot begins with this attempt. When it ends is returned."""
        number = int(at_s / SLOT_S)
        if self._numbers:
            number = max(number, self._numbers[-1] + 1)
        self._numbers.append(number)
        self._firsts.append(ticket)
        if len(self._firsts) > SLOTS_MAX:
            del self._numbers[0], self._firsts[0]
        return (number + 1) * SLOT_S

    def failed(self, ticket: int, key_hash: int | None) -> None:
        if len(self._failed) < FRESH_MAX:
            self._failed.append((ticket, key_hash))

    def take(self, next_ticket: int) -> list[SlotNews]:
        news: dict[int, tuple[int, list[int | None]]] = {}
        for index in range(max(self._index(self._told), 0), len(self._firsts)):
            end = self._firsts[index + 1] if index + 1 < len(self._firsts) else next_ticket
            if attempts := end - max(self._firsts[index], self._told):
                news[self._numbers[index]] = attempts, []
        for ticket, key_hash in self._failed:
            if (index := self._index(ticket)) >= 0:  # else the slot is not known any more
                news.setdefault(self._numbers[index], (0, []))[1].append(key_hash)
        self._failed, self._told = [], next_ticket
        return [(number, *told) for number, told in news.items()]

    def _index(self, ticket: int) -> int:
        return bisect_right(self._firsts, ticket) - 1


class Detector:
    """The guard of one canary version in one epoch, in one worker. Mutable; not shared between threads.

    Every attempt takes a ticket when it is dispatched and carries it with a mask, 0 at first, of the latency
    thresholds it has already exceeded. Evidence is kept in the order of the tickets (``OrderedCusum`` says why), so
    answers may come in any order and no failure ever waits: a dead canary trips on its fourth failure (p0 = 1 %).
    All calls take constant time; that of a good answer costs one comparison.

    After its one trip a detector returns ``None`` for good.

    Args:
        slo: Objectives with different names.
        fuse_p0: Share of failures for which the fuse is cut; by default that of the errors objective, else 1 %.
        is_alone: Nobody else sees attempts of this version. Otherwise a run that is long only because of one key's many
            failures is none here: others may know of good answers between them (``take_run``).
    """

    def __init__(self, slo: Sequence[Objective], fuse_p0: float | None = None, *, is_alone: bool = True) -> None:
        errors = next((objective for objective in slo if objective.threshold_s is None), None)
        self._fuse_p0 = fuse_p0 or tolerated_failures(slo)
        self._fuse = fuse_length(self._fuse_p0)
        self._errors = _Watch(errors, self._fuse, all_burn=is_alone)
        self._slots = _Slots()
        self._slot_end_s = float("-inf")
        self._slow = [
            (1 << bit, objective.threshold_s, _Watch(objective, None))
            for bit, objective in enumerate(o for o in slo if o.threshold_s is not None)
            if objective.threshold_s is not None
        ]
        self._lowest_s = min((threshold_s for _, threshold_s, _ in self._slow), default=float("inf"))
        self._watches = [self._errors, *(watch for _, _, watch in self._slow)]
        self._next_ticket = 0
        self.tripped = False

    def dispatched(self, now_s: float = 0.0) -> int:
        """Ticket of an attempt that is being sent now, by this machine's monotonic clock.

        The time says the slot that ``take_run`` tells of it; who never asks may leave it out.
        """
        ticket = self._next_ticket
        if now_s >= self._slot_end_s:
            self._slot_end_s = self._slots.begin(now_s, ticket)
        self._next_ticket = ticket + 1
        return ticket

    def sweep(self, ticket: int, age_s: float, mask: int, key_hash: int | None) -> tuple[int, Trip | None]:
        """Count an attempt in flight as slow as soon as its age passes a threshold.

        Args:
            ticket: The attempt.
            age_s: Time since its dispatch, less measured loop lag.
            mask: Thresholds it has exceeded so far.
            key_hash: Hash of its sticky key; ``None`` for a keyless draw.

        Returns:
            The mask to carry on, and the trip.
        """
        if age_s <= self._lowest_s:
            return mask, None
        trip = None
        for bit, threshold_s, watch in self._slow:
            if age_s > threshold_s and not mask & bit:
                mask |= bit
                state = watch.hit(ticket, key_hash)
                trip = trip or self._trip(watch, state)
        return mask, trip

    def answered(self, ticket: int, latency_s: float | None, mask: int, key_hash: int | None) -> Trip | None:
        """A good answer. ``latency_s`` is ``None`` when the loop lagged too much for it to be evidence."""
        if latency_s is None:
            self._no_latency(ticket, mask)
            return None
        if latency_s <= self._lowest_s:
            return None
        return self.sweep(ticket, latency_s, mask, key_hash)[1]

    def set_aside(self, ticket: int, mask: int) -> None:
        """The attempt ended without being evidence, so far.

        For a fault while stable is asked for proof (``charged`` may follow), a fault that stable shares, a request that
        was the caller's fault, a client that left first. Thresholds it has exceeded stay counted.
        """
        self._errors.evidence.aside(ticket)
        self._no_latency(ticket, mask)

    def charged(self, ticket: int, mask: int, key_hash: int | None) -> Trip | None:
        """A charged failure. At most ``CHARGES_PER_KEY`` of one key reach the e-CUSUM.

        All of them reach the fuse where nobody else sees this version; see ``is_alone``.
        """
        self._no_latency(ticket, mask)
        known = self._errors.evidence.hits
        state = self._errors.hit(ticket, key_hash)
        if self._errors.evidence.hits > known:
            self._slots.failed(ticket, key_hash)
        return self._trip(self._errors, state)

    def take(self) -> dict[str, tuple[int, list[int | None]]]:
        """By objective, attempts and the keys of hits since the last call: what a merged detector adds up."""
        watches = self._watches
        found = {w.objective.name: w.take(self._attempts(w)) for w in watches if w.objective}
        return {name: news for name, news in found.items() if news[0] or news[1]}

    def take_run(self) -> list[SlotNews]:
        """What a merged fuse adds up: attempts and failures since the last call, each in the slot of its dispatch.

        Attempts that were set aside are among them, and every failure is, of whatever key.
        """
        return self._slots.take(self._next_ticket)

    @property
    def judged(self) -> int:
        """Attempts that are evidence, of all objectives together."""
        return sum(self._attempts(watch) for watch in self._watches if watch.objective)

    def evidence(self) -> dict[str, object]:
        """What is known now, as plain data for the document."""
        run = self._errors.evidence.now(self._next_ticket).run
        watches = self._watches
        return {
            "tripped": self.tripped,
            FUSE: {"p0": self._fuse_p0, "run": run, "length": self._fuse, "charged": self._errors.evidence.hits},
            "objectives": {w.objective.name: self._plain(w, w.objective) for w in watches if w.objective},
        }

    def _plain(self, watch: _Watch, objective: Objective) -> dict[str, object]:
        kept = watch.evidence
        return {
            "p0": objective.p0,
            "threshold_s": objective.threshold_s,
            "c": objective.c,
            "odds": watch.odds(kept.now(self._next_ticket)),
            "attempts": self._attempts(watch),
            "charged": kept.hits,
            "capped": kept.capped,
            "late": kept.late,
        }

    def _attempts(self, watch: _Watch) -> int:
        return self._next_ticket - watch.evidence.set_aside

    def _no_latency(self, ticket: int, mask: int) -> None:
        for bit, _, watch in self._slow:
            if not mask & bit:
                watch.evidence.aside(ticket)

    def _trip(self, watch: _Watch, state: State | None) -> Trip | None:
        if state is None or self.tripped:
            return None
        self.tripped = True
        objective, odds = watch.objective, watch.odds(state)
        by_odds = objective is not None and odds >= objective.c
        return Trip(
            objective=objective.name if objective and by_odds else FUSE,
            p0=objective.p0 if objective and by_odds else self._fuse_p0,
            c=objective.c if objective else C_DEFAULT,
            odds=odds,
            attempts=self._attempts(watch),
            charged=watch.evidence.hits,
            run=0 if by_odds else state.run,
            threshold_s=objective.threshold_s if objective else None,
        )
