"""Builders for the store tests: each kind of store, and changes to put in it."""

import asyncio
import contextlib
import itertools
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import redis

from routing.store import (
    GENESIS_SHA256,
    Change,
    Draft,
    HistoryEntry,
    MemoryStore,
    Record,
    RedisStore,
    SqliteStore,
    Store,
    chain,
)
from routing.store.history import entry_in
from tests.redis_server import RedisServer

NEWS_TIMEOUT_S = 5.0


class Place:
    """Where stores of one kind are kept: every ``client`` of a place sees the same contents."""

    def __init__(self, kind: str, folder: Path, server: RedisServer | None) -> None:
        self.kind = kind
        self._file = folder / "deep" / "er" / f"{secrets.token_hex(4)}.db"
        self.server = server
        self._memory = MemoryStore()

    def client(self) -> Store:
        if self.kind == "memory":
            return self._memory
        if self.kind == "sqlite":
            return SqliteStore(self._file)
        assert self.server is not None
        return RedisStore(self.server.url)

    def break_history(self, model: str, revision: int, row: bytes) -> None:
        """Put something else in the place of a history entry, behind the store's back."""
        if self.kind == "memory":
            kept = self._memory._history[model]
            index = next(i for i, entry in enumerate(kept) if entry.revision == revision)
            kept[index] = entry_in(row, model, revision)
        elif self.kind == "sqlite":
            with contextlib.closing(sqlite3.connect(self._file)) as db, db:
                db.execute("UPDATE history SET entry = ? WHERE model = ? AND revision = ?", (row, model, revision))
        else:
            assert self.server is not None
            client = redis.Redis.from_url(self.server.url)
            key = f"{{turnout}}:history:{model}"
            client.zremrangebyscore(key, revision, revision)
            client.zadd(key, {row: revision})
            client.close()


@contextlib.asynccontextmanager
async def opened(*stores: Store) -> AsyncIterator[None]:
    """Open stores and, whatever happens, close them."""
    try:
        for store in stores:
            await store.open()
        yield
    finally:
        for store in stores:
            await store.close()


def step(
    record: Record | None = None,
    *,
    model: str = "credit",
    document: bytes = b"{}",
    revision: int | None = None,
    change_id: str | None = None,
) -> tuple[int, Record, HistoryEntry]:
    """Arguments of the compare_and_set that follows ``record``."""
    expected = record.revision if record else 0
    entry = chain(
        record.head_sha256 if record else GENESIS_SHA256,
        model=record.model if record else model,
        revision=revision or expected + 1,
        at=1_700_000_000.25,
        actor="ada",
        reason="because",
        change_id=change_id or secrets.token_hex(16),
        verb="put",
        evidence={"p": 0.001, "n": 12},
        document=document,
    )
    return expected, Record(entry.model, entry.revision, document, entry.sha256), entry


async def put(store: Store, model: str, document: bytes) -> Record:
    """Store the next document of a route."""
    expected, record, entry = step(await store.load(model), model=model, document=document)
    await store.compare_and_set(expected, record, entry)
    return record


async def take(changes: AsyncIterator[Change], count: int) -> list[Change]:
    """The next ``count`` changes of a watch."""
    async with asyncio.timeout(NEWS_TIMEOUT_S):
        return [await anext(changes) for _ in range(count)]


def increment(record: Record | None) -> Draft:
    """A build that adds one to a number."""
    return Draft((record.revision if record else 0) + 1, b"%d" % (int(record.document) + 1 if record else 1), "add")


def ids() -> Callable[[], str]:
    """Change ids in order."""
    numbers: Iterator[int] = itertools.count(1)
    return lambda: f"{next(numbers):032x}"
