"""Collector and judge of several gateways on one real Redis, without the gateways around them."""

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import pytest

from gateway.control.collector import WAITING_MAX, Collector, counted
from gateway.control.joint import LEASE_S, JointJudge, LeaseWatch
from gateway.control.messages import Count, Counted, Lowered, Summed
from routing.analysis.merged import SETTLING
from routing.analysis.slots import SlotNews
from routing.codec import encode
from routing.errors import StoreUnavailable
from routing.store import Lease, LeaseLost, RedisStore
from tests.builders import document
from tests.contracts.cut_proxy import CutProxy, Fault
from tests.contracts.stores import opened
from tests.redis_server import RedisServer

SLO = {"errors": {"max_rate": 0.01}}
DOCUMENT = document(slo=SLO)
PLACE = "credit:version:2:1"


class Gateway:
    """What one gateway has of this."""

    def __init__(self, name: str, store: RedisStore) -> None:
        self.lowered: list[Lowered] = []
        self.collector = Collector(store.pool, name)
        self.joint = JointJudge(store.pool, name, self.lowered.append)
        self.joint.judge.follow("credit", encode(DOCUMENT))

    async def sees(self, attempts: int, hits: list[int | None], version: str = "2", *, ready: bool = True) -> None:
        epoch = DOCUMENT.epoch[version]
        count = Count("credit", version, epoch, version == "1", ready, {"errors": (attempts, hits)})
        self.collector.hear(Counted((count,)))
        await self.collector.flush()

    async def sees_slots(self, *slots: SlotNews) -> None:
        self.collector.hear(Counted((Count("credit", "2", DOCUMENT.epoch["2"], False, True, {}, slots),)))
        await self.collector.flush()


Scenario = Callable[[list[Gateway]], Awaitable[None]]


def on(server: RedisServer, scenario: Scenario) -> None:
    async def run() -> None:
        server.flush()
        stores = [RedisStore(server.url) for _ in range(3)]
        async with opened(*stores):
            await scenario([Gateway(name, store) for name, store in zip("abc", stores, strict=True)])

    asyncio.run(run())


def test_what_several_saw_is_judged_once_and_in_one_place(shared_server: RedisServer) -> None:
    async def scenario(gateways: list[Gateway]) -> None:
        first = gateways[0]
        await first.joint._look()
        for _ in range(8):
            for gateway in gateways:
                await gateway.sees(10, [None])
            await first.joint._step()
        (lowered,) = first.lowered
        assert (lowered.version, lowered.evidence["over"]) == ("2", {"gateways": 3})
        assert not gateways[1].lowered

    on(shared_server, scenario)


@pytest.mark.parametrize("when", ["while it judges", "before it judges"])
def test_a_position_beyond_all_evidence_blinds_nobody(shared_server: RedisServer, when: str) -> None:
    async def scenario(gateways: list[Gateway]) -> None:
        first, second, _ = gateways
        await second.sees(10, [])
        if when == "before it judges":
            shared_server.call(b"HSET {turnout}:lease position 99999999999999-0\r\n")
        await first.joint._look()
        if when == "while it judges":
            first.joint._position = "99999999999999-0"
        assert first.joint._position == "99999999999999-0"
        keeping = asyncio.create_task(first.joint.keep())
        try:
            async with asyncio.timeout(10):
                while first.joint._position != "":
                    await asyncio.sleep(0.02)
                while not first.lowered:
                    for gateway in gateways:
                        await gateway.sees(10, [None])
        finally:
            keeping.cancel()

    on(shared_server, scenario)


def test_one_gateway_alone_is_left_to_its_own_guards(shared_server: RedisServer) -> None:
    async def scenario(gateways: list[Gateway]) -> None:
        first = gateways[0]
        await first.joint._look()
        await first.sees(20, [None] * 20)
        await first.joint._step()
        assert not first.lowered

    on(shared_server, scenario)


def test_failures_of_one_key_in_a_row_are_judged_where_all_are_known(shared_server: RedisServer) -> None:
    async def scenario(gateways: list[Gateway]) -> None:
        first, second, _ = gateways
        await first.joint._look()
        for ago in range(3):
            await first.sees_slots((100 + ago, 2, [7] * 2))
            await second.sees_slots((9_000 + ago, 1, []), (9_001 + ago, 1, []))
        for _ in range(2 * SETTLING):
            await first.joint._step()
        assert not first.lowered, "what the second one was asked was answered"
        await first.sees_slots((108, 5, [7] * 5))
        for _ in range(SETTLING):
            await first.joint._step()
            assert not first.lowered, "others may not have told of it yet"
        await first.joint._step()
        assert [low.reason for low in first.lowered] == [
            "fuse: 5 attempts in a row failed (11 of 17 in all), over 2 gateways"
        ]

    on(shared_server, scenario)


def test_a_run_is_one_though_every_gateway_counts_slots_from_somewhere_else(shared_server: RedisServer) -> None:
    async def scenario(gateways: list[Gateway]) -> None:
        first, second, third = gateways
        await second.joint._look()
        await first.sees_slots((5, 2, [None]))
        await second.sees_slots((70_000, 2, [None]))
        await second.joint._step()
        await second.joint._step()
        await second.joint.leave()
        await third.joint._look()
        await first.sees_slots((5, 0, [None]), (6, 1, []))
        await second.sees_slots((70_000, 0, [None]), (70_001, 1, [None]))
        await third.joint._step()
        assert not third.lowered
        await first.sees_slots((6, 0, [None]))
        await third.joint._step()
        (lowered,) = third.lowered
        assert lowered.reason == "fuse: 6 attempts in a row failed (6 of 6 in all), over 2 gateways"

    on(shared_server, scenario)


