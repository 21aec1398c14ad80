"""The store's changes as server-sent events: one watch for all readers, each with a bounded queue of its own."""

import asyncio
import json
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from gateway.admin.history import shown
from gateway.errors import Overloaded
from routing.errors import PositionLost, StoreUnavailable
from routing.store import Change, HistoryEntry, Store
from routing.store.base import sequence_in

log = logging.getLogger("turnout.admin")

MAX_READERS = 64
READER_BYTES = 1 << 20  # events that wait for one reader; more, and it is cut off
HEARTBEAT_S = 15.0  # a comment after so long without an event
DIFF_BYTES = 256 << 10  # of a larger document the difference is left out
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0
TYPE = re.compile(r"[a-z_]{1,32}")
HEARTBEAT = b":\n\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it goes out. After a reset numbers begin anew."""

    sequence: int
    data: bytes
    is_reset: bool = False


class Reader:
    """What waits for one reader. ``put`` never waits: who is too far behind is cut off instead.

    Args:
        seen: Number of the last event it has.
        max_bytes: What may wait.
        cut: Set when nothing more will come, and what waited is given up.
    """

    def __init__(self, seen: int, max_bytes: int, cut: asyncio.Event) -> None:
        self._seen = seen
        self._max_bytes = max_bytes
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._cut = cut

    def put(self, frame: Frame) -> None:
        """Queue an event, unless it was seen already."""
        if self._cut.is_set() or (frame.sequence <= self._seen and not frame.is_reset):
            return
        self._seen = frame.sequence
        self.tell(frame.data)

    def tell(self, data: bytes) -> None:
        """Queue what stands outside the order of changes: nobody resumes after it."""
        if self._cut.is_set():
            return
        self._waiting.append(data)
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            self.cut()
        self._news.set()

    def cut(self) -> None:
        """Give the reader up."""
        self._cut.set()
        self._waiting.clear()
        self._news.set()

    async def next(self, timeout_s: float) -> bytes | None:
        """The next event; a heartbeat when none came in time; None once the reader is cut off."""
        if not self._waiting and not self._cut.is_set():
            self._news.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return HEARTBEAT
        if self._cut.is_set():
            return None
        data = self._waiting.popleft()
        self._bytes -= len(data)
        return data


