"""Statistics and repository index of real Tritons, added up by version over HTTP and gRPC."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton_http

from gateway.backends.inquiry import ASK_S, NOT_IN_TIME
from tests.gateway_process import GatewayProcess, eventually
from tests.triton_server import TritonServer, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

REQUEST = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}
PATH = "/v2/models/credit/versions/one/stats"


@pytest.fixture(scope="module")
def tritons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, TritonServer]]:
    folder = tmp_path_factory.mktemp("words")
    with (
        TritonServer(folder / "one", "scale", (3,), explicit=True) as one,
        TritonServer(folder / "two", "scale", (3,), explicit=True) as two,
    ):
        yield one, two


@pytest.fixture
def gateway(tmp_path: Path, tritons: tuple[TritonServer, TritonServer]) -> Iterator[GatewayProcess]:
    for triton in tritons:
        assert triton.get("/v2/repository/models/scale/load", body=b"{}")[0] == 200
    urls = [tritons[0].url, tritons[1].grpc_url]
    at = {"kind": "triton", "urls": urls, "model": "scale", "version": "3"}
    route = {
        "model": "credit",
        "stable": "one",
        "variants": [{"version": "one", "weight": 100}],
        "backends": {"one": at},
    }
    with GatewayProcess(tmp_path / "gateway", routes=[route], models=None) as process:
        eventually(lambda: states(process) == ["ready", "ready"], 20)
        yield process


def states(gateway: GatewayProcess) -> list[str]:
    return [each["state"] for each in gateway.arm("credit", "one")["instances"]]


def servers(gateway: GatewayProcess, path: str = PATH) -> Any:
    with gateway.client() as client:
        (entry,) = client.send("GET", path).json()["model_stats"]
        return entry["servers"]


def indexed(gateway: GatewayProcess, body: bytes = b"{}") -> list[Any]:
    with gateway.client() as client:
        found: list[Any] = client.send("POST", "/v2/repository/index", body).json()
        return found


def test_what_both_servers_counted_adds_up_to_what_the_gateway_sent(gateway: GatewayProcess) -> None:
    before = servers(gateway)
    assert (before["instances_asked"], before["instances_answered"]) == (2, 2)
    with gateway.client() as client:
        assert {client.infer("credit", REQUEST).status for _ in range(10)} == {200}
    eventually(lambda: servers(gateway)["inference_count"] == before["inference_count"] + 10)
    for path in (PATH, "/v2/models/credit/stats", "/v2/models/stats"):
        eventually(lambda path=path: servers(gateway, path)["inference_count"] == before["inference_count"] + 10)
    after = servers(gateway)
    each = [one["inference_count"] for one in after["instances"]]
    assert (len(each), sum(each), min(each) > 0) == (2, after["inference_count"], True)
    success = [one["inference_stats"]["success"] for one in (before, after)]
    assert success[1]["count"] - success[0]["count"] == 10
    assert success[1]["ns"] > success[0]["ns"]
    with triton_http.InferenceServerClient(f"127.0.0.1:{gateway.data_port}") as client:
        (entry,) = client.get_inference_statistics("credit", "one")["model_stats"]
        assert entry["inference_count"] == 10, "our own counts stay as they are"
        assert [one["state"] for one in client.get_model_repository_index()] == ["READY"]

    def told() -> bool:
        words = [one.get("server") for one in gateway.arm("credit", "one")["instances"]]
        return all(words) and sum(one["statistics"]["inference_count"] for one in words) == after["inference_count"]

    eventually(told)


def test_a_version_that_one_server_unloads_stays_ready_and_the_server_is_named(
    gateway: GatewayProcess, tritons: tuple[TritonServer, TritonServer]
) -> None:
    assert indexed(gateway) == [{"name": "credit", "version": "one", "state": "READY", "reason": ""}]
    assert tritons[1].get("/v2/repository/models/scale/unload", body=b"{}")[0] == 200
    eventually(lambda: indexed(gateway)[0]["reason"] == "instance 1: UNAVAILABLE, unloaded")
    assert indexed(gateway, b'{"ready":true}')[0]["state"] == "READY"
    assert servers(gateway)["instances_answered"] == 1
    assert tritons[0].get("/v2/repository/models/scale/unload", body=b"{}")[0] == 200
    eventually(lambda: indexed(gateway)[0]["state"] == "UNAVAILABLE")
    assert indexed(gateway, b'{"ready":true}') == []


@pytest.mark.parametrize("silent", [0, 1])
def test_a_server_that_hangs_is_named_and_nobody_waits_for_it(
    gateway: GatewayProcess, tritons: tuple[TritonServer, TritonServer], silent: int
) -> None:
    triton = tritons[silent]
    triton.signal(signal.SIGSTOP)
    try:
        eventually(lambda: servers(gateway)["instances"][silent].get("error") == NOT_IN_TIME)
        eventually(lambda: f"instance {silent}: " in indexed(gateway)[0]["reason"])
        begin_s = time.monotonic()
        told, (entry,) = servers(gateway), indexed(gateway)
        assert time.monotonic() - begin_s < 2 * ASK_S + 2
        assert (told["instances_asked"], told["instances_answered"]) == (2, 1)
        assert entry["state"] == "READY"
        assert "127.0.0.1" not in str((told, entry))
    finally:
        triton.signal(signal.SIGCONT)
    eventually(lambda: servers(gateway)["instances_answered"] == 2)
