"""What servers of the protocol get wrong, asked of a real gateway: one case each, and it lives on."""

import gzip
import http.client
import json
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.routing import Route

from gateway.dataplane.endpoints import DataPlane
from gateway.settings import Settings
from tests.gateway.backends.test_onnx import log_model
from tests.gateway.backends.test_onnx_binary import identity
from tests.gateway_process import DEMO, GatewayProcess, corpus

LIMIT = 1 << 18
CONCURRENCY = 8
BODY: dict[str, Any] = corpus("credit")[0]["request"]
NUMERIC, CATEGORICAL = BODY["inputs"]
LENGTH = "inference-header-content-length"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    models = folder / "models"
    shutil.copytree(DEMO / "models/credit/1", models / "credit/1")
    for name in ("log", "BYTES", "FP16", "UINT64"):
        (models / name / "1").mkdir(parents=True)
    log_model(models / "log/1")
    for datatype in ("BYTES", "FP16", "UINT64"):
        identity(models / datatype / "1", datatype, ["n"])
    routes = [
        {"model": name, "stable": "1", "variants": [{"version": "1", "weight": 100}]}
        for name in ("credit", "log", "BYTES", "FP16", "UINT64")
    ]
    server = {"max_body_bytes": LIMIT, "max_concurrency": CONCURRENCY}
    settings = {"store": {"url": "memory:"}, "server": {"listen": "127.0.0.1:0", **server}}
    with GatewayProcess(folder, routes=routes, models=models, settings=settings) as process:
        yield process


@pytest.fixture(autouse=True)
def lives_on(gateway: GatewayProcess) -> Iterator[None]:
    """After every case the gateway answers as before."""
    yield
    with gateway.client() as client:
        assert client.infer("credit", BODY).status == 200


def changed(**inputs: dict[str, Any]) -> dict[str, Any]:
    return {**BODY, "inputs": [{**item, **inputs.get(item["name"], {})} for item in BODY["inputs"]]}


def one(name: str, shape: list[Any], datatype: str, data: Any = None, **parameters: Any) -> dict[str, Any]:
    item = {"name": name, "shape": shape, "datatype": datatype}
    item |= {"data": data} if data is not None else {}
    return {"inputs": [{**item, "parameters": parameters} if parameters else item]}


def binary(plain: dict[str, Any], tail: bytes = b"") -> tuple[bytes, dict[str, str]]:
    head = json.dumps(plain).encode()
    return head + tail, {LENGTH: str(len(head))}


def deep(depth: int) -> bytes:
    """A good request with an unknown key that is nested so deep, the object around it included."""
    nested = b"[" * (depth - 1) + b"]" * (depth - 1)
    return json.dumps(BODY).encode()[:-1] + b', "x": ' + nested + b"}"


def padded(size: int) -> bytes:
    return json.dumps(BODY).encode().ljust(size)


