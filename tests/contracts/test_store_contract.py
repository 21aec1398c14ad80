"""What every store promises, held against each of them; Redis is a real server."""

import asyncio
import secrets
import time
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routing.errors import PositionLost, StaleRevision, StoreUnavailable
from routing.store import verify, write
from tests.contracts.stores import Place, ids, increment, opened, put, step, take

LATENCY_P99_S = 0.050


def test_a_new_store_is_empty(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            assert store.kind == place.kind
            assert await store.load("credit") is None
            assert list(await store.list()) == []
            assert list(await store.history("credit")) == []
            assert len(bytes.fromhex(store.store_id)) == 16
            assert await store.ping() == store.store_id

    asyncio.run(scenario())


def test_a_change_is_stored_with_its_history(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            expected, first, first_entry = step(document=b"one")
            await store.compare_and_set(expected, first, first_entry)
            expected, second, second_entry = step(first, document=b"two")
            await store.compare_and_set(expected, second, second_entry)
            other = await put(store, "a-model", b"three")
            assert await store.load("credit") == second
            assert list(await store.list()) == [other, second]
            assert list(await store.history("credit")) == [first_entry, second_entry]
            assert list(await store.history("credit", limit=1)) == [second_entry]
            assert list(await store.history("credit", limit=0)) == []
            assert verify(await store.history("credit"), head_sha256=second.head_sha256) is None

    asyncio.run(scenario())


def test_a_stale_change_names_the_revision_to_read_and_changes_nothing(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            with pytest.raises(StaleRevision) as ahead:
                await store.compare_and_set(*step((await _two(store))[0], document=b"late"))
            assert (ahead.value.expected, ahead.value.current) == (1, 2)
            before = await store.position()
            with pytest.raises(StaleRevision) as created:
                await store.compare_and_set(*step(document=b"again"))
            assert (created.value.expected, created.value.current) == (0, 2)
            _, record, entry = step(model="unknown", revision=4)
            with pytest.raises(StaleRevision) as missing:
                await store.compare_and_set(3, record, entry)
            assert (missing.value.expected, missing.value.current) == (3, 0)
            assert await store.position() == before
            assert [e.document for e in await store.history("credit")] == [b"one", b"two"]

    async def _two(store):  # type: ignore[no-untyped-def]
        return await put(store, "credit", b"one"), await put(store, "credit", b"two")

    asyncio.run(scenario())


def test_a_record_and_an_entry_that_disagree_are_refused(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            _, record, _ = step(document=b"one")
            _, _, entry = step(document=b"two")
            with pytest.raises(ValueError, match="differ"):
                await store.compare_and_set(0, record, entry)
            _, record, entry = step(document=b"one")
            with pytest.raises(ValueError, match="follow"):
                await store.compare_and_set(1, record, entry)
            assert await store.load("credit") is None

    asyncio.run(scenario())


def test_a_route_may_start_above_revision_one(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            expected, record, entry = step(revision=57, document=b"from a replica's disk")
            await store.compare_and_set(expected, record, entry)
            assert await put(store, "credit", b"next") == await store.load("credit")
            assert [e.revision for e in await store.history("credit")] == [57, 58]
            assert verify(await store.history("credit")) is None

    asyncio.run(scenario())


def test_of_two_who_create_the_same_route_exactly_one_wins(place: Place) -> None:
    async def scenario() -> None:
        one, two = place.client(), place.client()
        async with opened(one, two):
            for number in range(20):
                steps = [step(model=f"m{number}", document=who) for who in (b"one", b"two")]
                results = await asyncio.gather(
                    one.compare_and_set(*steps[0]), two.compare_and_set(*steps[1]), return_exceptions=True
                )
                assert sorted(type(r).__name__ for r in results) == ["NoneType", "StaleRevision"]
                winner = steps[results.index(None)][1]
                assert await one.load(f"m{number}") == await two.load(f"m{number}") == winner

    asyncio.run(scenario())


def test_200_concurrent_increments_are_all_counted(place: Place) -> None:
    async def scenario() -> None:
        stores, change_id = (place.client(), place.client()), ids()
        async with opened(*stores):

            async def ten(store) -> None:  # type: ignore[no-untyped-def]
                for _ in range(10):
                    await write(
                        store, "credit", increment, actor="a", reason="r", at=1.0, change_id=change_id(), retries=500
                    )

            await asyncio.gather(*(ten(stores[n % 2]) for n in range(20)))
            record, history = await stores[0].load("credit"), await stores[1].history("credit")
            assert record is not None
            assert (record.revision, record.document) == (200, b"200")
            assert [e.revision for e in history] == list(range(1, 201))
            assert len({e.change_id for e in history}) == 200
            assert verify(history, head_sha256=record.head_sha256) is None

    asyncio.run(scenario())


def test_the_same_change_sent_twice_happens_once(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            change = step(document=b"one")
            await store.compare_and_set(*change)
            await store.compare_and_set(*change)
            await put(store, "credit", b"two")
            await store.compare_and_set(*change)
            assert [e.document for e in await store.history("credit")] == [b"one", b"two"]

    asyncio.run(scenario())


def test_a_watch_tells_every_change_in_order_and_resumes_anywhere(place: Place) -> None:
    async def scenario() -> None:
        writer, reader = place.client(), place.client()
        async with opened(writer, reader):
            start = await reader.position()
            for number in range(12):
                await put(writer, f"m{number % 3}", b"%d" % number)
            async with aclosing(reader.watch(start)) as changes:
                seen = await take(changes, 12)
                assert [(c.model, c.revision) for c in seen] == [(f"m{n % 3}", n // 3 + 1) for n in range(12)]
                assert seen[-1].position == await writer.position()
                await put(writer, "later", b"")
                assert [c.model for c in await take(changes, 1)] == ["later"]
            for index in (0, 5, 10):
                async with aclosing(reader.watch(seen[index].position)) as changes:
                    assert await take(changes, 11 - index) == seen[index + 1 :]

    asyncio.run(scenario())


def test_a_watch_hears_another_client_soon(place: Place) -> None:
    async def scenario() -> list[float]:
        writer, reader = place.client(), place.client()
        delays = []
        async with opened(writer, reader), aclosing(reader.watch(await reader.position())) as changes:
            heard = asyncio.create_task(take(changes, 1))
            for number in range(100):
                await asyncio.sleep(0)  # let the watch get to where it waits
                await put(writer, f"m{number % 5}", b"")
                stored = time.perf_counter()
                await heard
                delays.append(time.perf_counter() - stored)
                heard = asyncio.create_task(take(changes, 1))
            heard.cancel()
            await asyncio.gather(heard, return_exceptions=True)
        return sorted(delays)

    # A machine that is busy with something else may spoil a round; a store that is slow spoils all.
    for _ in range(3):
        delays = asyncio.run(scenario())
        if delays[98] < LATENCY_P99_S:
            return
    pytest.fail(f"p50 {delays[50] * 1e3:.1f} ms, p99 {delays[98] * 1e3:.1f} ms")


def test_an_unknown_position_is_lost(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            await put(store, "credit", b"")
            ours, _, number = (await store.position()).partition(":")
            for wrong in ("", "nonsense", f"{ours}:", f"{ours}:-1", f"{ours}:{int(number) + 1}", f"{'0' * 32}:0"):
                with pytest.raises(PositionLost):
                    await take(store.watch(wrong), 1)

    asyncio.run(scenario())


def test_closing_ends_a_watch_and_refuses_calls(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            async with aclosing(store.watch(await store.position())) as changes:
                waiting = asyncio.create_task(take(changes, 1))
                await asyncio.sleep(0.05)
                await store.close()
                with pytest.raises(StoreUnavailable):
                    await waiting
            for call in (store.load("m"), store.list(), store.position(), store.ping(), store.history("m")):
                with pytest.raises(StoreUnavailable):
                    await call
            with pytest.raises(StoreUnavailable):
                await store.compare_and_set(*step())
            await store.close()
            await store.open()
            assert await store.load("m") is None

    asyncio.run(scenario())


def test_what_was_stored_is_there_after_reopening(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            position, record, known = await store.position(), await put(store, "credit", b"kept"), store.store_id
        store = place.client()
        async with opened(store):
            assert store.store_id == known
            assert await store.load("credit") == record
            assert verify(await store.history("credit"), head_sha256=record.head_sha256) is None
            async with aclosing(store.watch(position)) as changes:
                assert [c.model for c in await take(changes, 1)] == ["credit"]

    asyncio.run(scenario())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(st.binary(max_size=200), min_size=1, max_size=4),
    model=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_documents_are_opaque_bytes(place: Place, documents: list[bytes], model: str) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            name = f"{secrets.token_hex(4)}{model}"
            for document in [*documents, b"\0\xff\n 1 2\n\xc3\x28"]:
                record = await put(store, name, document)
                assert await store.load(name) == record
            history = await store.history(name)
            assert [e.document for e in history[:-1]] == documents
            assert verify(history, head_sha256=record.head_sha256) is None

    asyncio.run(scenario())


def test_history_is_read_up_to_a_revision(place: Place) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            for number in range(6):
                await put(store, "credit", b"%d" % number)
            read = [e.revision for e in await store.history("credit", until=4, limit=2)]
            assert read == [3, 4]
            assert [e.revision for e in await store.history("credit", until=99)] == [1, 2, 3, 4, 5, 6]
            assert list(await store.history("credit", until=0)) == []

    asyncio.run(scenario())


def test_a_presence_is_seen_by_all_until_its_time_is_over_or_it_is_taken_away(place: Place) -> None:
    async def scenario() -> None:
        one, two = place.client(), place.client()
        async with opened(one, two):
            before = await one.position()
            assert await one.presences() == {}
            said = b'{"applied": 1}\n\x00\xff 12 more'
            await one.put_presence("a", said, 60)
            await two.put_presence("b", b"b", 60)
            await two.put_presence("brief", b"", 0.02)
            await asyncio.sleep(0.03)
            assert await one.presences() == await two.presences() == {"a": said, "b": b"b"}
            await one.put_presence("b", b"again", 60)
            await one.put_presence("a", b"", 0)
            await one.put_presence("never", b"", 0)
            assert await two.presences() == {"b": b"again"}
            await one.put_presence("b", b"shorter", 0.02)
            await asyncio.sleep(0.03)
            assert await two.presences() == {}
            assert await one.position() == before, "it is no change"
            assert list(await one.list()) == []
        for call in (one.presences(), one.put_presence("a", b"", 1)):
            with pytest.raises(StoreUnavailable):
                await call

    asyncio.run(scenario())


@pytest.mark.parametrize("garbage", [b"", b"no entry", b'{"model": 1}\n{}', b"\xff\n"])
def test_a_broken_row_is_an_entry_that_verifying_names(place: Place, garbage: bytes) -> None:
    async def scenario() -> None:
        store = place.client()
        async with opened(store):
            for number in range(3):
                await put(store, "credit", b"%d" % number)
            record = await store.load("credit")
            assert record is not None
            place.break_history("credit", 2, garbage)
            entries = await store.history("credit")
            assert [(e.revision, e.verb) for e in entries] == [(1, "put"), (2, "unreadable"), (3, "put")]
            assert verify(entries, head_sha256=record.head_sha256) == 2
            assert await put(store, "credit", b"goes on") == await store.load("credit")

    asyncio.run(scenario())
