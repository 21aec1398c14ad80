"""A real Triton behind a real gateway."""

import json
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.builders import scale_model
from tests.gateway_process import GatewayProcess, eventually
from tests.triton_server import TritonServer, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ROW = [1.0, 2.0, 3.0, 4.5]
REQUEST = {"id": "seven", "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}]}
WORDS = {"name": "s", "shape": [1], "datatype": "BYTES", "data": ["word"]}
WITH_WORDS = {"inputs": [*REQUEST["inputs"], WORDS]}


def route(*urls: str) -> dict[str, Any]:
    at = {"kind": "triton", "urls": list(urls), "model": "scale"}
    return {
        "model": "credit",
        "stable": "3",
        "variants": [{"version": "3", "weight": 100}, {"version": "four", "weight": 0}],
        "backends": {"3": at, "four": {**at, "version": "4"}},
    }


def test_triton_answers_as_the_version_that_was_asked_in_json_and_binary(tmp_path: Path) -> None:
    with (
        TritonServer(tmp_path / "triton", "scale", (3, 4)) as triton,
        GatewayProcess(tmp_path / "gateway", routes=[route(triton.url)], models=None) as gateway,
        gateway.client() as client,
    ):
        for version, factor in ((None, 3.0), ("3", 3.0), ("four", 4.0)):
            eventually(lambda v=version: client.infer("credit", REQUEST, version=v).status == 200)
            answer = client.infer("credit", REQUEST, version=version)
            plain = answer.json()
            served = version or "3"
            assert (plain["id"], plain["model_name"], plain["model_version"]) == ("seven", "credit", served)
            assert plain["outputs"][0]["data"] == [factor * x for x in ROW]
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
        head = json.dumps(
            {"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
        ).encode()
        body = head + struct.pack("<4f", *ROW)
        headers = {"inference_header_content_length": str(len(head))}
        answer = client.infer("credit", body, version="four", **headers)
        json_bytes = int(answer.headers["inference-header-content-length"])
        assert json.loads(answer.body[:json_bytes])["model_version"] == "four"
        assert struct.unpack("<4f", answer.body[json_bytes:]) == tuple(4.0 * x for x in ROW)
        wrong = client.infer("credit", {"inputs": []})
        assert wrong.status == 400
        assert "error" in wrong.json()


def test_one_of_two_tritons_may_go_and_come_back(tmp_path: Path) -> None:
    with (
        TritonServer(tmp_path / "one", "scale", (3, 4)) as one,
        TritonServer(tmp_path / "two", "scale", (3, 4)) as two,
        GatewayProcess(tmp_path / "gateway", routes=[route(one.url, two.url)], models=None) as gateway,
        gateway.client() as client,
    ):

        def states() -> list[str]:
            return [each["state"] for each in gateway.arm("credit", "3")["instances"]]

        eventually(lambda: states() == ["ready", "ready"])
        assert {client.infer("credit", REQUEST).status for _ in range(10)} == {200}
        one.stop()
        assert {client.infer("credit", REQUEST).status for _ in range(10)} == {200}
        eventually(lambda: states() == ["failed", "ready"])
        one.start()
        eventually(lambda: states() == ["ready", "ready"])
        assert {client.infer("credit", REQUEST).status for _ in range(10)} == {200}


POLICY = "default_timeout_microseconds: 60000000 allow_timeout_override: true"  # a request may lower what there is
QUEUE = f"dynamic_batching {{ default_queue_policy {{ {POLICY} }} }}"
SLOW_S = 1.5


def test_by_http_triton_works_on_when_nobody_waits_and_its_queue_can_be_told_a_time(tmp_path: Path) -> None:
    """Its HTTP port does not look whether a client is there. We close at once; all that could stop would."""
    with (
        TritonServer(tmp_path / "triton", "scale", (3, 4), more=QUEUE) as triton,
        GatewayProcess(tmp_path / "gateway", routes=[route(triton.url)], models=None) as gateway,
        gateway.client() as client,
    ):
        eventually(lambda: gateway.arm("credit", "3")["state"] == "ready")
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [-1000 * SLOW_S, 1, 2, 3]}

        def taken() -> list[int]:
            (instance,) = gateway.arm("credit", "3")["instances"]
            return [instance["in_flight"], instance["connections"]]

        begin_s = time.monotonic()
        assert client.infer("credit", {"inputs": [tensor]}, x_request_timeout_ms="200").status == 504
        assert taken() == [0, 0], "its connection is closed with the attempt"
        assert client.infer("credit", REQUEST).status == 200
        assert time.monotonic() - begin_s > SLOW_S - 0.1, "the model was still at the first one"
        begin_s = time.monotonic()
        with socket.create_connection(("127.0.0.1", gateway.data_port)) as leaving:
            body = json.dumps({"inputs": [tensor]}).encode()
            head = b"POST /v2/models/credit/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            leaving.sendall(head + body)
            eventually(lambda: taken()[0] == 1)
        eventually(lambda: taken()[0] == 0, SLOW_S - 0.3)
        assert client.infer("credit", REQUEST).status == 200
        assert time.monotonic() - begin_s > SLOW_S - 0.1
        assert not triton.notes.exists(), "the model never heard that a request was given up"
        slow = threading.Thread(target=lambda: triton.get("/v2/models/scale/versions/3/infer", body=body))
        slow.start()
        time.sleep(0.3)
        late = client.infer("credit", {**REQUEST, "parameters": {"timeout": 100_000}})
        slow.join()
        assert (late.status, late.json()) == (503, {"error": "Request timeout expired"})


@pytest.mark.parametrize("port", ["http", "grpc"])
def test_another_build_under_the_same_version_is_described_anew_and_held_back(tmp_path: Path, port: str) -> None:
    """Triton puts a changed model in the place of the old one without a moment in which it is not ready."""
    scale_model(tmp_path / "models" / "credit" / "3")
    with TritonServer(tmp_path / "triton", "scale", (3,), explicit=True) as triton:
        assert triton.get("/v2/repository/models/scale/load", body=b"{}")[0] == 200
        at = {
            "kind": "triton",
            "model": "scale",
            "version": "3",
            "url": {"http": triton.url, "grpc": triton.grpc_url}[port],
        }
        split = {
            "model": "credit",
            "stable": "3",
            "variants": [{"version": "3", "weight": 50}, {"version": "new", "weight": 50}],
            "backends": {"new": at},
        }
        settings = {"backends": {"check_s": 0.2}}
        models = tmp_path / "models"
        with GatewayProcess(tmp_path / "g", routes=[split], models=models, settings=settings) as gateway:
            eventually(lambda: gateway.arm("credit", "new")["contract"]["verdict"] == "kept", 20)
            config = tmp_path / "triton" / "repository" / "scale" / "config.pbtxt"
            config.write_text(config.read_text().replace('"y" data_type: TYPE_FP32', '"y" data_type: TYPE_FP64'))
            assert triton.get("/v2/repository/models/scale/load", body=b"{}")[0] == 200
            eventually(lambda: gateway.arm("credit", "new")["contract"]["verdict"] == "broken")
            with gateway.client() as client:
                assert {client.infer("credit", WITH_WORDS).role for _ in range(20)} == {"stable"}
