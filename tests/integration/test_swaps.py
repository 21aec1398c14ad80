"""Edits that replace what serves stable, on a real gateway under load: no client sees them."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.faults import FaultBackend
from tests.gateway_process import Answered, Client, GatewayProcess, corpus, eventually

ROW = corpus("credit")[0]
CLIENTS = 4
MODEL = "credit"


class Load:
    """Clients that ask without a pause, one in eight for version 1 by name; keeps what went wrong."""

    def __init__(self, port: int, model: str = MODEL) -> None:
        self._port, self._model = port, model
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        self.seen: Counter[tuple[int, str | None, str | None]] = Counter()
        self.scores: set[float] = set()
        self.wrong: list[Any] = []

    def _ask(self) -> None:
        number = 0
        try:
            with Client(self._port) as client:
                while not self._is_over.is_set():
                    number += 1
                    answer = client.infer(self._model, ROW["request"], version="1" if number % 8 == 0 else None)
                    self.seen[answer.status, answer.version, answer.role] += 1
                    if answer.status == 200:
                        self.scores.add(round(answer.json()["outputs"][1]["data"][0], 4))
                    else:
                        self.wrong.append(answer.body)
        except OSError as error:
            self.wrong.append(error)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        eventually(lambda: sum(self.seen.values()) > CLIENTS * 20, what="load")
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, answers: int = 200) -> None:
        """Wait until that many more have come."""
        before = sum(self.seen.values())
        eventually(lambda: sum(self.seen.values()) >= before + answers, what="more answers")


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    settings = {"store": {"url": "memory:"}, "server": {"workers": request.param}}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings=settings) as process:
        yield process


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[FaultBackend, FaultBackend]]:
    with FaultBackend() as first, FaultBackend() as second:
        yield first, second


@pytest.fixture(autouse=True)
def no_route(gateway: GatewayProcess, servers: tuple[FaultBackend, FaultBackend]) -> Iterator[None]:
    yield
    servers[1].set("ok")
    with gateway.admin() as admin:
        etag = admin.send("GET", f"/admin/v1/routes/{MODEL}").headers["etag"]
        assert admin.send("DELETE", f"/admin/v1/routes/{MODEL}", None, {"if-match": etag}).status == 200


def put(gateway: GatewayProcess, query: str = "", stable: str = "1", **backends: Mapping[str, Any]) -> Answered:
    """Store the route; backends by version, as ``v1``."""
    route = {"stable": stable, "variants": [{"version": stable, "weight": 100}]}
    route["backends"] = {name[1:]: spec for name, spec in backends.items()}
    with gateway.admin() as admin:
        etag = admin.send("GET", f"/admin/v1/routes/{MODEL}").headers.get("etag")
        based_on = {"if-match": etag} if etag else {"if-none-match": "*"}
        return admin.send("PUT", f"/admin/v1/routes/{MODEL}{query}", route, based_on)


def ready(gateway: GatewayProcess, **backends: Mapping[str, Any]) -> None:
    """Make the route; what it names is ready."""
    assert put(gateway, "?wait=applied", **backends).status == 201
    eventually(lambda: gateway.arm(MODEL, "1")["state"] == "ready", what="stable to be ready")


def oip(*servers: FaultBackend, kind: str = "oip") -> dict[str, Any]:
    return {"kind": kind, "model": "credit", "version": "1", "urls": [server.url for server in servers]}


def is_in_force(answer: Answered) -> bool:
    assert answer.status == 200, answer.body
    found: bool = answer.json()["applied"]["all"]
    return found


def applied(status: Mapping[str, Any]) -> int:
    """The revision that the gateway says it serves."""
    found: int = status["replicas"][0]["applied_revision"]
    return found


def test_other_threads_and_batching_of_stable_in_process(gateway: GatewayProcess) -> None:
    ready(gateway)
    with Load(gateway.data_port) as load:
        for spec in ({"threads": 2}, {"batching": "off"}, {"threads": 3, "batching": "off"}, {"threads": 4}):
            assert is_in_force(put(gateway, "?wait=applied", v1={"kind": "onnx", **spec}))
            load.goes_on(50)
    assert load.wrong == []
    assert len(load.scores) == 1


def test_other_servers_kinds_and_places_of_stable(
    gateway: GatewayProcess, servers: tuple[FaultBackend, FaultBackend]
) -> None:
    first, second = servers
    places = (oip(first, second), oip(second, first), oip(second), oip(second, kind="triton"))
    ready(gateway, v1=oip(first))
    with Load(gateway.data_port) as load:
        for spec in places:
            assert is_in_force(put(gateway, "?wait=applied", v1=spec))
            load.goes_on(50)
        eventually(lambda: first.counts()["connections"] == 0, what="the first server to be left")
        for spec in ({"kind": "onnx"}, oip(first)):
            assert is_in_force(put(gateway, "?wait=applied&override=contract&reason=test", v1=spec))
            load.goes_on(50)
    assert load.wrong == []


def test_a_server_that_is_not_ready_leaves_stable_where_it_was(
    gateway: GatewayProcess, servers: tuple[FaultBackend, FaultBackend]
) -> None:
    first, second = servers
    ready(gateway, v1=oip(first))
    second.set("not_ready")
    with Load(gateway.data_port) as load:
        answer = put(gateway, "?wait=applied&timeout_ms=300&override=contract&reason=test", v1=oip(second))
        assert not is_in_force(answer)
        revision = answer.json()["revision"]
        load.goes_on()
        status = gateway.status(MODEL)
        assert (status["revision"], applied(status)) == (revision, revision - 1)
        assert [v["state"] for v in status["variants"]] != ["ready"]
        assert len(status["warnings"]) == 1
        assert "until it is, the backend that it had before goes on" in status["warnings"][0]
        second.set("ok")
        eventually(lambda: applied(gateway.status(MODEL)) == revision, what="the new server")
        assert gateway.status(MODEL)["warnings"] == []
        asked = second.counts()["requests"]
        load.goes_on()
        assert second.counts()["requests"] > asked
        eventually(lambda: first.counts()["connections"] == 0, what="the first server to be left")
    assert load.wrong == []


def test_a_server_that_hangs_is_dropped_by_the_next_edit(
    gateway: GatewayProcess, servers: tuple[FaultBackend, FaultBackend]
) -> None:
    first, second = servers
    ready(gateway, v1=oip(first))
    second.pause()
    try:
        with Load(gateway.data_port) as load:
            put(gateway, "?override=contract&reason=test", v1=oip(second))
            load.goes_on()
            begin = time.monotonic()
            assert is_in_force(put(gateway, "?wait=applied&override=contract&reason=test", v1=oip(first)))
            assert time.monotonic() - begin < 5, "nothing has to be waited for"
            load.goes_on()
    finally:
        second.resume()
    assert load.wrong == []
    assert gateway.status(MODEL)["warnings"] == []


def test_a_version_that_is_not_there_yet_becomes_stable_when_it_is(
    gateway: GatewayProcess, servers: tuple[FaultBackend, FaultBackend]
) -> None:
    first, second = servers
    ready(gateway, v1=oip(first))
    second.set("not_ready")
    with Load(gateway.data_port) as load:
        wanted = {"v1": oip(first), "v2": oip(second)}
        answer = put_both(gateway, **wanted)
        assert not is_in_force(answer)
        load.goes_on()
        assert {version for _, version, _ in load.seen} == {"1"}
        assert any("version '1', stable before, goes on" in said for said in gateway.status(MODEL)["warnings"])
        second.set("ok")
        eventually(lambda: load.seen[200, "2", "stable"] > 50, what="version 2 to answer")
        eventually(lambda: applied(gateway.status(MODEL)) == answer.json()["revision"], what="the revision")
    assert load.wrong == []


def put_both(gateway: GatewayProcess, **backends: Mapping[str, Any]) -> Answered:
    """Make version 2 stable at once; version 1 stays for those who name it."""
    variants = [{"version": "2", "weight": 100}, {"version": "1", "weight": 0}]
    patch = {"stable": "2", "variants": variants, "backends": {name[1:]: spec for name, spec in backends.items()}}
    query = "?wait=applied&timeout_ms=300&override=contract&reason=test"
    with gateway.admin() as admin:
        etag = admin.send("GET", f"/admin/v1/routes/{MODEL}").headers["etag"]
        return admin.send("PATCH", f"/admin/v1/routes/{MODEL}{query}", patch, {"if-match": etag})
