"""What can go wrong between a gateway and its Redis."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from routing.errors import OutcomeUnknown, PositionLost, StaleRevision, StoreUnavailable
from routing.store import RedisStore, verify, write
from routing.store import redis as redis_store
from routing.store.redis import CONNECTIONS
from tests.contracts.cut_proxy import CutProxy, Fault
from tests.contracts.stores import increment, opened, put, step, take
from tests.redis_server import RedisServer

BOUND_S = 2.5  # two commands of a second each, and some for a busy machine


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as own:
        yield own


async def timed(call) -> tuple[BaseException, float]:  # type: ignore[no-untyped-def]
    """The error a call ends with, and how long it took."""
    started = time.perf_counter()
    with pytest.raises((StoreUnavailable, OutcomeUnknown)) as error:
        await call
    return error.value, time.perf_counter() - started


def test_a_write_whose_reply_is_lost_is_a_success(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        async with CutProxy(shared_server.port) as proxy:
            store = RedisStore(proxy.url)
            async with opened(store):
                proxy.fault = Fault.DROP_REPLY
                change = step(document=b"one")
                await store.compare_and_set(*change)
                assert proxy.delivered.is_set()
                assert await store.load("credit") == change[1]
                assert list(await store.history("credit")) == [change[2]]

    asyncio.run(scenario())


def test_a_lost_write_is_settled_although_idle_connections_are_dead_too(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        async with CutProxy(shared_server.port) as proxy:
            store = RedisStore(proxy.url, command_timeout_s=0.2)
            async with opened(store):
                await asyncio.gather(*(store.load("m") for _ in range(4)))
                proxy.silence()
                with pytest.raises(StoreUnavailable, match="nothing was changed"):
                    await store.compare_and_set(*step())
                await store.compare_and_set(*step())

    asyncio.run(scenario())


def test_a_stale_write_whose_reply_is_lost_is_stale(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        async with CutProxy(shared_server.port) as proxy:
            store = RedisStore(proxy.url)
            async with opened(store):
                await put(store, "credit", b"one")
                proxy.fault = Fault.DROP_REPLY
                with pytest.raises(StaleRevision) as stale:
                    await store.compare_and_set(*step(document=b"late"))
                assert stale.value.current == 1

    asyncio.run(scenario())


def test_a_lost_reply_and_no_way_to_ask_is_an_unknown_outcome_that_may_be_repeated(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        async with CutProxy(shared_server.port) as proxy:
            store = RedisStore(proxy.url)
            async with opened(store):
                proxy.fault, proxy.refuses = Fault.DROP_REPLY, True
                with pytest.raises(OutcomeUnknown):
                    await write(store, "m", increment, actor="a", reason="r", at=1.0, change_id="1" * 32)
                proxy.refuses = False
                record = await write(store, "m", increment, actor="a", reason="r", at=1.0, change_id="1" * 32)
                assert record is not None
                assert record.document == b"1"
                assert len(await store.history("m")) == 1

    asyncio.run(scenario())


def test_a_write_that_was_given_up_never_happens_later(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        async with CutProxy(shared_server.port) as proxy:
            store = RedisStore(proxy.url, command_timeout_s=0.2)
            async with opened(store):
                proxy.fault = Fault.HOLD_REQUEST
                change = step(document=b"held")
                with pytest.raises(StoreUnavailable, match="nothing was changed"):
                    await store.compare_and_set(*change)
                proxy.release()
                await proxy.delivered.wait()
                assert await store.load("credit") is None
                await store.compare_and_set(*change)
                assert await store.load("credit") == change[1]

    asyncio.run(scenario())


def test_a_flushed_store_has_another_identity_and_ends_watches(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        store = RedisStore(shared_server.url, block_s=0.1)
        async with opened(store):
            first = await put(store, "credit", b"one")
            known, position = store.store_id, await store.position()
            async with aclosing(store.watch(position)) as changes:
                waiting = asyncio.create_task(take(changes, 1))
                await asyncio.sleep(0.05)
                shared_server.flush()
                with pytest.raises(PositionLost):
                    await waiting
            with pytest.raises(PositionLost):
                await take(store.watch(position), 1)
            assert await store.ping() == store.store_id != known
            with pytest.raises(StaleRevision):
                await store.compare_and_set(*step(first))
            await put(store, "credit", b"anew")

    asyncio.run(scenario())


def test_a_watch_does_not_take_the_changes_of_a_refilled_store_for_the_next_ones(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        store = RedisStore(shared_server.url, block_s=30)
        async with opened(store):
            await put(store, "m", b"")
            async with aclosing(store.watch(await store.position())) as changes:
                waiting = asyncio.create_task(take(changes, 1))
                await asyncio.sleep(0.05)
                shared_server.flush()
                await put(store, "a", b"")
                await put(store, "b", b"")
                with pytest.raises(PositionLost):
                    await waiting

    asyncio.run(scenario())


def test_a_trimmed_position_is_lost(shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "KEPT_CHANGES", 10)

    async def scenario() -> None:
        shared_server.flush()
        store = RedisStore(shared_server.url)
        async with opened(store):
            start = await store.position()
            for _ in range(250):
                await put(store, "m", b"")
            with pytest.raises(PositionLost):
                await take(store.watch(start), 1)
            assert len(await store.history("m")) == 250

    asyncio.run(scenario())


def test_an_idle_watch_goes_on(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        store = RedisStore(shared_server.url, block_s=0.02)
        async with opened(store), aclosing(store.watch(await store.position())) as changes:
            waiting = asyncio.create_task(take(changes, 1))
            await asyncio.sleep(0.2)
            await put(store, "m", b"")
            assert (await waiting)[0].model == "m"

    asyncio.run(scenario())


def test_a_killed_server_is_said_soon_and_a_restarted_one_is_used(server: RedisServer) -> None:
    async def scenario() -> None:
        store = RedisStore(server.url)
        async with opened(store):
            first, known, position = await put(store, "m", b"one"), store.store_id, await store.position()
            async with aclosing(store.watch(position)) as changes:
                waiting = asyncio.create_task(take(changes, 1))
                await asyncio.sleep(0.05)
                server.kill()
                _, watch_s = await timed(waiting)
            write_error, write_s = await timed(store.compare_and_set(*step(first)))
            _, read_s = await timed(store.load("m"))
            assert isinstance(write_error, StoreUnavailable)  # it could not even be sent
            assert max(watch_s, write_s, read_s) < BOUND_S
            server.start()
            assert await store.load("m") is None
            assert await store.ping() != known
            await put(store, "m", b"again")

    asyncio.run(scenario())


def test_a_restarted_server_that_kept_its_data_is_the_same_store() -> None:
    async def scenario(server: RedisServer) -> None:
        store = RedisStore(server.url)
        async with opened(store):
            start, record = await store.position(), await put(store, "m", b"\0kept\xff")
            server.stop()
            server.start()
            await asyncio.sleep(0.05)  # the loop was held up meanwhile: let it see that the connection ended
            assert await store.load("m") == record
            assert await store.ping() == start.partition(":")[0]
            assert verify(await store.history("m"), head_sha256=record.head_sha256) is None
            async with aclosing(store.watch(start)) as changes:
                assert [c.model for c in await take(changes, 1)] == ["m"]

    with RedisServer(save=True) as server:
        asyncio.run(scenario(server))


def test_a_frozen_server_holds_nobody_up(server: RedisServer) -> None:
    async def scenario() -> None:
        store = RedisStore(server.url, command_timeout_s=0.3, block_s=0.2)
        async with opened(store):
            first = await put(store, "m", b"one")
            async with aclosing(store.watch(await store.position())) as changes:
                waiting = asyncio.create_task(take(changes, 1))
                await asyncio.sleep(0.05)
                server.pause()
                outcomes = await asyncio.gather(
                    timed(waiting), timed(store.compare_and_set(*step(first))), *(timed(store.load("m")) for _ in "ab")
                )
            assert isinstance(outcomes[1][0], OutcomeUnknown)
            assert max(seconds for _, seconds in outcomes) < BOUND_S
            started = time.perf_counter()
            await store.close()
            assert time.perf_counter() - started < BOUND_S
            server.resume()

    asyncio.run(scenario())


def test_a_frozen_server_is_not_filled_with_connections_and_the_first_answer_wakes_all(server: RedisServer) -> None:
    async def scenario() -> None:
        stores = [RedisStore(server.url, command_timeout_s=0.2) for _ in range(3)]
        async with opened(*stores):
            for store in stores:
                await store.ping()
            server.pause()
            try:
                for _ in range(6):
                    lost = await asyncio.gather(*(s.list() for s in stores for _ in range(12)), return_exceptions=True)
                    assert all(isinstance(error, StoreUnavailable) for error in lost)
                assert waiting_at(server.port) <= 3 * (CONNECTIONS + 1), "the first round, and a question each"
            finally:
                server.resume()
            begin = time.monotonic()
            await asyncio.gather(*(store.ping() for store in stores))
            assert time.monotonic() - begin < 0.15

    asyncio.run(scenario())


def waiting_at(port: int) -> int:
    """Connections that a listener has not taken in."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listens = "0A"
    (row,) = [row for row in rows if row[3] == listens and int(row[1].split(":")[1], 16) == port]
    return int(row[4].split(":")[1], 16)


