"""What somebody else writes into keys that gateways share in Redis: skipped or taken away, told of, never fatal."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from gateway.control.joint import JointJudge
from gateway.control.kept import state_in
from routing.store import EvidenceLost, Flush, Judged, RedisStore, Sums
from tests.contracts.stores import opened
from tests.redis_server import RedisServer

Scenario = Callable[[RedisStore], Awaitable[None]]
PLACE = "credit:version:2:7"
NEWS = Flush("a", 1, b"[]", (Sums(PLACE, {"drawn": 3, "seconds": 0.5}, {"max": 2.5}),))
LAST_ID = "18446744073709551615-18446744073709551615"
SIDE = ("presence", "lease", "judged", "evidence", f"totals:{PLACE}")


def on_a_store(server: RedisServer, scenario: Scenario) -> None:
    async def run() -> None:
        server.flush()
        store = RedisStore(server.url)
        async with opened(store):
            await scenario(store)

    asyncio.run(run())


def write(server: RedisServer, *words: str) -> None:
    parts = [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words]
    answer = server.call(b"*%d\r\n" % len(parts) + b"".join(parts))
    assert not answer.startswith(b"-"), answer


async def everything(store: RedisStore) -> None:
    """Each call that meets the keys."""
    assert await store.pool.flush(NEWS)
    assert await store.pool.totals([PLACE]) == [{"drawn": 3, "seconds": 0.5, "max": 2.5}]
    held = await store.pool.take("a", await store.pool.lease())
    assert held.holder == "a"
    assert [entry.evidence for entry in await store.pool.beat(held, "", Judged("1-1", {"credit": b"{}"}))] == [b"[]"]
    assert await store.pool.states(["credit"]) == {"credit": b"{}"}
    assert await store.pool.judged() == Judged("1-1", {"credit": b"{}"})
    await store.put_presence("a", b"{}", 60)
    assert set(await store.words()) == {"a"}


@pytest.mark.parametrize("kind", ["SET", "LPUSH"])
def test_keys_of_another_type_are_taken_away_and_told_of_once(
    shared_server: RedisServer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async def scenario(store: RedisStore) -> None:
        for name in SIDE:
            write(shared_server, kind, f"{{turnout}}:{name}", "junk")
        write(shared_server, "HSET", "{turnout}:flushed:a", "junk", "junk")
        await everything(store)
        told = [record for record in caplog.records if record.message == "the store holds what no gateway wrote"]
        assert len(told) == store.junk.found == len(SIDE) + 1

    with caplog.at_level(logging.WARNING):
        on_a_store(shared_server, scenario)


@pytest.mark.parametrize("read", ["words", "lease", "states", "judged", "totals"])
def test_what_only_reads_meets_a_key_of_another_type(shared_server: RedisServer, read: str) -> None:
    async def scenario(store: RedisStore) -> None:
        for name in SIDE:
            write(shared_server, "SET", f"{{turnout}}:{name}", "junk")
        pool = store.pool
        found = {
            "words": store.words,
            "lease": pool.lease,
            "states": lambda: pool.states(["credit"]),
            "judged": pool.judged,
            "totals": lambda: pool.totals([PLACE]),
        }[read]
        assert await found() in ({}, None, Judged(""), [{}])

    on_a_store(shared_server, scenario)


def test_documents_of_another_type_are_never_taken_away(shared_server: RedisServer) -> None:
    async def scenario(store: RedisStore) -> None:
        write(shared_server, "SET", "{turnout}:presence", "junk")
        write(shared_server, "SET", "{turnout}:history:credit", "not ours to delete")
        assert await store.words() == {}
        assert b"not ours to delete" in shared_server.call(b"GET {turnout}:history:credit\r\n")

    on_a_store(shared_server, scenario)


def test_broken_values_are_skipped_and_begin_anew(shared_server: RedisServer) -> None:
    async def scenario(store: RedisStore) -> None:
        totals = f"{{turnout}}:totals:{PLACE}"
        write(shared_server, "HSET", totals, "drawn", "many", "seconds", "long", "max", "?", "other", "nan")
        assert await store.pool.totals([PLACE]) == [{}]
        assert store.junk.found == 4
        write(shared_server, "SET", "{turnout}:flushed:a", "soon")
        write(shared_server, "XADD", "{turnout}:evidence", "*", "who", "knows")
        write(shared_server, "HSET", "{turnout}:lease", "holder", "b", "fence", "sharp", "beat", "slow")
        write(shared_server, "HSET", "{turnout}:presence", "x", "junk", "y", "9999999999999999999999 {}", "z", "")
        assert await store.pool.flush(NEWS)
        assert await store.pool.totals([PLACE]) == [{"drawn": 3, "seconds": 0.5, "max": 2.5}]
        assert await store.pool.lease() is None
        held = await store.pool.take("a", None)
        assert (held.holder, held.fence > 1_600_000_000) == ("a", True), "beyond any fence that was there"
        write(shared_server, "HSET", "{turnout}:lease", "beat", "fast", "position", "everywhere")
        read = await store.pool.beat(held, "", Judged(""))
        assert [(entry.replica, entry.evidence) for entry in read] == [("", b"[]"), ("a", b"[]")]
        assert await store.pool.judged() == Judged("")
        await store.put_presence("a", b"{}", 60)
        assert set(await store.words()) == {"a"}

    on_a_store(shared_server, scenario)


@pytest.mark.parametrize("junk", ["9223372036854775807", "-3", "2.5", "many", "", "nan", "inf", "1e400", " 7"])
def test_a_sum_that_is_none_begins_anew_with_the_next_count(shared_server: RedisServer, junk: str) -> None:
    async def scenario(store: RedisStore) -> None:
        totals = f"{{turnout}}:totals:{PLACE}"
        write(shared_server, "HSET", totals, "drawn", junk)
        for number in (1, 2):
            added = Sums(PLACE, {"drawn": 3})
            assert await store.pool.flush(Flush("a", number, b"", (added,)))
            assert await store.pool.totals([PLACE]) == [{"drawn": 3 * number}]
        assert store.junk.found == 1

    on_a_store(shared_server, scenario)


def test_sums_of_differences_may_be_huge_and_are_never_more_than_a_number_holds(shared_server: RedisServer) -> None:
    async def scenario(store: RedisStore) -> None:
        for number in range(1, 4):
            assert await store.pool.flush(Flush("a", number, b"", (Sums(PLACE, {"sum_abs": 1e20}, {"max_abs": 1e20}),)))
        assert await store.pool.totals([PLACE]) == [{"sum_abs": pytest.approx(3e20), "max_abs": 1e20}]
        for number in range(4, 7):
            assert await store.pool.flush(Flush("a", number, b"", (Sums(PLACE, {"sum_abs": 1.7e308}),)))
        assert store.junk.found == 2
        assert (await store.pool.totals([PLACE]))[0]["sum_abs"] == pytest.approx(1.7e308)

    on_a_store(shared_server, scenario)


def test_a_stream_without_a_further_id_begins_anew_with_the_next_flush(shared_server: RedisServer) -> None:
    async def scenario(store: RedisStore) -> None:
        held = await store.pool.take("a", None)
        write(shared_server, "XADD", "{turnout}:evidence", LAST_ID, "replica", "ghost", "data", "x")
        for number in (1, 2):
            assert await store.pool.flush(Flush("a", number, b"[%d]" % number))
        assert not await store.pool.flush(Flush("a", 2, b"[2]")), "a flush counts once"
        assert [entry.evidence for entry in await store.pool.beat(held, "", Judged(""))] == [b"[1]", b"[2]"]
        assert store.junk.found == 1

    on_a_store(shared_server, scenario)


def test_the_judge_notices_a_stream_without_a_further_id_and_reads_what_was_unread(shared_server: RedisServer) -> None:
    async def scenario(store: RedisStore) -> None:
        held = await store.pool.take("a", None)
        assert await store.pool.flush(Flush("a", 1, b"[1]"))
        write(shared_server, "XADD", "{turnout}:evidence", LAST_ID, "replica", "ghost", "data", "x")
        (entry,) = await store.pool.beat(held, "", Judged(""))
        assert entry.evidence == b"[1]"
        assert await store.pool.beat(held, entry.position, Judged(entry.position)) == []
        assert await store.pool.flush(Flush("a", 2, b"[2]"))
        assert [e.evidence for e in await store.pool.beat(held, entry.position, Judged(entry.position))] == [b"[2]"]
        assert store.junk.found == 1

    on_a_store(shared_server, scenario)


@pytest.mark.parametrize(
    "position", ["99999999999999-0", "99999999999999999999-7", LAST_ID, "1-99999999999999999999999"]
)
@pytest.mark.parametrize("has_stream", [True, False])
def test_a_position_beyond_all_evidence_is_begun_anew_and_nothing_read_twice(
    shared_server: RedisServer, position: str, has_stream: bool
) -> None:
    async def scenario(store: RedisStore) -> None:
        held = await store.pool.take("a", None)
        if has_stream:
            assert await store.pool.flush(Flush("a", 1, b"[1]"))
        with pytest.raises(EvidenceLost):
            await store.pool.beat(held, position, Judged(position))
        assert await store.pool.judged() == Judged("")
        assert await store.pool.beat(held, "", Judged("")) == []
        assert await store.pool.flush(Flush("a", 2, b"[2]"))
        assert [entry.evidence for entry in await store.pool.beat(held, "", Judged(""))] == [b"[2]"]
        assert store.junk.found == 1

    on_a_store(shared_server, scenario)


@pytest.mark.parametrize("junk", ["not JSON", "[]", '{"2": 7}', '{"2": {"alarm": 7}}', "\x00"])
def test_what_was_judged_is_believed_only_in_the_shape_of_ours(shared_server: RedisServer, junk: str) -> None:
    async def scenario(store: RedisStore) -> None:
        assert state_in("credit", junk.encode(), store.junk) is None
        write(shared_server, "HSET", "{turnout}:judged", "credit", junk)
        judge = JointJudge(store.pool, "a", lambda _: None)
        task = asyncio.create_task(judge.keep())
        try:
            async with asyncio.timeout(5):
                while (await store.pool.judged()).states:  # whoever begins to judge takes it away
                    await asyncio.sleep(0.02)
            assert judge.held is not None
            assert judge.changes == 1
        finally:
            task.cancel()

    on_a_store(shared_server, scenario)
