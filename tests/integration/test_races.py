"""Two operators and the guards race on one route, on one real Redis: nothing acknowledged is lost, the flip wins."""

import asyncio
import secrets
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from gateway.control.messages import Lowered
from gateway.control.writes import Writes
from routing.codec import decode
from routing.document import RouteDocument
from routing.errors import StaleRevision
from routing.store import HistoryEntry, RedisStore, verify
from tests.gateway.admin.plane import NOW, ROUTE, Plane
from tests.redis_server import RedisServer

ROUNDS, ROUNDS_MAX = 40, 2000  # edits of each operator; more until there was a race
LOWERS = 6
VERSIONS = ("2", "3")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Race:
    """One route that two admin planes and a guard write at the same time."""

    def __init__(self, url: str) -> None:
        self.stores = [RedisStore(url) for _ in range(3)]
        self.planes = [Plane(store=store) for store in self.stores[:2]]
        self.guard = Writes(self.stores[2], lambda: NOW)
        self.acknowledged: dict[int, tuple[str, Any]] = {}
        self.lowered: list[tuple[str, int]] = []
        self.stale = self.latched = 0
        self.is_over = False

    async def operator(self, index: int) -> None:
        """Edits on what was read a moment before; each edit can be told from every other."""
        plane, random = self.planes[index], Random(index)
        for turn in range(ROUNDS_MAX):
            if turn >= ROUNDS and self.has_raced:
                return
            if turn % 5 == 4:
                body = {"reason": f"{index}/{turn}"} | random.choice(
                    [{}, *({"version": version} for version in VERSIONS)]
                )
                self._note(await plane.ask("POST", "/routes/credit/release", body), None)
                continue
            etag = (await plane.ask("GET", "/routes/credit")).headers["etag"].strip('"')
            if turn % 2:
                await asyncio.sleep(0)
            weights = [random.choice((0, 5, 10)) for _ in VERSIONS]
            shares = zip(("1", *VERSIONS), (100 - sum(weights), *weights), strict=True)
            patch = {
                "variants": [{"version": version, "weight": weight} for version, weight in shares],
                "slo": {"latency": {"p99_ms": 1000 + 100 * turn + index}},
            }
            self._note(await plane.ask("PATCH", "/routes/credit", patch, if_match=etag), patch["slo"])

    @property
    def has_raced(self) -> bool:
        """Whether everybody has lost against somebody."""
        return bool(self.stale and self.latched and len(self.lowered) >= LOWERS)

    def _note(self, answer: Any, wanted: Any) -> None:
        if answer.status_code == 412:
            self.stale += 1
        elif answer.status_code == 409:
            assert answer.json()["code"] == "latched"
            self.latched += 1
        else:
            assert answer.status_code == 200, answer.text
            told = answer.json()["revision"], (answer.json()["change_id"], wanted)
            if wanted is None:  # a release that found nothing to release tells of another's revision
                self.acknowledged.setdefault(*told)
            else:
                self.acknowledged[told[0]] = told[1]

    async def guards(self) -> None:
        """Trip on whatever serves, as often as there is something to trip on."""
        random = Random(7)
        while not self.is_over:
            record = await self.stores[2].load("credit")
            assert record is not None
            document = decode(record.document)
            assert isinstance(document, RouteDocument)
            version = random.choice(VERSIONS)
            epoch = document.epoch[version]
            await asyncio.sleep(random.random() * 0.004)  # the document may be another one by now
            lowered = Lowered("credit", version, epoch, "errors: a test", {"odds": 1e6})
            try:
                written = await self.guard.lower(lowered, secrets.token_hex(16))
            except StaleRevision:
                continue  # the supervisor would try again
            if written is not None:
                self.lowered.append((version, written.revision))

    async def run(self) -> list[HistoryEntry]:
        for store in self.stores:
            await store.open()
        variants = [{"version": version, "weight": weight} for version, weight in (("1", 90), ("2", 5), ("3", 5))]
        created = await self.planes[0].ask("PUT", "/routes/credit", ROUTE | {"variants": variants}, if_none_match="*")
        assert created.status_code == 201
        guards = asyncio.create_task(self.guards())
        await asyncio.gather(self.operator(0), self.operator(1))
        self.is_over = True
        await guards
        entries = await self.stores[0].history("credit")
        record = await self.stores[0].load("credit")
        assert record is not None
        assert verify(entries, head_sha256=record.head_sha256) is None
        for store in self.stores:
            await store.close()
        return list(entries)


def test_two_operators_and_a_guard_lose_nothing_and_raise_nothing_that_is_latched(redis: RedisServer) -> None:
    race = Race(redis.url)
    entries = asyncio.run(race.run())
    documents = [decode(entry.document) for entry in entries]
    assert [entry.revision for entry in entries] == list(range(1, len(entries) + 1))
    by_revision = {entry.revision: (entry, document) for entry, document in zip(entries, documents, strict=True)}
    # Every acknowledged write is there, as it was acknowledged, and nobody wrote over it unseen.
    for revision, (change_id, wanted) in race.acknowledged.items():
        entry, document = by_revision[revision]
        assert isinstance(document, RouteDocument)
        if entry.verb == "patch":
            assert entry.change_id == change_id
            assert document.route.slo is not None
            assert document.route.slo.latency is not None
            assert document.route.slo.latency.p99_ms == wanted["latency"]["p99_ms"]
    written = [entry for entry in entries if entry.verb == "patch"]
    assert {entry.revision for entry in written} <= race.acknowledged.keys()
    # The flip wins: its version is latched without weight from then on, until a person releases it.
    assert [entry.revision for entry in entries if entry.verb == "lower"] == sorted(r for _, r in race.lowered)
    for version, revision in race.lowered:
        for entry, document in list(by_revision.values())[revision - 1 :]:
            assert isinstance(document, RouteDocument)
            if version not in document.guard.latched:
                assert entry.verb == "release"
                break
            assert document.route.weights()[version] == 0
    for document in documents:
        assert isinstance(document, RouteDocument)
        assert not any(document.route.weights()[version] for version in document.guard.latched)
    assert race.has_raced
