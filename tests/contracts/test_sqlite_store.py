"""What can go wrong with a file."""

import asyncio
import os
import resource
import sqlite3
import threading
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from routing.errors import PositionLost, StoreUnavailable
from routing.store import Draft, SqliteStore, verify, write
from tests.contracts.stores import opened, put, step, take


def test_the_thread_ends_with_the_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(SqliteStore(tmp_path / "a.db")):
            assert [t for t in threading.enumerate() if t.name.startswith("turnout-sqlite")]

    asyncio.run(scenario())
    assert not [t for t in threading.enumerate() if t.name.startswith("turnout-sqlite")]
    assert sorted(os.listdir(tmp_path)) == ["a.db"]


def test_a_write_is_on_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "a.db")
        async with opened(store):
            assert await store._call(lambda: store._db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
            assert await store._call(lambda: store._db.execute("PRAGMA synchronous").fetchone()) == (2,)

    asyncio.run(scenario())


def test_many_who_open_a_new_file_at_once_agree_on_its_identity(tmp_path: Path) -> None:
    async def scenario() -> None:
        stores = [SqliteStore(tmp_path / "a.db") for _ in range(8)]
        try:
            await asyncio.gather(*(store.open() for store in stores))
            assert len({store.store_id for store in stores}) == 1
        finally:
            await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(scenario())


@pytest.mark.parametrize("content", [b"this is no database, but it is long enough to look at\n" * 40, b"SQLite"])
def test_a_damaged_file_is_refused_with_advice(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"restore it from a backup, or move it away"):
        asyncio.run(SqliteStore(path).open())
    assert path.read_bytes() == content


def test_a_file_damaged_later_is_told_apart_from_an_empty_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "a.db")
        async with opened(store):
            for number in range(50):
                await put(store, f"m{number}", b"x" * 2000)
        raw = bytearray((tmp_path / "a.db").read_bytes())
        raw[4096:] = b"\xa5" * (len(raw) - 4096)
        (tmp_path / "a.db").write_bytes(raw)
        store = SqliteStore(tmp_path / "a.db")
        with pytest.raises(StoreUnavailable, match="damaged"):
            async with opened(store):
                await store.list()

    asyncio.run(scenario())


def test_other_peoples_and_newer_files_are_left_alone(tmp_path: Path) -> None:
    for name, statement in (("other.db", "CREATE TABLE t (x)"), ("newer.db", "PRAGMA user_version = 99")):
        db = sqlite3.connect(tmp_path / name)
        db.execute(statement)
        db.close()
        before = (tmp_path / name).read_bytes()
        with pytest.raises(StoreUnavailable, match="has schema"):
            asyncio.run(SqliteStore(tmp_path / name).open())
        assert (tmp_path / name).read_bytes() == before


def test_whether_a_file_is_begun_is_seen_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "routes.db"

    async def scenario() -> None:
        store = SqliteStore(path)
        assert not await store.is_begun()
        assert not list(tmp_path.iterdir())
        await store.open()
        assert await SqliteStore(path).is_begun()  # beside who serves, before anything left the write-ahead log
        await store.close()
        assert await store.is_begun()
        assert [file.name for file in tmp_path.iterdir()] == ["routes.db"]
        path.write_bytes(b"not a database" * 400)
        with pytest.raises(StoreUnavailable, match="damaged or no SQLite file"):
            await store.is_begun()

    asyncio.run(scenario())


def test_a_path_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "a.db"):
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            asyncio.run(SqliteStore(path).open())


def test_a_full_disk_is_unavailable_loses_nothing_and_passes(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "a.db")
        async with opened(store):
            await _put(store, 1)
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            largest = max(file.stat().st_size for file in tmp_path.iterdir())
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
            try:
                with pytest.raises(StoreUnavailable):
                    await _fill(store)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            record = await store.load("credit")
            assert record is not None
            await _put(store, record.revision + 1)
            assert verify(await store.history("credit")) is None

    asyncio.run(scenario())


