"""What can go wrong with a file."""

import asyncio
import os
import sqlite3
import threading
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from routing.errors import PositionLost, StoreUnavailable
from routing.store import SqliteStore
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


def test_a_path_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "a.db"):
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            asyncio.run(SqliteStore(path).open())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_file_is_unavailable(tmp_path: Path) -> None:
    asyncio.run(_make(tmp_path / "a.db"))
    (tmp_path / "a.db").chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreUnavailable):
            asyncio.run(SqliteStore(tmp_path / "a.db").open())
    finally:
        tmp_path.chmod(0o700)


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
