"""The editing transaction, on a store in memory."""

import asyncio
import secrets
from collections.abc import Callable

import pytest

from routing.errors import OutcomeUnknown, RolloutRunning, StaleRevision
from routing.store import Draft, HistoryEntry, MemoryStore, Record, write

Build = Callable[[Record | None], Draft | None]


def counted(record: Record | None) -> Draft:
    revision = record.revision + 1 if record else 1
    return Draft(revision, b"v%d" % revision, "put", {"n": revision})


async def change(
    store: MemoryStore, build: Build = counted, *, change_id: str | None = None, retries: int = 0
) -> Record | None:
    return await write(
        store,
        "credit",
        build,
        actor="ada",
        reason="why",
        at=12.5,
        change_id=change_id or secrets.token_hex(16),
        retries=retries,
    )


class Racing(MemoryStore):
    """Somebody else writes just before each of the first ``lost`` writes."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.lost = lost

    async def compare_and_set(self, expected: int, record: Record, entry: HistoryEntry) -> None:
        if self.lost:
            left, self.lost = self.lost - 1, 0
            await change(self)
            self.lost = left
        await super().compare_and_set(expected, record, entry)


def test_who_why_and_when_are_in_the_history() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        await store.open()
        record = await change(store, change_id="a" * 32)
        (entry,) = await store.history("credit")
        assert record == Record("credit", 1, b"v1", entry.sha256) == await store.load("credit")
        assert (entry.actor, entry.reason, entry.at, entry.verb) == ("ada", "why", 12.5, "put")
        assert (entry.change_id, entry.evidence, entry.document) == ("a" * 32, {"n": 1}, b"v1")

    asyncio.run(scenario())


def test_no_change_makes_no_revision() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        await store.open()
        await change(store)
        assert await change(store, lambda record: None) is None
        assert len(await store.history("credit")) == 1

    asyncio.run(scenario())


def test_what_build_raises_passes_through_and_nothing_is_written() -> None:
    def refuse(record: Record | None) -> Draft:
        raise RolloutRunning("credit")

    async def scenario() -> None:
        store = MemoryStore()
        await store.open()
        with pytest.raises(RolloutRunning):
            await change(store, refuse, retries=3)
        assert await store.load("credit") is None

    asyncio.run(scenario())


@pytest.mark.parametrize(("lost", "retries"), [(1, 0), (3, 2)])
def test_one_lost_race_too_many_is_stale(lost: int, retries: int) -> None:
    async def scenario() -> None:
        store = Racing(lost)
        await store.open()
        with pytest.raises(StaleRevision):
            await change(store, change_id="a" * 32, retries=retries)
        assert "a" * 32 not in [e.change_id for e in await store.history("credit")]

    asyncio.run(scenario())


def test_a_lost_race_is_built_again_from_what_won() -> None:
    seen: list[int] = []

    def build(record: Record | None) -> Draft:
        seen.append(record.revision if record else 0)
        return counted(record)

    async def scenario() -> None:
        store = Racing(1)
        await store.open()
        record = await change(store, build, retries=1)
        assert record is not None
        assert (record.revision, seen) == (2, [0, 1])

    asyncio.run(scenario())


def test_the_same_change_id_changes_once_and_answers_alike() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        await store.open()
        first = await change(store, change_id="a" * 32)
        await change(store)
        assert await change(store, change_id="a" * 32) == first
        assert len(await store.history("credit")) == 2

    asyncio.run(scenario())


def test_an_unknown_outcome_is_never_tried_again() -> None:
    calls = 0

    class Gone(MemoryStore):
        async def compare_and_set(self, expected: int, record: Record, entry: HistoryEntry) -> None:
            nonlocal calls
            calls += 1
            raise OutcomeUnknown(record.model)

    async def scenario() -> None:
        store = Gone()
        await store.open()
        with pytest.raises(OutcomeUnknown):
            await change(store, retries=5)
        assert calls == 1

    asyncio.run(scenario())