RAW = struct.pack("<2Q", 1, 2**64 - 1)
REQUESTS: dict[str, tuple[str, Any, dict[str, str], int, str]] = {
    "shape product overflows": ("credit", changed(numeric={"shape": [16, (1 << 60) + 2]}), {}, 400, "elements"),
    "overflow in binary": (
        "UINT64",
        *binary(one("x0", [16, (1 << 60) + 2], "UINT64", binary_data_size=256), RAW * 16),
        400,
        "elements",
    ),
    "negative dimension": ("credit", changed(numeric={"shape": [-1, 7]}), {}, 400, "negative"),
    "too little data": ("credit", changed(numeric={"data": [1.0]}), {}, 400, "holds 1 elements"),
    "too much data": ("credit", changed(numeric={"data": [1.0] * 8}), {}, 400, "holds 8 elements"),
    "size and type differ": ("UINT64", *binary(one("x0", [4], "UINT64", binary_data_size=16), RAW), 400, "needs 32"),
    "wrong datatype": ("credit", changed(numeric={"datatype": "INT64"}), {}, 400, "FP32 is expected"),
    "unknown datatype": ("credit", changed(numeric={"datatype": "BF16"}), {}, 400, "BF16"),
    "output twice": ("credit", {**BODY, "outputs": [{"name": "label"}] * 2}, {}, 400, "twice"),
    "unknown output": ("credit", {**BODY, "outputs": [{"name": "nope"}]}, {}, 400, "'nope' is unknown"),
    "missing input": ("credit", {"inputs": [NUMERIC]}, {}, 400, "'categorical' is missing"),
    "extra input": ("credit", {"inputs": [*BODY["inputs"], {**NUMERIC, "name": "e"}]}, {}, 400, "'e' is unknown"),
    "depth 50": ("credit", deep(50), {}, 200, ""),
    "depth 100": ("credit", deep(100), {}, 200, ""),
    "depth 101": ("credit", deep(101), {}, 400, "100 deep"),
    "depth 120": ("credit", deep(120), {}, 400, "100 deep"),
    "depth 20,000": ("credit", deep(20_000), {}, 400, "no valid JSON"),
    "huge header length": ("credit", BODY, {LENGTH: "99999999999"}, 400, "within the body"),
    "header length of many digits": ("credit", BODY, {LENGTH: "9" * 400}, 400, "within the body"),
    "header length beyond the body": ("UINT64", RAW, {LENGTH: "17"}, 400, "within the body"),
    "negative header length": ("UINT64", RAW, {LENGTH: "-1"}, 400, "within the body"),
    "header length no number": ("UINT64", RAW, {LENGTH: "1e1"}, 400, "within the body"),
    "header length and gzip": (
        "credit",
        gzip.compress(padded(900)),
        {LENGTH: "900", "content-encoding": "gzip"},
        200,
        "",
    ),
    "header length beyond what gzip becomes": (
        "credit",
        gzip.compress(padded(900)),
        {LENGTH: "901", "content-encoding": "gzip"},
        400,
        "within the body",
    ),
    "body at the limit": ("credit", padded(LIMIT), {}, 200, ""),
    "gzip under the limit": (
        "credit",
        gzip.compress(padded(LIMIT)),
        {"content-encoding": "gzip"},
        200,
        "",
    ),
    "gzip over the limit": (
        "credit",
        gzip.compress(padded(LIMIT + 1)),
        {"content-encoding": "gzip"},
        413,
        "decoded body",
    ),
    "unknown encoding": ("credit", BODY, {"content-encoding": "snappy"}, 415, "content-encoding"),
    "encodings on one another": ("credit", BODY, {"content-encoding": "gzip, gzip"}, 415, "on another"),
    "FP16 in JSON": ("FP16", one("x0", [1], "FP16", [1.0]), {}, 400, "binary_data_size"),
    "FP16 out in JSON": ("FP16", *binary(one("x0", [1], "FP16", binary_data_size=2), b"\0\x3c"), 400, "binary_data"),
    "NaN in a request": (
        "log",
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}',
        {},
        400,
        "JSON",
    ),
    "null in a request": ("log", one("x", [1], "FP32", [None]), {}, 400, "no FP32"),
    "NaN in an answer": ("log", one("x", [1], "FP32", [-1]), {}, 500, "JSON cannot carry"),
    "strings that lie": (
        "BYTES",
        *binary(one("x0", [1], "BYTES", binary_data_size=5), b"\xff\0\0\0a"),
        400,
        "are not 1 strings",
    ),
    "strings no UTF-8": (
        "BYTES",
        *binary(one("x0", [1], "BYTES", binary_data_size=5), b"\x01\0\0\0\xff"),
        400,
        "no UTF-8",
    ),
    "a lone surrogate": (
        "BYTES",
        b'{"inputs":[{"name":"x0","shape":[1],"datatype":"BYTES","data":["\\ud800"]}]}',
        {},
        400,
        "JSON",
    ),
    "an integer beyond 64 bits": ("UINT64", one("x0", [1], "UINT64", [1 << 64]), {}, 400, "no UINT64"),
    "raw for two inputs": ("credit", RAW, {LENGTH: "0"}, 400, "carries one input"),
    "raw of an odd size": ("UINT64", RAW[:-1], {LENGTH: "0"}, 400, "15 bytes are no UINT64"),
    "raw": ("UINT64", RAW, {LENGTH: "0"}, 200, ""),
    "an empty body": ("credit", b"", {}, 400, "JSON"),
    "a shared memory region": (
        "credit",
        changed(numeric={"parameters": {"shared_memory_region": "r"}}),
        {},
        400,
        "shared memory",
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_gets_its_status_and_a_sentence(gateway: GatewayProcess, case: str) -> None:
    model, body, headers, status, words = REQUESTS[case]
    with gateway.client() as client:
        answer = client.send("POST", f"/v2/models/{model}/infer", body, headers)
        assert (answer.status, answer.headers["x-request-id"] != "") == (status, True), answer.body
        if status != 200:
            assert words in answer.json()["error"]


PATHS: dict[str, tuple[str, str, Any, int]] = {
    "empty model name": ("POST", "/v2/models//infer", BODY, 404),
    "blank model name": ("POST", "/v2/models/%20/infer", BODY, 404),
    "model name that climbs": ("POST", "/v2/models/..%2f..%2fetc/infer", BODY, 404),
    "two dots": ("POST", "/v2/models/../infer", BODY, 404),
    "a NUL in the model name": ("POST", "/v2/models/credit%00/infer", BODY, 404),
    "version that climbs": ("GET", "/v2/models/credit/versions/..%2f1", None, 404),
    "loading is not offered": ("POST", f"/v2/repository/models/{'m' * 256}/load", {}, 404),
    "no shared memory": ("GET", "/v2/systemsharedmemory/status", None, 404),
    "stats is no model": ("POST", "/v2/models/stats/infer", BODY, 404),
    "unknown model's stats": ("GET", "/v2/models/nope/stats", None, 404),
    "unknown version's config": ("GET", "/v2/models/credit/versions/9/config", None, 404),
    "index, 250,000 deep": ("POST", "/v2/repository/index", b"[" * 250_000, 400),
    "index, no object": ("POST", "/v2/repository/index", b"[]", 400),
    "index, ready no flag": ("POST", "/v2/repository/index", {"ready": 1}, 400),
    "index, empty body": ("POST", "/v2/repository/index", b"", 200),
    "index": ("POST", "/v2/repository/index", {"ready": True}, 200),
}


@pytest.mark.parametrize("case", PATHS)
def test_a_path_gets_its_status(gateway: GatewayProcess, case: str) -> None:
    method, path, body, status = PATHS[case]
    with gateway.client() as client:
        answer = client.send(method, path, body)
    assert answer.status == status, answer.body
    if status != 200:
        assert answer.json()["error"]


def every_path() -> list[Route]:
    anything: Any = SimpleNamespace()
    return [
        path
        for path in DataPlane(
            Settings(), anything, anything, anything, lambda: False, "name", anything, anything, anything
        )
        .app()
        .routes
        if isinstance(path, Route)
    ]


def test_every_path_says_405_and_what_it_takes(gateway: GatewayProcess) -> None:
    allowed: dict[str, set[str]] = {}
    for path in every_path():
        allowed.setdefault(path.path.format(model="credit", version="1"), set()).update(path.methods or set())
    assert len(allowed) >= 20
    with gateway.client() as client:
        for path, methods in allowed.items():
            for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - methods:
                answer = client.send(method, path)
                assert answer.status == 405, (method, path)
                assert set(answer.headers["allow"].split(", ")) == methods, (method, path)
                assert method == "HEAD" or "does not take" in answer.json()["error"]


@pytest.mark.parametrize("text", ["a\0b", "\0", "a\0\0", "é\0€"])
def test_a_nul_in_a_string_cuts_nothing_off(gateway: GatewayProcess, text: str) -> None:
    with gateway.client() as client:
        as_json = client.infer("BYTES", one("x0", [1], "BYTES", [text]))
        assert as_json.json()["outputs"][0]["data"] == [text]
        raw = client.send("POST", "/v2/models/BYTES/infer", text.encode(), {LENGTH: "0"})
    assert raw.body.endswith(struct.pack("<I", len(text.encode())) + text.encode())


def test_nan_goes_out_where_the_client_can_take_it(gateway: GatewayProcess) -> None:
    asked = one("x", [3], "FP32", [-1, 0, 1])
    with gateway.client() as client:
        allowed = client.infer("log", {**asked, "parameters": {"allow_nan": True}})
        packed = client.infer("log", {**asked, "parameters": {"binary_data_output": True}})
        rows = {"instances": [-1, 0, 1], "parameters": {"allow_nan": True}}
        predicted = client.send("POST", "/v1/models/log:predict", rows)
        refused = client.send("POST", "/v1/models/log:predict", {"instances": [-1]})
    assert b"[NaN,-Infinity,0.0]" in allowed.body
    assert packed.body[-12:-8] in {struct.pack("<f", nan) for nan in (float("nan"), -float("nan"))}
    assert packed.body[-8:] == struct.pack("<2f", float("-inf"), 0)
    assert predicted.body == b'{"predictions":[NaN,-Infinity,0.0]}'
    assert refused.status == 500


def chunked(gateway: GatewayProcess, chunks: Iterator[bytes]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.data_port, timeout=10)
    try:
        connection.request("POST", "/v2/models/credit/infer", chunks, {}, encode_chunked=True)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_chunked_body_is_read_however_small_its_chunks(gateway: GatewayProcess) -> None:
    body = json.dumps(BODY).encode()
    assert chunked(gateway, iter([body])) == 200
    assert chunked(gateway, (body[at : at + 1] for at in range(len(body)))) == 200


@pytest.mark.parametrize("path", ["/v2/models/credit/infer", "/v1/models/credit:predict", "/v2/repository/index"])
def test_a_body_just_over_the_limit_is_413(gateway: GatewayProcess, path: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.data_port), timeout=10) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {LIMIT + 1}\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_chunked_body_over_the_limit_is_413(gateway: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", gateway.data_port), timeout=10) as connection:
        connection.sendall(b"POST /v2/models/credit/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.sendall(b"%x\r\n" % (LIMIT + 1) + b" " * (LIMIT + 1) + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_unfinished_bodies_keep_nobody_out(gateway: GatewayProcess) -> None:
    """A place among those in work is taken by a whole request; more of those are 503 (``test_both_lanes``)."""
    head = b"POST /v2/models/credit/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    with ExitStack() as held, gateway.client() as client:
        for _ in range(CONCURRENCY):
            held.enter_context(socket.create_connection(("127.0.0.1", gateway.data_port))).sendall(head)
        assert [client.infer("credit", BODY).status for _ in range(20)] == [200] * 20
        assert client.send("GET", "/v2/health/live").status == 200
