"""Replicas that are not alike: a newer release writes beside this one; a version is missing on one of two."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from routing.document import SCHEMA
from routing.store import RedisStore, SqliteStore, Store
from tests.contracts.newer import unmarked, write_newer
from tests.contracts.test_mixed_lives import latched, same, shifted
from tests.faults import FaultBackend
from tests.gateway_process import DEMO, GatewayProcess, corpus, eventually, storm
from tests.integration.test_contract import measured
from tests.redis_server import RedisServer

BODY = corpus("credit")[0]["request"]


def credit(**parts: Any) -> dict[str, Any]:
    variants = [{"version": "1", "weight": 90}, {"version": "2", "weight": 10}]
    sticky = {"by": ["header:x-customer-id"]}
    return {"model": "credit", "stable": "1", "variants": variants, "sticky": sticky, **parts}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        return server.url
    return f"sqlite:///{tmp_path / 'shared.db'}"


def newer(url: str, make: Any, schema: int = SCHEMA) -> int:
    """A newer release changes the route; its revision then."""

    async def scenario() -> int:
        store = client(url)
        await store.open()
        record = await write_newer(store, make, schema)
        await store.close()
        return record.revision

    return asyncio.run(scenario())


def stored(url: str) -> bytes:
    async def scenario() -> bytes:
        store = client(url)
        await store.open()
        record = await store.load("credit")
        await store.close()
        assert record is not None
        return record.document

    return asyncio.run(scenario())


def client(url: str) -> Store:
    return RedisStore(url) if url.startswith("redis") else SqliteStore(url.removeprefix("sqlite:///"))


def answered(replica: GatewayProcess, requests: int = 100) -> dict[str | None, int]:
    """Answers by version; every one of them is good."""
    answers = storm(replica.data_port, lambda c, n: c.infer("credit", BODY, key=f"c{n}"), requests=requests, clients=2)
    assert {answer.status for answer in answers} == {200}
    return {version: sum(a.version == version for a in answers) for version in {a.version for a in answers}}


def revision(replica: GatewayProcess) -> int:
    with replica.client() as connection:
        return int(connection.infer("credit", BODY, key="k").headers["x-turnout-revision"])


def test_a_newer_release_beside_this_one(tmp_path: Path, url: str) -> None:
    with FaultBackend() as canary:
        at = {"kind": "oip", "url": canary.url, "model": "credit", "version": "1"}
        route = credit(backends={"2": at}, slo={"errors": {"max_rate": 0.01}})
        with GatewayProcess(tmp_path / "a", routes=[route], settings={"store": {"url": url}}) as replica:
            eventually(lambda: replica.arm("credit", "2")["state"] == "ready", what="the canary")
            told = newer(url, same)
            eventually(lambda: revision(replica) == told, what="unknown keys served")
            assert replica.edit("credit", {"on_failure": "retry_stable", "enforce": True}).status == 200
            assert replica.edit("credit", {"slo": {"errors": {"max_rate": 0.02}}}).status == 200
            assert unmarked(stored(url)) == []
            # The guard flips in the same document.
            canary.set("error_500")
            answered(replica, 300)
            eventually(lambda: "2" in replica.document("credit")["guard"]["latched"], what="the flip")
            assert unmarked(stored(url)) == ["latch 2"]
            with replica.admin() as admin:
                assert admin.send("POST", "/admin/v1/routes/credit/release", {"reason": "fixed"}).status == 200
            canary.set("ok")
            # A schema that is not known here: weights and latches apply, edits are refused.
            told = newer(url, shifted, SCHEMA + 1)
            eventually(lambda: revision(replica) == told, what="the newer schema followed")
            assert 25 < answered(replica)["2"] < 75
            (warning,) = [said for said in replica.status("credit")["warnings"] if "refused" in said]
            assert f"revision {told} was refused: /schema" in warning
            told = newer(url, latched, SCHEMA + 1)
            eventually(lambda: revision(replica) == told, what="the latch followed")
            assert answered(replica) == {"1": 100}
            with replica.admin() as admin:
                refused = admin.send("PATCH", "/admin/v1/routes/credit", {}, {"if-match": f'"{told}"'})
            assert (refused.status, refused.json()["code"]) == (409, "newer_schema")
            assert unmarked(stored(url)) == []
            eventually(lambda: measured(replica, "credit").get(("refused", "")) == 1, what="the warning in the metrics")
            assert replica.stop() == 0
            replica.start()  # an older replica that starts in the middle of the upgrade
            assert answered(replica) == {"1": 100}


def test_a_version_that_is_missing_on_one_replica_holds_up_nobody(tmp_path: Path, redis: RedisServer) -> None:
    models = tmp_path / "models"
    shutil.copytree(DEMO / "models" / "credit" / "1", models / "credit" / "1")
    settings = {"store": {"url": redis.url}}
    with (
        GatewayProcess(tmp_path / "a", routes=[credit()], settings=settings) as whole,
        GatewayProcess(tmp_path / "b", models=models, settings=settings) as partial,
    ):
        name = partial.overview()["replica"]
        eventually(lambda: set(answered(whole)) == {"1", "2"}, what="both versions where both are")
        assert answered(partial) == {"1": 100}
        assert revision(partial) == 1, "the document is served"

        def of_partial() -> Any:
            replicas = whole.status("credit")["replicas"]
            return next((replica["unready"] for replica in replicas if replica["name"] == name), None)

        unready = eventually(of_partial, what="the other gateway's word")
        assert list(unready) == ["2"]
        assert "there is no model file" in unready["2"]
        with whole.admin() as admin:
            path = "/admin/v1/routes/credit?wait=applied&timeout_ms=10000"
            edited = admin.send("PATCH", path, {"slo": {"errors": {"max_rate": 0.01}}}, {"if-match": '"1"'})
        assert edited.status == 200
        applied = edited.json()["applied"]
        assert applied == {"all": True, "waiting_for": [], "refused_by": [], "unready": {name: unready}}
        (warning,) = [said for said in partial.status("credit")["warnings"] if "'2'" in said]
        assert "is not ready" in warning
        # It comes, and is served there too.
        shutil.copytree(DEMO / "models" / "credit" / "2", models / "credit" / "2")
        assert partial.stop() == 0
        partial.start()
        eventually(lambda: set(answered(partial)) == {"1", "2"}, what="the version there")
