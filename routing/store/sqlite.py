"""A store in one SQLite file, for a gateway on one machine.

One thread owns the connection, so writes are in order and nothing waits in the event loop. WAL with
``synchronous=FULL``: an acknowledged change survives a power cut. Other processes may use the same file; their
writes are noticed by ``PRAGMA data_version``, this process's own wake the watchers at once.
"""

import asyncio
import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

from routing.errors import OutcomeUnknown, PositionLost, StaleRevision, StoreUnavailable
from routing.store.base import Change, Record, Word, check_step, make_position, sequence_in
from routing.store.bell import Bell
from routing.store.history import HistoryEntry, encode, entry_in

POLL_S = 0.020  # how often a watch asks whether another process has written
BUSY_TIMEOUT_S = 1.0  # how long another process may hold the file's lock
CALL_TIMEOUT_S = 3.0  # how long a call waits for the thread: a disk that hangs must not hang the caller
WATCH_BATCH = 500  # changes read at once
SCHEMA_VERSION = 1
LARGEST_INTEGER = (1 << 63) - 1

SCHEMA = """
CREATE TABLE meta (store_id TEXT NOT NULL);
CREATE TABLE routes (
    model TEXT PRIMARY KEY, revision INTEGER NOT NULL, head_sha256 TEXT NOT NULL, document BLOB NOT NULL
);
CREATE TABLE history (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL, revision INTEGER NOT NULL, entry BLOB NOT NULL, UNIQUE (model, revision)
);
"""