async def _fill(store: SqliteStore) -> None:
    for revision in range(2, 200):
        await _put(store, revision)


async def _put(store: SqliteStore, revision: int) -> None:
    """The next revision, large enough to fill a disk soon."""
    document = b"x" * 10_000
    await write(
        store,
        "credit",
        lambda _record: Draft(revision, document, "put"),
        actor="tester",
        reason="",
        at=0.0,
        change_id=f"{revision:032x}",
    )


async def _make(path: Path) -> None:
    async with opened(SqliteStore(path)):
        pass


@pytest.mark.parametrize(
    ("limit", "sentence"), [("PRAGMA query_only = 1", "may not be written"), ("PRAGMA max_page_count = 1", "full")]
)
def test_a_refused_write_changes_nothing_and_can_be_sent_again(tmp_path: Path, limit: str, sentence: str) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "a.db")
        async with opened(store):
            change = step(document=b"x" * 100_000)
            await store._call(lambda: store._db.execute(limit).fetchall())
            with pytest.raises(StoreUnavailable, match=sentence):
                await store.compare_and_set(*change)
            assert await store.load("credit") is None
            await store._call(lambda: store._db.executescript("PRAGMA query_only = 0; PRAGMA max_page_count = 9999"))
            await store.compare_and_set(*change)
            assert await store.load("credit") == change[1]

    asyncio.run(scenario())


def test_a_lock_that_is_not_given_back_is_unavailable_in_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "a.db", busy_timeout_s=0.1)
        async with opened(store):
            other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            started = time.perf_counter()
            with pytest.raises(StoreUnavailable, match="locked"):
                await store.compare_and_set(*step())
            assert time.perf_counter() - started < 1
            assert await store.load("credit") is None
            other.execute("ROLLBACK")
            other.close()
            await store.compare_and_set(*step())

    asyncio.run(scenario())


def test_a_file_replaced_while_in_use_is_noticed(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "a.db")
        async with opened(store):
            await _make(tmp_path / "b.db")
            (tmp_path / "b.db").rename(tmp_path / "a.db")
            with pytest.raises(StoreUnavailable, match="was replaced"):
                await store.ping()
            (tmp_path / "a.db").unlink()
            with pytest.raises(StoreUnavailable):
                await store.ping()

    asyncio.run(scenario())


def test_a_new_file_has_another_identity_and_knows_no_old_position(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = SqliteStore(tmp_path / "a.db"), SqliteStore(tmp_path / "b.db")
        async with opened(one, two):
            assert one.store_id != two.store_id
            with pytest.raises(PositionLost):
                await take(two.watch(await one.position()), 1)

    asyncio.run(scenario())


def test_no_write_of_our_own_falls_between_two_looks(tmp_path: Path) -> None:
    """The end of a wait and the ring may come in the same turn of the loop."""

    async def scenario() -> None:
        store = SqliteStore(tmp_path / "a.db", poll_s=0.0005)
        async with opened(store), aclosing(store.watch(await store.position())) as changes:
            await store._call(lambda: store._db.execute("PRAGMA synchronous = OFF").fetchall())
            for number in range(500):
                heard = asyncio.create_task(take(changes, 1))
                await asyncio.sleep(number % 7 * 0.0003)
                await put(store, "m", b"")
                await heard

    asyncio.run(scenario())


def test_a_long_backlog_comes_in_batches(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(tmp_path / "a.db")
        async with opened(store):
            start, record = await store.position(), None
            await store._call(lambda: store._db.execute("PRAGMA synchronous = OFF").fetchall())
            for _ in range(1100):
                expected, record, entry = step(record)
                await store.compare_and_set(expected, record, entry)
            async with aclosing(store.watch(start)) as changes:
                assert [c.revision for c in await take(changes, 1100)] == list(range(1, 1101))

    asyncio.run(scenario())
