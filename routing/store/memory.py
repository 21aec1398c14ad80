"""A store in this process, for tests and for trying things out: gone when the process is."""

import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import islice

from routing.errors import PositionLost, StaleRevision, StoreUnavailable
from routing.store.base import Change, Record, Word, check_step, make_position, sequence_in
from routing.store.bell import Bell
from routing.store.history import HistoryEntry

KEPT_CHANGES = 100_000  # changes to resume a watch from; also the history kept of each route


class MemoryStore:
    """Implements Store with dictionaries. Use it from one event loop.

    Args:
        kept: Newest changes, and newest history entries of each route, that are kept.
    """

    kind = "memory"
    pool = None

    def __init__(self, *, kept: int = KEPT_CHANGES) -> None:
        self.store_id = secrets.token_hex(16)
        self._records: dict[str, Record] = {}
        self._history: dict[str, deque[HistoryEntry]] = {}
        self._changes: deque[Change] = deque(maxlen=kept)
        self._presences: dict[str, tuple[float, bytes]] = {}
        self._sequence = 0
        self._kept = kept
        self._bell = Bell()
        self._is_open = False

    async def open(self) -> None:
        """Start, or start again with what was stored before."""
        self._is_open = True

    async def is_begun(self) -> bool:
        """See Store: nothing outlives the process."""
        return self._is_open

    async def close(self) -> None:
        """Stop; watches end with StoreUnavailable."""
        self._is_open = False
        self._bell.ring()

    async def load(self, model: str) -> Record | None:
        """See Store."""
        self._require_open()
        return self._records.get(model)

    async def list(self) -> Sequence[Record]:
        """See Store."""
        self._require_open()
        return [self._records[model] for model in sorted(self._records)]

    async def compare_and_set(self, expected: int, record: Record, entry: HistoryEntry) -> None:
        """See Store."""
        self._require_open()
        check_step(expected, record, entry)
        held = self._records.get(record.model)
        current = held.revision if held else 0
        if current != expected:
            if any(past.change_id == entry.change_id for past in self._history.get(record.model, ())):
                return
            raise StaleRevision(expected, current)
        self._records[record.model] = record
        self._history.setdefault(record.model, deque(maxlen=self._kept)).append(entry)
        self._sequence += 1
        self._changes.append(Change(self._position(), record.model, record.revision))
        self._bell.ring()

    async def position(self) -> str:
        """See Store."""
        self._require_open()
        return self._position()

    async def watch(self, after: str) -> AsyncGenerator[Change, None]:
        """See Store."""
        seen = sequence_in(after, self.store_id)
        while True:
            self._require_open()
            ticket = self._bell.ticket()
            behind = self._sequence - seen
            if not 0 <= behind <= len(self._changes):
                raise PositionLost(make_position(self.store_id, seen))
            for change in reversed([*islice(reversed(self._changes), behind)]):
                yield change
            seen += behind
            if seen == self._sequence:
                await ticket.wait()

    async def history(self, model: str, *, limit: int = 1000, until: int | None = None) -> Sequence[HistoryEntry]:
        """See Store."""
        self._require_open()
        found = (e for e in reversed(self._history.get(model, ())) if until is None or e.revision <= until)
        return [*islice(found, max(limit, 0))][::-1]

    async def put_presence(self, replica_id: str, data: bytes, ttl_s: float) -> None:
        """See Store."""
        self._require_open()
        if ttl_s > 0:
            self._presences[replica_id] = (time.monotonic() + ttl_s, data)
        else:
            self._presences.pop(replica_id, None)

    async def presences(self) -> Mapping[str, bytes]:
        """See Store."""
        self._require_open()
        now_s = time.monotonic()
        self._presences = {name: held for name, held in self._presences.items() if held[0] > now_s}
        return {name: data for name, (_, data) in sorted(self._presences.items())}

    async def words(self) -> Mapping[str, Word]:
        """See Store."""
        alive, now_s = await self.presences(), time.monotonic()
        return {name: Word(data, self._presences[name][0] - now_s) for name, data in alive.items()}

    async def ping(self) -> str:
        """See Store."""
        self._require_open()
        return self.store_id

    def _position(self) -> str:
        return make_position(self.store_id, self._sequence)

    def _require_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the store is closed")