def test_a_frozen_server_is_not_opened_and_a_missing_one_neither(server: RedisServer) -> None:
    async def scenario() -> None:
        server.pause()
        _, seconds = await timed(RedisStore(server.url).open())
        assert seconds < BOUND_S
        server.kill()
        error, seconds = await timed(RedisStore(server.url).open())
        assert seconds < BOUND_S
        assert str(server.port) in str(error)

    asyncio.run(scenario())


def test_a_server_that_refuses_writes_is_unavailable_and_nothing_changes(server: RedisServer) -> None:
    async def scenario() -> None:
        store = RedisStore(server.url)
        async with opened(store):
            server.call(b"CONFIG SET maxmemory 1\r\n")
            with pytest.raises(StoreUnavailable, match="nothing was changed"):
                await store.compare_and_set(*step())
            assert await store.load("credit") is None
            server.call(b"CONFIG SET maxmemory 0\r\n")
            await store.compare_and_set(*step())

    asyncio.run(scenario())


def test_a_newer_layout_is_left_alone(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        shared_server.call(b"HSET {turnout}:meta layout 2\r\n")
        with pytest.raises(StoreUnavailable, match="layout"):
            await RedisStore(shared_server.url).open()
        shared_server.flush()
        store = RedisStore(shared_server.url)
        async with opened(store):
            shared_server.call(b"HSET {turnout}:meta layout 2\r\n")
            with pytest.raises(StoreUnavailable, match="layout"):
                await store.compare_and_set(*step())
            assert await store.load("credit") is None

    asyncio.run(scenario())


def test_a_wrong_password_is_said_without_repeating_it(server: RedisServer) -> None:
    server.call(b"CONFIG SET requirepass right\r\n")
    wrong = server.url.replace("redis://", "redis://:hunter2@")
    with pytest.raises(StoreUnavailable) as refusal:
        asyncio.run(RedisStore(wrong).open())
    assert "hunter2" not in str(refusal.value)
    asyncio.run(_open_and_close(RedisStore(server.url.replace("redis://", "redis://:right@"))))


async def _open_and_close(store: RedisStore) -> None:
    async with opened(store):
        assert asyncio.all_tasks() == {asyncio.current_task()}


def test_many_callers_share_few_connections(server: RedisServer) -> None:
    async def scenario() -> None:
        store = RedisStore(server.url)
        async with opened(store):
            await asyncio.gather(*(put(store, f"m{n}", b"") for n in range(100)))
            assert len(await store.list()) == 100
            connected = server.call(b"CLIENT LIST\r\n").count(b"addr=127.0.0.1:") // 2
            assert connected <= redis_store.CONNECTIONS + 1

    asyncio.run(scenario())


def test_a_change_and_a_word_have_their_time_by_one_clock(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        store = RedisStore(shared_server.url)
        async with opened(store):
            async with aclosing(store.watch(await store.position())) as changes:
                await put(store, "m", b"one")
                (change,) = await take(changes, 1)
            heard_s = await store.put_presence("a", b"{}", 60)
            assert change.at_s is not None
            assert heard_s is not None
            assert 0 < heard_s - change.at_s < BOUND_S

    asyncio.run(scenario())


def test_a_replica_that_falls_silent_is_told_of_for_a_while_and_waited_for_no_more(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        store = RedisStore(shared_server.url)
        async with opened(store):
            await store.put_presence("a", b"1", 60)
            await store.put_presence("b", b"2", 0.02)
            await asyncio.sleep(0.05)
            words = await store.words()
            assert [(name, word.data, word.left_s > 0) for name, word in words.items()] == [
                ("a", b"1", True),
                ("b", b"2", False),
            ]
            assert await store.presences() == {"a": b"1"}
            await store.put_presence("b", b"", 0)
            assert list(await store.words()) == ["a"]

    asyncio.run(scenario())