class Feed:
    """The watch that all readers share; it runs while there is a reader.

    Args:
        store: Open while anybody reads.

    Attributes:
        readers: How many there are.
        cut_off: How many were too slow, ever.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_readers: int = MAX_READERS,
        reader_bytes: int = READER_BYTES,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._store = store
        self._max_readers = max_readers
        self._reader_bytes = reader_bytes
        self._heartbeat_s = heartbeat_s
        self._attached: set[Reader] = set()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._position = ""
        self.readers = 0
        self.cut_off = 0

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """A place for one reader.

        Raises:
            Overloaded: There are ``max_readers`` already.
            StoreUnavailable: The watch cannot begin.
        """
        if self.readers >= self._max_readers:
            raise Overloaded(f"{self._max_readers} read events already: try again later")
        self.readers += 1
        try:
            await self._begin()
            yield
        finally:
            self.readers -= 1
            await self._end()

    def tell(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell those who read now of something that is no change, and that this gateway alone knows."""
        encoded = _encoded("", kind, data)
        for reader in self._attached:
            reader.tell(encoded)

    async def events(self, after: str | None, cut: asyncio.Event) -> AsyncGenerator[bytes, None]:
        """Events after a position, or from now on, without end; sets ``cut`` and ends when the reader is too slow.

        Raises:
            StoreUnavailable: While what came before was being read.
        """
        if after is None:
            reader = self._attach(self._position, cut)
            yield _marker(self._position)
        else:
            position = after
            try:
                while True:
                    async with aclosing(self._since(position)) as missed:
                        async for reached, frame in missed:
                            yield frame.data
                            position = reached
                    if not self._is_behind(position):  # closing took a moment: nothing may have come in it
                        break
                reader = self._attach(position, cut)
            except PositionLost:
                reader = self._attach(self._position, cut)
                yield _reset(self._position).data
        try:
            while (data := await reader.next(self._heartbeat_s)) is not None:
                yield data
        finally:
            self._attached.discard(reader)

    def _attach(self, position: str, cut: asyncio.Event) -> Reader:
        reader = Reader(_sequence(position), self._reader_bytes, cut)
        self._attached.add(reader)
        return reader

    async def _since(self, after: str) -> AsyncGenerator[tuple[str, Frame], None]:
        """What lies between a position and the shared watch."""
        if sequence_in(after, _owner(self._position)) > _sequence(self._position):
            newest = await self._store.position()  # ahead of our watch: then it must be in the store
            if sequence_in(after, _owner(newest)) > _sequence(newest):
                raise PositionLost(after)
            return
        if not self._is_behind(after):
            return
        position = after
        async with aclosing(self._store.watch(after)) as changes:
            while self._is_behind(position):
                change = await anext(changes)
                position = change.position
                yield position, await self._frame(change)

    def _is_behind(self, position: str) -> bool:
        """Whether the shared watch has more. Raises PositionLost for what is no place in its store."""
        return sequence_in(position, _owner(self._position)) < _sequence(self._position)

    async def _begin(self) -> None:
        async with self._lock:
            if self._task is None or self._task.done():
                self._position = await self._store.position()
                self._task = asyncio.get_running_loop().create_task(self._run())

    async def _end(self) -> None:
        async with self._lock:
            if self.readers == 0 and self._task is not None:
                self._task.cancel()
                with suppress(asyncio.CancelledError):
                    await self._task
                self._task = None

    async def _run(self) -> None:
        """Watch from where the last watch ended; the store may come and go."""
        wait_s, is_lost = RETRY_FIRST_S, False
        try:
            while True:
                try:
                    if is_lost:
                        self._position = await self._store.position()
                        self._publish(_reset(self._position))
                        is_lost = False
                    async with aclosing(self._store.watch(self._position)) as changes:
                        async for change in changes:
                            frame = await self._frame(change)
                            self._position = change.position
                            self._publish(frame)
                            wait_s = RETRY_FIRST_S
                except PositionLost:
                    is_lost = True
                except StoreUnavailable:
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 2, RETRY_MAX_S)
        except Exception:  # the top of a task
            log.exception("the watch behind the events crashed")
        finally:
            for reader in self._attached:
                reader.cut()

    def _publish(self, frame: Frame) -> None:
        for reader in self._attached:
            reader.put(frame)

    async def _frame(self, change: Change) -> Frame:
        entries = await self._store.history(change.model, limit=2, until=change.revision)
        found = entries if entries and entries[-1].revision == change.revision else []
        kind, data = _told(change, found)
        return Frame(_sequence(change.position), _encoded(change.position, kind, data))


def _told(change: Change, entries: "list[HistoryEntry] | Any") -> tuple[str, dict[str, Any]]:
    """Type and data of an event; of an entry that is gone only what the change itself says."""
    told: dict[str, Any] = {"model": change.model, "revision": change.revision}
    if not entries:
        return "change", told | dict.fromkeys(("verb", "actor", "reason", "at", "evidence", "diff"))
    is_large = any(len(entry.document) > DIFF_BYTES for entry in entries)
    plain = shown(entries[-1:] if is_large else entries, 1)[0]
    told |= {name: plain[name] for name in ("verb", "actor", "reason", "at", "evidence", "diff")}
    if is_large:
        told["diff"] = None
    return plain["verb"] if TYPE.fullmatch(plain["verb"]) else "change", told


def _encoded(position: str, kind: str, data: Any) -> bytes:
    line = json.dumps(data, separators=(",", ":"))  # ASCII: no half of a surrogate pair can break it
    place = f"id: {position}\n" if position else ""
    return f"{place}event: {kind}\ndata: {line}\n\n".encode()


def _marker(position: str) -> bytes:
    """Tells a new reader where it is; no event for it."""
    return f"id: {position}\n:\n\n".encode()


def _reset(position: str) -> Frame:
    sentence = "the events before this position are lost: read all routes, then go on from here"
    return Frame(
        _sequence(position), _encoded(position, "reset", {"position": position, "reason": sentence}), is_reset=True
    )


def _owner(position: str) -> str:
    return position.partition(":")[0]


def _sequence(position: str) -> int:
    return int(position.partition(":")[2])