# Beside the schema and not in its version: a release that does not know it is not disturbed by it. On one machine
# everybody has the same clock; a row whose time is further away than it was given has seen the clock set back.
PRESENCE = """
CREATE TABLE IF NOT EXISTS presence (
    replica_id TEXT PRIMARY KEY, expires_at REAL NOT NULL, ttl_s REAL NOT NULL, data BLOB NOT NULL
)
"""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SqliteStore:
    """Implements Store on one file. Use it from one event loop.

    Args:
        path: The database file; missing folders are made.
        poll_s: Seconds between two looks for another process's writes while a watch runs.
        busy_timeout_s: Seconds to wait for another process's lock.
    """

    kind = "sqlite"
    pool = None

    def __init__(self, path: str | Path, *, poll_s: float = POLL_S, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.store_id = ""
        self._path = Path(path)
        self._poll_s = poll_s
        self._busy_timeout_s = busy_timeout_s
        self._thread: ThreadPoolExecutor | None = None
        self._bell = Bell()

    async def open(self) -> None:
        """See Store. Makes the file and its folders when they are missing."""
        if self._thread is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="turnout-sqlite")
        try:
            self.store_id = await self._call(self._connect)
        except BaseException:
            await self.close()
            raise

    async def is_begun(self) -> bool:
        """See Store: whether the file is there and ours."""
        try:
            return await asyncio.to_thread(self._looks_begun)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(self._sentence(error)) from error

    async def close(self) -> None:
        """See Store."""
        thread, self._thread = self._thread, None
        self._bell.ring()
        if thread is None:
            return
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
        except TimeoutError:
            thread.shutdown(wait=False, cancel_futures=True)
        else:
            thread.shutdown()

    async def load(self, model: str) -> Record | None:
        """See Store."""
        records = await self._call(self._records, "WHERE model = ?", model)
        return records[0] if records else None

    async def list(self) -> Sequence[Record]:
        """See Store."""
        return await self._call(self._records, "ORDER BY model")

    async def compare_and_set(self, expected: int, record: Record, entry: HistoryEntry) -> None:
        """See Store."""
        check_step(expected, record, entry)
        try:
            await self._call(self._commit, expected, record, entry)
        except _Silent as error:
            raise OutcomeUnknown(record.model) from error

    async def position(self) -> str:
        """See Store."""
        return make_position(*await self._call(self._newest))

    async def watch(self, after: str) -> AsyncGenerator[Change, None]:
        """See Store."""
        store_id, newest = await self._call(self._newest)
        seen = sequence_in(after, store_id)
        if seen > newest:
            raise PositionLost(after)
        version = -1  # no data_version is negative: the first look always reads
        while True:
            ticket = self._bell.ticket()
            version, changes = await self._call(self._changes, seen, version)
            for sequence, model, revision in changes:
                yield Change(make_position(store_id, sequence), model, revision)
                seen = sequence
            if changes or ticket.is_set():
                version = -1
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await ticket.wait()
            if ticket.is_set():  # asked, not taken from how the wait ended: both may come true at once
                version = -1

    async def history(self, model: str, *, limit: int = 1000, until: int | None = None) -> Sequence[HistoryEntry]:
        """See Store."""
        return await self._call(self._entries, model, limit, until)

    async def put_presence(self, replica_id: str, data: bytes, ttl_s: float) -> None:
        """See Store."""
        await self._call(self._keep_presence, replica_id, data, ttl_s)

    async def presences(self) -> Mapping[str, bytes]:
        """See Store."""
        return {name: word.data for name, word in (await self.words()).items()}

    async def words(self) -> Mapping[str, Word]:
        """See Store."""
        return await self._call(self._alive)

    async def ping(self) -> str:
        """See Store."""
        self.store_id = await self._call(self._identify)
        return self.store_id

    # The rest runs in the store's thread, except for _call.

    async def _call(self, work: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        if self._thread is None:
            raise StoreUnavailable("the store is closed")
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await self._loop.run_in_executor(self._thread, work, *args)
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, TimeoutError):
                raise _Silent(f"{self._path} did not answer for {CALL_TIMEOUT_S:g} s: check its disk") from error
            raise StoreUnavailable(self._sentence(error)) from error

    def _connect(self) -> str:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        self._inode = os.stat(self._path).st_ino
        with _Transaction(self._db):
            version = self._version(self._db)
            if version == 0:
                self._create()
            self._db.execute(PRESENCE)
        self._use_wal()  # only now that we know the file is ours
        self._db.execute("PRAGMA synchronous = FULL")
        return self._identify()

    def _looks_begun(self) -> bool:
        if not self._path.exists() or not self._path.stat().st_size:
            return False
        # A reader of a file in WAL mode makes the files beside it, unless it is told that nobody writes.
        is_used = Path(f"{self._path}-wal").exists()
        name = f"{self._path.absolute().as_uri()}?mode=ro" + ("" if is_used else "&immutable=1")
        with contextlib.closing(sqlite3.connect(name, uri=True, timeout=self._busy_timeout_s)) as db:
            return self._version(db) > 0

    def _version(self, db: sqlite3.Connection) -> int:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version > SCHEMA_VERSION or (version == 0 and tables):
            raise StoreUnavailable(
                f"{self._path} has schema {version}, this release writes {SCHEMA_VERSION}: "
                "start the release that made it, or name another file"
            )
        return version

    def _use_wal(self) -> None:
        # SQLite does not wait here when another process opens or closes the file at the same moment.
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(self._poll_s)

    def _create(self) -> None:
        for statement in SCHEMA.split(";"):
            self._db.execute(statement)
        self._db.execute("INSERT INTO meta VALUES (?)", (secrets.token_hex(16),))
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _disconnect(self) -> None:
        db: sqlite3.Connection | None = self.__dict__.pop("_db", None)
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _identify(self) -> str:
        if os.stat(self._path).st_ino != self._inode:
            raise StoreUnavailable(f"{self._path} was replaced while it was in use: restart to use the new file")
        (store_id,) = self._db.execute("SELECT store_id FROM meta").fetchone()
        return str(store_id)

    def _records(self, condition: str, *args: str) -> Sequence[Record]:
        query = f"SELECT model, revision, document, head_sha256 FROM routes {condition}"  # noqa: S608 (constants)
        return [Record(*row) for row in self._db.execute(query, args)]

    def _commit(self, expected: int, record: Record, entry: HistoryEntry) -> None:
        with _Transaction(self._db):
            row = self._db.execute("SELECT revision FROM routes WHERE model = ?", (record.model,)).fetchone()
            current = row[0] if row else 0
            if current != expected:
                if self._is_stored(entry):
                    return
                raise StaleRevision(expected, current)
            self._db.execute(
                "INSERT INTO history (model, revision, entry) VALUES (?, ?, ?)",
                (record.model, record.revision, encode(entry)),
            )
            self._db.execute(
                "INSERT OR REPLACE INTO routes VALUES (?, ?, ?, ?)",
                (record.model, record.revision, record.head_sha256, record.document),
            )
        # From this thread, so that it rings even if the caller has gone.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._bell.ring)

    def _is_stored(self, entry: HistoryEntry) -> bool:
        query = "SELECT entry FROM history WHERE model = ? AND revision = ?"
        row = self._db.execute(query, (entry.model, entry.revision)).fetchone()
        return row is not None and entry_in(row[0], entry.model, entry.revision).change_id == entry.change_id

    def _newest(self) -> tuple[str, int]:
        (sequence,) = self._db.execute("SELECT coalesce(max(sequence), 0) FROM history").fetchone()
        return self._identify(), sequence

    def _changes(self, seen: int, version: int) -> tuple[int, Sequence[tuple[int, str, int]]]:
        # The version is read first: a commit between the two reads shows in the next look.
        (now,) = self._db.execute("PRAGMA data_version").fetchone()
        if now == version:
            return now, []
        query = "SELECT sequence, model, revision FROM history WHERE sequence > ? ORDER BY sequence LIMIT ?"
        return now, self._db.execute(query, (seen, WATCH_BATCH)).fetchall()

    def _entries(self, model: str, limit: int, until: int | None) -> Sequence[HistoryEntry]:
        query = "SELECT revision, entry FROM history WHERE model = ? AND revision <= ? ORDER BY revision DESC LIMIT ?"
        newest = LARGEST_INTEGER if until is None else until
        rows = self._db.execute(query, (model, newest, max(limit, 0))).fetchall()
        return [entry_in(entry, model, revision) for revision, entry in reversed(rows)]

    def _keep_presence(self, replica_id: str, data: bytes, ttl_s: float) -> None:
        with _Transaction(self._db):
            if ttl_s > 0:
                row = (replica_id, time.time() + ttl_s, ttl_s, data)
                self._db.execute("INSERT OR REPLACE INTO presence VALUES (?, ?, ?, ?)", row)
            else:
                self._db.execute("DELETE FROM presence WHERE replica_id = ?", (replica_id,))
            self._db.execute("DELETE FROM presence WHERE expires_at <= ?", (time.time(),))

    def _alive(self) -> Mapping[str, Word]:
        query = "SELECT replica_id, data, expires_at - ?1 AS left_s FROM presence WHERE left_s BETWEEN 0 AND ttl_s"
        rows = self._db.execute(query + " ORDER BY replica_id", (time.time(),)).fetchall()
        return {name: Word(data, left_s) for name, data, left_s in rows}

    def _sentence(self, error: Exception) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return f"{self._path} is damaged or no SQLite file: restore it from a backup, or move it away and restart"
        advice = {
            sqlite3.SQLITE_BUSY: "another process keeps it locked; nothing was changed",
            sqlite3.SQLITE_FULL: "its disk is full; nothing was changed",
            sqlite3.SQLITE_READONLY: "it may not be written; nothing was changed",
        }
        return f"{self._path} cannot be used: {advice.get(code, error)}"


class _Silent(StoreUnavailable):
    """The thread did not answer in time and may still be at it."""


class _Transaction:
    """Takes the write lock; commits at the end, or undoes everything."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if not error:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:  # some errors have undone it already
                self._db.execute("ROLLBACK")
