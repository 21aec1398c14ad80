"""An older replica beside a newer one, over every store: nothing of the newer one's is lost, its weights are obeyed."""

import asyncio
import json
from typing import Any

from gateway.backends.onnx import OnnxBackend
from gateway.backends.registry import BackendKey, Registry
from gateway.control.messages import Lowered, Refused, StoredDocument, Up
from gateway.control.sync import Sync
from gateway.control.writes import Writes
from gateway.runtime.snapshot import Runtime
from routing.document import SCHEMA
from routing.errors import NewerSchema
from routing.store import Store, verify
from tests.builders import document
from tests.contracts.newer import create, unmarked, write_newer
from tests.contracts.stores import Place, opened
from tests.gateway.admin.plane import Plane
from tests.gateway.control.test_sync import MODELS


def same(plain: Any) -> Any:
    return plain


def shifted(plain: Any) -> Any:
    """Half of the keys for version 2."""
    plain["route"]["variants"] = [{"version": "1", "weight_ppm": 500_000}, {"version": "2", "weight_ppm": 500_000}]
    plain["intervals"]["pieces"] = {"2": [[0, 500_000]]}
    return plain


def latched(plain: Any) -> Any:
    plain["route"]["variants"] = [{"version": "1", "weight_ppm": 1_000_000}, {"version": "2", "weight_ppm": 0}]
    plain["intervals"]["pieces"] = {}
    plain["guard"]["latched"] = {"2": {"at": "", "reason": "by the newer one", "evidence": None}}
    return plain


class Follower:
    """The worker's side of the older replica."""

    def __init__(self) -> None:
        self.said: list[Up] = []
        self.runtime = Runtime()
        self.registry = Registry(self._make)
        self.sync = Sync(self.runtime, self.registry, {}, self.said.append, opaque=False)

    @staticmethod
    def _make(key: BackendKey) -> OnnxBackend:
        return OnnxBackend(MODELS / key.model / key.version / "model.onnx", key.model, key.version)

    async def follow(self, store: Store) -> dict[str, int]:
        """Apply what is stored; weights by version that serve then."""
        record = await store.load("credit")
        assert record is not None
        self.sync.receive(StoredDocument(record.model, record.revision, record.document))
        return {arm.version: arm.weight_ppm for arm in self.runtime.current.routes["credit"].arms}


def test_an_older_replica_s_edits_flips_and_lowers_keep_what_the_newer_one_wrote(place: Place) -> None:
    async def scenario() -> None:
        older, newer = place.client(), place.client()
        async with opened(older, newer):
            await create(older, document())
            await write_newer(newer, same)
            plane = Plane(store=older)
            patched = await plane.ask("PATCH", "/routes/credit", {"on_failure": "pass"}, if_match="2")
            assert patched.status_code == 200, patched.text
            stored = await newer.load("credit")
            assert stored is not None
            assert unmarked(stored.document) == []
            lowered = Lowered("credit", "2", patched.json()["epoch"]["2"], "errors: bad", {"odds": 1e6})
            assert await Writes(older, lambda: 0.0).lower(lowered, "a" * 32) is not None
            stored = await newer.load("credit")
            assert stored is not None
            assert unmarked(stored.document) == ["latch 2"], "the latch is new, all else is as it was"
            await write_newer(newer, same)
            released = await plane.ask("POST", "/routes/credit/release", {"reason": "fixed"})
            assert released.status_code == 200
            stored = await newer.load("credit")
            assert stored is not None
            assert unmarked(stored.document) == []
            assert verify(await newer.history("credit"), head_sha256=stored.head_sha256) is None

    asyncio.run(scenario())


def test_an_older_replica_follows_weights_and_latches_of_a_newer_schema_and_leaves_it_alone(place: Place) -> None:
    async def scenario() -> None:
        older, newer = place.client(), place.client()
        async with opened(older, newer):
            await create(older, document())
            replica = Follower()
            assert await replica.follow(older) == {"1": 950_000, "2": 50_000}
            await write_newer(newer, shifted, SCHEMA + 1)
            assert await replica.follow(older) == {"1": 500_000, "2": 500_000}
            written = await write_newer(newer, latched, SCHEMA + 1)
            assert await replica.follow(older) == {"1": 1_000_000, "2": 0}
            assert [type(said) for said in replica.said[1:]] == [Refused, Refused]
            fresh = Follower()  # one that is started in the middle of the upgrade
            assert await fresh.follow(older) == {"1": 1_000_000, "2": 0}
            plane = Plane(store=older)
            refused = await plane.ask("PATCH", "/routes/credit", {"enforce": False}, if_match="3")
            assert (refused.status_code, refused.json()["code"]) == (409, "newer_schema")
            lowered = Lowered("credit", "2", 1, "errors: bad", {"odds": 1e6})
            try:
                await Writes(older, lambda: 0.0).lower(lowered, "a" * 32)
            except NewerSchema:
                pass
            else:
                raise AssertionError("a document of a newer schema was written by an older release")
            stored = await newer.load("credit")
            assert stored is not None
            assert stored == written
            assert json.loads(stored.document)["schema"] == SCHEMA + 1
            for follower in (replica, fresh):
                await follower.registry.close()

    asyncio.run(scenario())
