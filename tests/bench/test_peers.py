"""Configurations of peers, and that all are compared at the same work."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from loadtests.bench.machine import PEERS, Lab, free_port
from loadtests.bench.rows import ROWS
from loadtests.bench.rows.proxy import contenders
from loadtests.bench.servers import triton_config
from loadtests.bench.target import WrongAnswer, tensors
from loadtests.bench.templates import ENVOY_CLUSTER, ENVOY_MIRROR, MIRROR_LOCATION, MIRROR_ON, fill, render
from loadtests.bench.upstream import ANSWER_BYTES, ARMS, EXPECTED, answer_of, question, request_body, start_upstream
from loadtests.bench.workload import Workload, demo, small
from loadtests.bench.wrk import driver
from tests.gateway_process import ROOT


def test_every_configuration_renders_without_a_hole() -> None:
    ports = {"PORT": 1, "STABLE_PORT": 2, "CANARY_PORT": 3, "SHADOW_PORT": 4, "FOLDER": "/tmp/x"}
    mirror = {"MIRROR_ON": MIRROR_ON, "MIRROR_LOCATION": MIRROR_LOCATION, "MIRROR": ENVOY_MIRROR}
    clusters = "".join(fill(ENVOY_CLUSTER, NAME=arm, PORT=1) for arm in ARMS)
    for name in ("nginx.conf", "haproxy.cfg", "envoy.yaml", "upstream.conf"):
        text = render(name, **ports, **mirror, CLUSTERS=clusters, SERVERS="")
        settings = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        assert not re.search("@[A-Z_]+@", settings), name


def test_a_hole_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill("listen @PORT@;")


@pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="no nginx here")
def test_the_proxies_that_are_installed_do_what_the_row_says() -> None:
    """Split, stickiness, copies and answers are checked before anything is measured."""
    with Lab(seconds=1, rounds=1) as lab:
        target = contenders("nginx", mirror=True)["nginx"](lab)
        assert re.fullmatch(r"canary \d\.\d%", target.note)


@pytest.mark.skipif(
    any(shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None for tool in ("nginx", "wrk")),
    reason="no nginx or no wrk here",
)
@pytest.mark.parametrize("varied", [False, True])
def test_the_scripts_of_wrk_send_what_the_upstream_answers(varied: bool) -> None:
    with Lab(seconds=1, rounds=1) as lab:
        drive = driver(lab, start_upstream(lab).stable, question(varied=varied), connections=2)
        load = drive(1.0)

    assert load.ok == load.requests > 100
    assert 0 < load.p50_us <= load.p99_us


def test_the_upstream_s_answers_are_200_bytes_and_equal_but_for_the_version() -> None:
    for version in ARMS.values():
        assert len(answer_of(version)) == ANSWER_BYTES
        assert tensors(answer_of(version)) == EXPECTED
    assert 180 <= len(request_body()) <= 240


def test_requirements_of_peers_are_pinned_and_name_no_registry() -> None:
    files = sorted(PEERS.glob("*.txt"))

    assert [file.stem for file in files] == ["bentoml", "envoy", "fastapi", "litserve", "mlserver", "triton"]
    for file in files:
        for line in file.read_text().splitlines():
            assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line), f"{file.name}: {line}"


def test_triton_s_configuration_describes_the_model_with_and_without_batching() -> None:
    work = Workload("m", Path("m.onnx"), [[{"name": "x", "datatype": "FP32", "shape": [1, 20], "data": [0.0] * 20}]])

    assert "dims: [-1, 20]" in triton_config(work, 0)
    assert "dims: [20]" in triton_config(work, 64)
    assert "dynamic_batching" in triton_config(work, 64)


# Work that is compared is the same work.


def test_the_small_model_is_the_same_each_time_and_tells_rows_apart(tmp_path: Path) -> None:
    work = small(tmp_path, requests=8)
    first = work.file.read_bytes()
    small(tmp_path, requests=8)

    assert work.file.read_bytes() == first
    session = onnxruntime.InferenceSession(str(work.file), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]
    shares = [work.expected(n)["probabilities"][1] for n in range(8)]
    assert all(0.01 < share < 0.99 for share in shares)
    assert len(set(shares)) == 8


def test_batched_requests_hold_the_same_rows() -> None:
    single = demo("credit", "2")
    batched = single.batched(4)

    alone = np.concatenate([single.expected(n)["probabilities"] for n in range(4)])
    assert np.allclose(alone, batched.expected(0)["probabilities"], atol=1e-6)


def test_binary_requests_have_one_length_of_json() -> None:
    asked = demo("credit", "2").binary_question(limit=20)
    length = int(asked.headers["inference-header-content-length"])

    heads = [json.loads(body[:length]) for body in asked.bodies]
    sizes = [sum(tensor["parameters"]["binary_data_size"] for tensor in head["inputs"]) for head in heads]
    assert [len(body) - length for body in asked.bodies] == sizes


class WrongServer(threading.Thread):
    """Answers everything with the same body."""

    def __init__(self, status: str, body: bytes) -> None:
        super().__init__(daemon=True)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._answer = head.encode() + body

    def run(self) -> None:
        connection = self._server.accept()[0]
        connection.recv(65536)
        connection.sendall(self._answer)
        connection.close()
        self._server.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 Oh", b'{"error": "x"}'),
        ("200 OK", b'{"detail": "x"}'),
        ("200 OK", b'{"outputs": [{"name": "probabilities", "data": [0.5, 0.5]}, {"name": "label", "data": [1]}]}'),
    ],
)
def test_a_contender_that_answers_otherwise_is_not_measured(status: str, body: bytes) -> None:
    server = WrongServer(status, body)
    server.start()
    work = demo("credit", "2")

    with pytest.raises(WrongAnswer):
        work.check(server.port, work.json_question())


def test_every_row_of_the_table_is_there_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.bench", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == list(ROWS)
    wanted = (
        "proxy proxy-varied-heads mirror split-envoy model-json model-triton model-throughput rows64-binary sentiment "
        "triton-front latency-400 many-models pipeline-cost shadow-hung rss"
    )
    assert set(wanted.split()) <= set(ROWS)
    for name, contest in ROWS.items():
        assert contest().name == name


def test_free_ports_are_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass
