"""What gateways add up in a real Redis: each flush once, one judge at a time, the same sums for all."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from routing.errors import StoreUnavailable
from routing.store import Flush, Judged, Lease, LeaseLost, RedisStore, Sums
from routing.store.redis_pool import RedisPool
from tests.contracts.cut_proxy import CutProxy, Fault
from tests.contracts.stores import opened
from tests.redis_server import RedisServer

Scenario = Callable[[RedisPool], Awaitable[None]]
PLACE = "credit:version:2:7"


def on_a_pool(server: RedisServer, scenario: Scenario) -> None:
    async def run() -> None:
        server.flush()
        store = RedisStore(server.url)
        async with opened(store):
            await scenario(store.pool)

    asyncio.run(run())


def test_a_flush_that_is_sent_twice_counts_once(shared_server: RedisServer) -> None:
    async def scenario(pool: RedisPool) -> None:
        first = Flush("a", 1, b"e1", (Sums(PLACE, {"drawn": 3, "seconds": 0.5}, {"max": 2.5}),))
        assert [await pool.flush(first) for _ in range(3)] == [True, False, False]
        assert await pool.flush(Flush("b", 1, b"e2", (Sums(PLACE, {"drawn": 4}, {"max": 1.5}),)))
        assert await pool.flush(Flush("a", 2, b"", (Sums(PLACE, {"drawn": -1}),)))
        assert not await pool.flush(first)
        assert await pool.totals([PLACE, "nobody"]) == [{"drawn": 6, "seconds": 0.5, "max": 2.5}, {}]
        held = await pool.take("a", None)
        read = await pool.beat(held, "", Judged(""))
        assert [(entry.replica, entry.evidence) for entry in read] == [("a", b"e1"), ("b", b"e2")]

    on_a_pool(shared_server, scenario)


def test_a_flush_whose_reply_is_lost_counts_once(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        async with CutProxy(shared_server.port) as proxy:
            store = RedisStore(proxy.url)
            async with opened(store):
                proxy.fault = Fault.DROP_REPLY
                news = Flush("a", 1, b"e", (Sums(PLACE, {"drawn": 3}),))
                with pytest.raises(StoreUnavailable):
                    await store.pool.flush(news)
                assert await store.pool.flush(news) is False
                assert await store.pool.totals([PLACE]) == [{"drawn": 3}]

    asyncio.run(scenario())


def test_a_lease_changes_hands_only_when_its_beat_stands_still(shared_server: RedisServer) -> None:
    async def scenario(pool: RedisPool) -> None:
        assert await pool.lease() is None
        held = await pool.take("a", None)
        assert held == Lease(1, "a", 0)
        assert await pool.take("b", None) == held
        seen = await pool.lease()
        await pool.beat(held, "", Judged(""))
        assert (await pool.take("b", seen)).holder == "a", "it has moved since it was seen"
        seen = await pool.lease()
        assert seen == Lease(1, "a", 1)
        taken = await pool.take("b", seen)
        assert taken == Lease(2, "b", 0)
        with pytest.raises(LeaseLost):
            await pool.beat(held, "", Judged("9-9", {"credit": b"late"}))
        assert await pool.judged() == Judged("")
        await pool.leave(held)
        assert await pool.lease() == taken
        await pool.leave(taken)
        assert await pool.lease() is None
        assert (await pool.take("a", None)).fence == 3, "a fence never comes again"

    on_a_pool(shared_server, scenario)


def test_a_judge_goes_on_where_the_one_before_has_kept_what_it_judged(shared_server: RedisServer) -> None:
    async def scenario(pool: RedisPool) -> None:
        held = await pool.take("a", None)
        for number in range(1, 4):
            await pool.flush(Flush("a", number, b"%d" % number))
        read = await pool.beat(held, "", Judged(""))
        await pool.beat(held, read[1].position, Judged(read[1].position, {"credit": b"state", "gone": b"x"}))
        await pool.beat(held, read[1].position, Judged(read[1].position, {"gone": b""}))
        taken = await pool.take("b", await pool.lease())
        kept = await pool.judged()
        assert kept == Judged(read[1].position, {"credit": b"state"})
        assert [entry.evidence for entry in await pool.beat(taken, kept.position, Judged(""))] == [b"3"]

    on_a_pool(shared_server, scenario)


def test_all_keys_share_one_slot_and_expire_but_for_the_contents(shared_server: RedisServer) -> None:
    async def scenario(pool: RedisPool) -> None:
        held = await pool.take("a", None)
        await pool.flush(Flush("a", 1, b"e", (Sums(PLACE, {"drawn": 3}),)))
        await pool.beat(held, "", Judged("1-1", {"credit": b"state"}))

    on_a_pool(shared_server, scenario)
    keys = shared_server.call(b"KEYS *\r\n").split()[2::2]
    assert len(keys) == 6
    assert all(key.startswith(b"{turnout}:") for key in keys)
    lasting = {key for key in keys if shared_server.call(b"PTTL " + key + b"\r\n") == b":-1\r\n"}
    assert lasting == {b"{turnout}:meta"}
