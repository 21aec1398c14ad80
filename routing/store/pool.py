"""What gateways on one store add up: evidence, which one of them judges, and totals, which all of them tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from routing.store.junk import Junk


@dataclass(frozen=True, slots=True)
class Sums:
    """News of one thing that is counted.

    Attributes:
        place: Which thing, ``MODEL:KIND:VERSION:EPOCH`` and what else tells it apart.
        added: Counts since the last news, by name.
        largest: The largest value so far, by name.
    """

    place: str
    added: Mapping[str, int | float]
    largest: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flush:
    """News of one gateway. Sent twice it counts once.

    Attributes:
        replica: Name of the gateway, which no other process ever has.
        sequence: 1 and up; a gateway sends the next one when this one is known to be taken.
        evidence: For the judge; empty: none.
    """

    replica: str
    sequence: int
    evidence: bytes
    totals: tuple[Sums, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to judge for all.

    Attributes:
        fence: Grows with every change of hands.
        holder: Name of the gateway.
        beat: Grows with every sign of life of the holder; a lease whose beat stands still is anybody's.
    """

    fence: int
    holder: str
    beat: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Evidence of one flush, as the judge reads it. ``position`` resumes right after it."""

    position: str
    replica: str
    evidence: bytes


@dataclass(frozen=True, slots=True)
class Judged:
    """How far the judge is.

    Attributes:
        position: Of the last entry that is in ``states``; empty: of none.
        states: By model, what the judge keeps; empty: forget it.
    """

    position: str
    states: Mapping[str, bytes] = field(default_factory=dict)


class LeaseLost(Exception):
    """Somebody else holds the lease, or nobody does. Nothing was written."""


class EvidenceLost(Exception):
    """What was to be read after is beyond all evidence, which was begun anew. The beat was taken; read from empty."""


class Pool(Protocol):
    """Any call may raise StoreUnavailable; then it may have happened or not, and may be made again.

    What is not of ours is skipped or taken away, and told of to ``junk``.
    """

    @property
    def junk(self) -> Junk:
        """Hears of what cannot be read, of those too who read what is kept here."""

    async def flush(self, flush: Flush) -> bool:
        """Take in news, all or none; False when they were taken in before."""

    async def lease(self) -> Lease | None:
        """As it stands; ``None`` when nobody holds it."""

    async def take(self, holder: str, seen: Lease | None) -> Lease:
        """Take the lease if it still is as it was seen; how it stands afterwards."""

    async def leave(self, held: Lease) -> None:
        """Give the lease back, if it is still held."""

    async def beat(self, held: Lease, after: str, judged: Judged) -> Sequence[Entry]:
        """A sign of life: keep what was judged, and read what came ``after`` a position (empty: all).

        Raises:
            LeaseLost: It is another's.
            EvidenceLost: There is no such position.
        """

    async def judged(self) -> Judged:
        """What was kept last, whoever held the lease."""

    async def states(self, models: Sequence[str]) -> Mapping[str, bytes]:
        """The same of some models."""

    async def totals(self, places: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """Sums of all gateways, by name, for each place."""
