"""What every store promises. One contract suite holds all of them to it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from routing.errors import PositionLost
from routing.store.history import HistoryEntry
from routing.store.pool import Pool


@dataclass(frozen=True, slots=True)
class Record:
    """The stored document of one route.

    Attributes:
        model: The route's model.
        revision: 1 or more; grows with every change.
        document: Opaque bytes.
        head_sha256: Hash of the newest history entry, for the next one to follow.
    """

    model: str
    revision: int
    document: bytes
    head_sha256: str


@dataclass(frozen=True, slots=True)
class Change:
    """News that a route changed. ``position`` resumes a watch right after it.

    Attributes:
        at_s: When it was written, by the store's own clock; ``None`` where the store does not say.
    """

    position: str
    model: str
    revision: int
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """What a replica said of itself.

    Attributes:
        left_s: Time until it counts no more, by the store's own clock; negative when that is over.
    """

    data: bytes
    left_s: float


class Store(Protocol):
    """Keeps documents, their history and the order of changes.

    Any call may raise StoreUnavailable; the time it takes to say so is bounded.

    Attributes:
        kind: ``"memory"``, ``"sqlite"`` or ``"redis"``.
        store_id: 32 hex digits made once per contents: a flushed store has another. Valid after ``open``.
        pool: What gateways on it add up; ``None`` where there is no more than one machine.
    """

    @property
    def pool(self) -> Pool | None:
        """What gateways on this store add up, if it is one for several machines."""

    @property
    def kind(self) -> str:
        """``"memory"``, ``"sqlite"`` or ``"redis"``."""

    @property
    def store_id(self) -> str:
        """Identity of the contents as last seen by ``open`` or ``ping``."""

    async def open(self) -> None:
        """Reach the store and prepare it when it is new."""

    async def is_begun(self) -> bool:
        """Whether it was ever opened; asks a closed store, and writes nothing.

        Raises:
            StoreUnavailable: As ``open``.
        """

    async def close(self) -> None:
        """Give everything back, also when the store is gone. Running watches end with StoreUnavailable."""

    async def load(self, model: str) -> Record | None:
        """The record of one route."""

    async def list(self) -> Sequence[Record]:
        """All records, in the order of their model names."""

    async def compare_and_set(self, expected: int, record: Record, entry: HistoryEntry) -> None:
        """Store ``record`` and append ``entry``, both or neither, if the route still has revision ``expected``.

        Sending a change again that is already in the history, known by its ``change_id``, is a success.

        Args:
            expected: Revision the change is based on; 0 when there is no record yet.
            record: What is stored next; its revision is above ``expected``.
            entry: The history entry of the same revision.

        Raises:
            StaleRevision: Somebody else was first. Nothing was changed.
            StoreUnavailable: Nothing was changed, now or later.
            OutcomeUnknown: It may have happened or may yet happen.
        """

    async def position(self) -> str:
        """Newest position. Take it before ``list``, then watch from it: nothing is missed, some may come twice."""

    def watch(self, after: str) -> AsyncGenerator[Change, None]:
        """Every change after a position, in order, forever. Close the generator when done.

        Raises:
            StoreUnavailable: The connection is lost: read everything, then watch again.
            PositionLost: The changes after this position are not all there.
        """

    async def history(self, model: str, *, limit: int = 1000, until: int | None = None) -> Sequence[HistoryEntry]:
        """The newest ``limit`` entries of a route, oldest first; only revisions up to ``until`` when it is given.

        A row that somebody broke comes back as an entry of the verb ``UNREADABLE`` that ``verify`` refuses.
        """

    async def put_presence(self, replica_id: str, data: bytes, ttl_s: float) -> float | None:
        """Say that a replica is alive for ``ttl_s`` seconds from now, and what it says; 0 takes it away.

        The time is the store's own, so that the clocks of replicas need not agree. It is not part of the contents:
        no revision, no history, no change.

        Returns:
            When it was heard, by the clock of ``Change.at_s``; ``None`` where the store does not say.
        """

    async def presences(self) -> Mapping[str, bytes]:
        """What every replica said whose time is not over, by replica."""

    async def words(self) -> Mapping[str, Word]:
        """The same with the time that is left; a store for several machines also tells of those that fell silent."""

    async def ping(self) -> str:
        """The store_id now held: a store that was flushed or replaced meanwhile answers another."""


def check_step(expected: int, record: Record, entry: HistoryEntry) -> None:
    """Refuse a record and an entry that do not describe the same step.

    Raises:
        ValueError: They differ, or the revision does not grow.
    """
    if (record.model, record.revision, record.document, record.head_sha256) != (
        entry.model,
        entry.revision,
        entry.document,
        entry.sha256,
    ):
        raise ValueError("the record and its history entry differ")
    if record.revision <= expected or expected < 0:
        raise ValueError(f"revision {record.revision} does not follow {expected}")


def make_position(store_id: str, sequence: int) -> str:
    """A place in the changes of one store: how many there were, and whose."""
    return f"{store_id}:{sequence}"


def sequence_in(position: str, store_id: str) -> int:
    """Number of changes before ``position`` in this store.

    Raises:
        PositionLost: It belongs to other contents or is no position at all.
    """
    owner, _, number = position.partition(":")
    if owner != store_id or not (number.isascii() and number.isdigit()):
        raise PositionLost(position)
    return int(number)
