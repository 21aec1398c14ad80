"""A real Triton behind a real gateway."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import GatewayProcess, eventually
from tests.triton_server import TritonServer, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ROW = [1.0, 2.0, 3.0, 4.5]
REQUEST = {"id": "seven", "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}]}


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