def test_evidence_of_a_release_without_slots_is_taken() -> None:
    row = ["credit", "2", 2, False, True, {"errors": [3, [None]], "fuse": [3, [None]]}]
    (count,) = counted(orjson.dumps([row])).counts
    assert (count.deltas["errors"], count.slots) == ((3, [None]), ())
    (count,) = counted(orjson.dumps([[*row, [[5, 1, [7]]], "more"]])).counts
    assert count.slots == ((5, 1, [7]),)


@pytest.mark.parametrize("slots", [[[1, -1, []]], [[1, 1, [[7]]]], [["x", 1, []]], [5], 5, [[1, 1]]])
def test_evidence_that_no_gateway_says_is_left_out(slots: object) -> None:
    row = ["credit", "2", 2, False, True, {"errors": [3, [None]]}, slots]
    assert counted(orjson.dumps([row])).counts == ()


def test_two_hits_of_one_key_are_evidence_whatever_gateway_saw_them(shared_server: RedisServer) -> None:
    async def scenario(gateways: list[Gateway]) -> None:
        first = gateways[0]
        await first.joint._look()
        for _ in range(10):
            for gateway in gateways:
                await gateway.sees(2, [7])
            await first.joint._step()
        assert not first.lowered
        assert first.joint.judge.status("credit")["2"]["evidence"]["errors"]["charged"] == 2

    on(shared_server, scenario)


def test_a_fault_that_stable_shares_over_all_gateways_keeps_the_weights(shared_server: RedisServer) -> None:
    async def scenario(gateways: list[Gateway]) -> None:
        first = gateways[0]
        await first.joint._look()
        for _ in range(8):
            for gateway in gateways:
                await gateway.sees(10, [None], "1")
                await gateway.sees(10, [None])
            await first.joint._step()
        assert not first.lowered
        assert "stable breaks errors too" in first.joint.judge.status("credit")["2"]["alarm"]

    on(shared_server, scenario)


def test_the_next_judge_goes_on_with_odds_counts_and_capped_keys(shared_server: RedisServer) -> None:
    async def scenario(gateways: list[Gateway]) -> None:
        first, second, third = gateways
        await first.joint._look()
        await first.sees(10, [7, None])
        await second.sees(10, [7, None])
        await first.joint._step()
        await first.joint._step()  # keeps what the step before has judged
        await third.sees(10, [7, None])
        await first.joint.leave()
        await second.joint._look()
        assert second.joint.held == Lease(2, "b", 0)
        await second.joint._step()
        known = second.joint.judge.status("credit")["2"]["evidence"]["errors"]
        assert (known["attempts"], known["charged"]) == (30, 5)
        first.joint.held = Lease(1, "a", 0)
        with pytest.raises(LeaseLost):
            await first.joint._step()

    on(shared_server, scenario)


def test_evidence_whose_flush_is_lost_twice_is_judged_once(shared_server: RedisServer) -> None:
    async def scenario() -> None:
        shared_server.flush()
        async with CutProxy(shared_server.port) as proxy:
            store = RedisStore(proxy.url)
            async with opened(store):
                gateway = Gateway("a", store)
                await gateway.joint._look()
                gateway.collector.add(Summed(((PLACE, {"drawn": 5}, {}),)))
                proxy.fault = Fault.DROP_REPLY
                with pytest.raises(StoreUnavailable):
                    await gateway.sees(10, [None])
                await gateway.sees(10, [None])
                assert gateway.collector.repeated == 1
                await gateway.joint._step()
                known = gateway.joint.judge.status("credit")["2"]["evidence"]["errors"]
                assert (known["attempts"], known["charged"]) == (20, 2)
                assert await store.pool.totals([PLACE]) == [{"drawn": 5}]

    asyncio.run(scenario())


def test_news_beyond_the_bound_are_dropped_and_counted(shared_server: RedisServer) -> None:
    async def scenario(gateways: list[Gateway]) -> None:
        collector = gateways[0].collector
        for number in range(WAITING_MAX + 3):
            collector.add(Summed(((f"m{number}", {"drawn": 1}, {}),)))
        collector.add(Summed((("m0", {"drawn": 1}, {"max": 2.5}), ("m0", {"drawn": 1}, {"max": 1.5}))))
        assert collector.dropped == 3
        await collector.flush()
        assert collector.flushed == 1

    on(shared_server, scenario)


def test_a_lease_is_taken_when_its_beat_stands_still_and_all_that_time_was_seen() -> None:
    watch = LeaseWatch("b")
    beat = [Lease(1, "a", number) for number in range(9)]
    assert watch.may_take(None, 0)
    assert watch.may_take(Lease(1, "b", 5), 0)
    assert not watch.may_take(beat[0], 0)
    assert not watch.may_take(beat[1], LEASE_S + 1)
    assert not watch.may_take(beat[1], LEASE_S + 2)
    assert watch.may_take(beat[1], 2 * LEASE_S + 1)
    watch.blinked()
    assert not watch.may_take(beat[1], 99)
    assert watch.may_take(beat[1], 99 + LEASE_S)
