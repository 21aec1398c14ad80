"""Failures in a row over several sources, whose order is known by slots of time only."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

SLOT_S = 0.1  # how fine the order is
SLOTS_MAX = 128  # slots with attempts that are kept; a failure that is known after so many is in no run


SlotNews = tuple[int, int, list[int | None]]
"""What one source says of a slot, by its own count: attempts that it dispatched in it and has not told before, and the
sticky keys' hashes (``None``: keyless) of those that have failed since the last word. Plain, as it travels."""


class Run(NamedTuple):
    """Failures in a row.

    Attributes:
        failures: How many.
        within_cap: Those of them that are among the first of their key.
    """

    failures: int
    within_cap: int


NO_RUN = Run(0, 0)


class SlottedRun:
    """The longest run of failures in the window. Mutable; not shared between threads.

    An attempt stands in the slot of its dispatch and is taken for good until it is known to have failed. Slots follow
    each other, what is in one has no order: a run is made of whole slots, one after the other, in which every
    attempt has failed. So it is one in whatever order they were, and a failure that is known late only ever joins what
    lies on both its sides.
    """

    def __init__(self) -> None:
        self._slots: dict[int, list[int]] = {}  # attempts, failed, failed within the cap

    def add(self, slot: int, attempts: int, failed: int, within_cap: int) -> int:
        """Add news of a slot, and say how many failures were taken: not those of attempts that nobody knows of."""
        held = self._slots.get(slot)
        if held is None:
            if not attempts:
                return 0
            held = self._slots[slot] = [0, 0, 0]
        held[0] += attempts
        taken = min(failed, held[0] - held[1])
        held[1] += taken
        held[2] = min(held[1], held[2] + within_cap)
        if len(self._slots) > SLOTS_MAX:
            del self._slots[min(self._slots)]
        return taken

    @property
    def newest(self) -> int:
        """The newest slot that is known, -1 when there is none."""
        return max(self._slots, default=-1)

    def longest(self, until: int | None = None) -> tuple[Run, Run]:
        """The run with the most failures, and the one with the most within the cap, as of that slot."""
        most = widest = now = NO_RUN
        for slot in sorted(self._slots):
            if until is not None and slot > until:
                break
            now = self._after(now, slot)
            most, widest = max(most, now), max(widest, now, key=lambda run: run.within_cap)
        return most, widest

    def last(self) -> Run:
        """The run that the newest slot ends."""
        now = NO_RUN
        for slot in sorted(self._slots):
            now = self._after(now, slot)
        return now

    def _after(self, run: Run, slot: int) -> Run:
        attempts, failed, within_cap = self._slots[slot]
        if failed < attempts:
            return NO_RUN
        return Run(run.failures + failed, run.within_cap + within_cap)

    def as_state(self) -> list[list[int]]:
        """All of it as plain data; of slots without a failure that follow each other, only the last is kept."""
        return [
            [slot, *self._slots[slot]]
            for slot, following in pairwise([*sorted(self._slots), None])
            if slot is not None and (self._slots[slot][1] or following is None or self._slots[following][1])
        ]

    def restore(self, state: Iterable[Sequence[int]]) -> None:
        """Go on from what ``as_state`` gave.

        Raises:
            TypeError, ValueError: It is none.
        """
        slots = [tuple(map(int, held)) for held in state]
        self._slots = {slot: [attempts, failed, within_cap] for slot, attempts, failed, within_cap in slots}
