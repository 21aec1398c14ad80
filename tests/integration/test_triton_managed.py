"""Models on a real Triton that the gateway loads and unloads."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import GatewayProcess, eventually
from tests.triton_server import TritonServer, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

LEAVING = {"scale": "loaded", "other": "leaving"}
ROW = [1.0, 2.0, 3.0, 4.0]


def request(first: float = 1.0) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [first, *ROW[1:]]}]}


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with TritonServer(tmp_path_factory.mktemp("managed") / "triton", "scale", (3,), explicit=True) as server:
        server.add_model("other", (4,))
        server.add_model("broken", (5,), text="raise RuntimeError('no such weights')")
        yield server


def states(triton: TritonServer) -> dict[str, str]:
    return {one["name"]: one.get("state", "") for one in triton.index()}


def route(**backends: dict[str, Any]) -> dict[str, Any]:
    stable, *others = backends
    variants = [{"version": stable, "weight": 100}, *({"version": version, "weight": 0} for version in others)]
    return {"model": "credit", "stable": stable, "variants": variants, "backends": backends}


def test_what_the_table_names_is_loaded_and_what_it_does_not_name_goes_when_its_last_request_has_left(
    tmp_path: Path, triton: TritonServer
) -> None:
    at = {"kind": "triton", "manage": True}
    one = {**at, "url": triton.grpc_url, "model": "scale", "version": "3"}
    both = route(one=one, two={**at, "url": triton.url, "model": "other", "version": "4"})
    settings = {"backends": {"unload_after_s": 0.2}, "server": {"workers": 2}}
    with GatewayProcess(tmp_path / "g", routes=[both], models=None, settings=settings) as gateway:
        eventually(lambda: {v["state"] for v in gateway.status("credit")["variants"]} == {"ready"}, 20)
        assert (states(triton)["scale"], states(triton)["other"]) == ("READY", "READY")
        eventually(lambda: {one["state"] for one in gateway.overview()["managed"]} == {"loaded"})
        slow: list[int] = []

        def wait() -> None:
            with gateway.client() as client:
                slow.append(client.infer("credit", request(-3000.0), version="two").status)

        waiting = threading.Thread(target=wait)
        waiting.start()
        eventually(lambda: gateway.overview()["in_work"] == 1)
        alone = {"variants": [{"version": "one", "weight": 100}], "backends": {"two": None}}
        assert gateway.edit("credit", alone).status == 200
        eventually(lambda: [v["version"] for v in gateway.status("credit")["variants"]] == ["one"])
        eventually(lambda: {one["model"]: one["state"] for one in gateway.overview()["managed"]} == LEAVING)
        assert states(triton)["other"] == "READY"  # its last request is in work
        waiting.join()
        assert slow == [200]
        eventually(lambda: states(triton)["other"] == "UNAVAILABLE")
        assert states(triton)["scale"] == "READY"
        assert gateway.edit("credit", both).status == 200
        eventually(lambda: states(triton)["other"] == "READY")
        with gateway.client() as client:
            eventually(lambda: client.infer("credit", request(), version="two").status == 200)


def test_a_model_that_another_route_uses_stays(tmp_path: Path, triton: TritonServer) -> None:
    at = {"kind": "triton", "url": triton.grpc_url, "manage": True, "model": "scale", "version": "3"}
    second = {**route(one={**at, "url": triton.url, "manage": False}), "model": "second"}
    settings = {"backends": {"unload_after_s": 0.2}}
    with GatewayProcess(tmp_path / "g", routes=[route(one=at), second], models=None, settings=settings) as gateway:
        eventually(lambda: gateway.arm("second", "one")["state"] == "ready", 20)
        with gateway.admin() as admin:
            etag = admin.send("GET", "/admin/v1/routes/credit").headers["etag"]
            assert admin.send("DELETE", "/admin/v1/routes/credit", None, {"if-match": etag}).status in {200, 204}
        eventually(lambda: [one["state"] for one in gateway.overview()["managed"]] == ["leaving"])
        with pytest.raises(AssertionError):
            eventually(lambda: states(triton)["scale"] != "READY", 2.5)
        with gateway.client() as client:
            assert client.infer("second", request()).status == 200


def test_by_grpc_triton_stops_when_the_time_is_up_or_the_client_leaves(tmp_path: Path, triton: TritonServer) -> None:
    at = {"kind": "triton", "url": triton.grpc_url, "manage": True, "model": "scale", "version": "3"}
    with GatewayProcess(tmp_path / "g", routes=[route(one=at)], models=None) as gateway:
        eventually(lambda: gateway.arm("credit", "one")["state"] == "ready", 20)
        triton.notes.unlink(missing_ok=True)
        with gateway.client() as client:
            assert client.infer("credit", request(-20_000.0), x_request_timeout_ms="300").status == 504
        eventually(lambda: triton.notes.exists() and triton.notes.read_text() == "cancelled\n")
        with socket.create_connection(("127.0.0.1", gateway.data_port)) as leaving:
            body = json.dumps(request(-20_000.0)).encode()
            head = b"POST /v2/models/credit/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            leaving.sendall(head + body)
            eventually(lambda: gateway.overview()["in_work"] == 1)
        eventually(lambda: triton.notes.read_text() == "cancelled\n" * 2)


def test_what_cannot_be_loaded_is_said_and_tried_again(tmp_path: Path, triton: TritonServer) -> None:
    at = {"kind": "triton", "url": triton.grpc_url, "manage": True}
    one = route(one={**at, "model": "broken", "version": "5"})
    with GatewayProcess(tmp_path / "g", routes=[one], models=None) as gateway:
        eventually(lambda: [each["state"] for each in gateway.overview()["managed"]] == ["failed"], 20)
        warnings = gateway.status("credit")["warnings"]
        assert any("'broken' cannot be loaded" in each and "no such weights" in each for each in warnings), warnings
        triton.add_model("broken", (5,))
        eventually(lambda: gateway.arm("credit", "one")["state"] == "ready", 20)
        assert json.dumps(gateway.status("credit")["warnings"]).count("cannot be loaded") == 0


def test_what_an_earlier_run_has_loaded_goes_when_the_table_lost_it_meanwhile(
    tmp_path: Path, triton: TritonServer
) -> None:
    for model in ("mine", "theirs"):
        triton.add_model(model, (4,))
    assert triton.get("/v2/repository/models/theirs/load", body=b"{}")[0] == 200
    at = {"kind": "triton", "manage": True, "url": triton.grpc_url, "version": "4"}
    both = route(one={**at, "model": "theirs"}, two={**at, "model": "mine"})
    store = {"store": {"url": f"sqlite:///{tmp_path / 'table.db'}"}}
    settings = {**store, "backends": {"unload_after_s": 0.2}}
    with GatewayProcess(tmp_path / "first", routes=[both], models=None, settings=settings) as first:
        eventually(lambda: {v["state"] for v in first.status("credit")["variants"]} == {"ready"}, 20)
        first.kill()
        with GatewayProcess(tmp_path / "second", models=None, settings=store) as second, second.admin() as admin:
            etag = admin.send("GET", "/admin/v1/routes/credit").headers["etag"]
            assert admin.send("DELETE", "/admin/v1/routes/credit", None, {"if-match": etag}).status in {200, 204}
            second.kill()  # before its own time to unload has come
        assert (states(triton)["mine"], states(triton)["theirs"]) == ("READY", "READY")
        remembered = tmp_path / "first" / "state" / "loaded.json"
        assert json.loads(remembered.read_bytes())["loaded"] == [[triton.grpc_url, "mine"]]
        (tmp_path / "first" / "routes" / "credit.yaml").unlink()
        first.start()
        eventually(lambda: states(triton)["mine"] == "UNAVAILABLE", 20)
        eventually(lambda: json.loads(remembered.read_bytes())["loaded"] == [])
        assert states(triton)["theirs"] == "READY", "somebody else has loaded it"
        assert first.overview()["managed"] == []
