"""What clients and operators get wrong: a status, a sentence, and nothing that breaks."""

import json
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import onnx
import pytest

from routing.codec import decode
from routing.document import RouteDocument
from routing.explain import explain
from tests.gateway_process import DEMO, GatewayProcess, corpus, stacked, storm

ROWS = corpus("credit")
BODY: dict[str, Any] = ROWS[0]["request"]
CREDIT = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 70}, {"version": "2", "weight": 20}, {"version": "3", "weight": 10}],
    "sticky": {"by": ["header:x-customer-id"]},
}
SENTIMENT = {"model": "sentiment", "stable": "1", "variants": [{"version": "1", "weight": 100}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    models = folder / "models"
    shutil.copytree(DEMO / "models", models, ignore=shutil.ignore_patterns("sentiment"))
    shutil.copytree(DEMO / "models/sentiment/1", models / "sentiment/1")
    bad = models / "bad"
    for version in ("corrupt", "empty", "future"):
        (bad / version).mkdir(parents=True)
    (bad / "corrupt/model.onnx").write_bytes(b"this is no model" * 100)
    (bad / "empty/model.onnx").write_bytes(b"")
    future = onnx.load(models / "credit/1/model.onnx")
    for opset in future.opset_import:
        opset.version = 999
    onnx.save(future, bad / "future/model.onnx")
    shutil.copytree(models / "credit/1", bad / "good")
    route = {
        "model": "bad",
        "stable": "good",
        "variants": [
            {"version": "good", "weight": 60},
            {"version": "corrupt", "weight": 10},
            {"version": "empty", "weight": 10},
            {"version": "future", "weight": 10},
            {"version": "missing", "weight": 10},
        ],
    }
    cuda = {
        "model": "gpu",
        "stable": "1",
        "variants": [{"version": "1", "weight": 100}],
        "backends": {"1": {"kind": "onnx", "device": "cuda"}},
    }
    shutil.copytree(models / "credit/1", models / "gpu/1")
    settings = {"store": {"url": "memory:"}, "server": {"listen": "127.0.0.1:0", "max_body_bytes": 1 << 20}}
    with GatewayProcess(folder, routes=[CREDIT, SENTIMENT, route, cuda], models=models, settings=settings) as process:
        yield process


def changed(**inputs: dict[str, Any]) -> dict[str, Any]:
    """The corpus body with parts of its inputs replaced."""
    return {**BODY, "inputs": [{**item, **inputs.get(item["name"], {})} for item in BODY["inputs"]]}


def nested(depth: int) -> bytes:
    return b'{"inputs": ' + b"[" * depth + b"]" * depth + b"}"


NUMERIC, CATEGORICAL = BODY["inputs"]
BAD_BODIES: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "no valid JSON"),
    "no UTF-8": (json.dumps(BODY).encode().replace(b"education", b"\xff\xfe"), "no valid JSON"),
    "NaN literal": (json.dumps(changed(numeric={"data": [float("nan")] * 7})).encode(), "no valid JSON"),
    "a list": ([], "not a JSON object"),
    "no inputs": ({"inputs": []}, "missing or empty"),
    "inputs no list": ({"inputs": {}}, "not a list of objects"),
    "deep nesting": (nested(120), "nested more than 100 deep"),
    "nesting that is still read": (nested(50), "not a list of objects"),
    "very deep nesting": (nested(100_000), "no valid JSON"),
    "missing input": ({"inputs": [NUMERIC]}, "'categorical' is missing"),
    "extra input": ({"inputs": [*BODY["inputs"], {**NUMERIC, "name": "extra"}]}, "'extra' is unknown"),
    "input twice": ({"inputs": [NUMERIC, NUMERIC]}, "given twice"),
    "unknown datatype": (changed(numeric={"datatype": "FLOAT"}), "datatype 'FLOAT'"),
    "other datatype": (changed(numeric={"datatype": "FP64"}), "FP32 is expected"),
    "FP16 in JSON": (changed(numeric={"datatype": "FP16"}), "no JSON form"),
    "wrong shape": (changed(numeric={"shape": [7, 1]}), "[-1, 7] is expected"),
    "negative dimension": (changed(numeric={"shape": [-1, 7]}), "negative dimension"),
    "no rows of a huge size": (changed(numeric={"shape": [0, 1 << 62], "data": []}), "elements"),
    "a boolean among numbers": (changed(numeric={"data": [True, 1.5, 2, 3, 4, 5, 6]}), "no FP32"),
    "overflowing shape": (changed(numeric={"shape": [16, (1 << 60) + 2]}), "elements"),
    "shape no list": (changed(numeric={"shape": 7}), "list of integers"),
    "too little data": (changed(numeric={"data": [1.0]}), "holds 1 elements"),
    "strings for numbers": (changed(numeric={"data": ["1"] * 7}), "no FP32"),
    "null for numbers": (changed(numeric={"data": [None] * 7}), "no FP32"),
    "booleans for numbers": (changed(numeric={"data": [True] * 7}), "no FP32"),
    "beyond FP32": (changed(numeric={"data": [1e300] * 7}), "too large for FP32"),
    "uneven nesting": (changed(numeric={"data": [[1.0], 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]}), "unevenly"),
    "numbers for strings": (changed(categorical={"data": [1] * 11}), "not a string"),
    "rows that disagree": (
        changed(numeric={"shape": [2, 7], "data": [1.0] * 14}),
        "disagree on 'batch'",
    ),
    "unknown output": ({**BODY, "outputs": [{"name": "nope"}]}, "'nope' is unknown"),
    "output twice": ({**BODY, "outputs": [{"name": "label"}, {"name": "label"}]}, "asked for twice"),
    "id no string": ({**BODY, "id": 7}, "`id` is not a string"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_body_is_400_with_a_sentence_and_nobody_is_charged(gateway: GatewayProcess, case: str) -> None:
    body, words = BAD_BODIES[case]
    with gateway.client() as client:
        for key in ("a", "b", "c", "d", "e", "f"):  # whichever version is drawn
            answer = client.infer("credit", body, key=key)
            assert answer.status == 400
            assert words in answer.json()["error"]
            assert answer.version in {"1", "2", "3"}
        assert client.infer("credit", BODY).status == 200
    for version in ("2", "3"):
        assert gateway.arm("credit", version)["counters"]["charged"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v2/models/nope/infer", 404, "no model 'nope'"),
        ("POST", "/v2/models/credit/versions/9/infer", 404, "no version '9'"),
        ("POST", "/v2/models/..%2fetc/infer", 404, ""),
        ("POST", "/v2/models/credit/infer/", 404, "no such path"),
        ("GET", "/v2/models/credit/infer", 405, "does not take GET"),
        ("GET", "/", 404, "no such path"),
        ("GET", "/v2/models/bad/versions/missing/ready", 503, ""),
        ("POST", "/v2/models/bad/versions/corrupt/infer", 503, "cannot be loaded"),
        ("POST", "/v2/models/bad/versions/empty/infer", 503, "cannot be loaded"),
        ("POST", "/v2/models/bad/versions/future/infer", 503, "opset"),
        ("POST", "/v2/models/bad/versions/missing/infer", 503, "no model file"),
        ("GET", "/admin/v1/routes", 404, "no such path"),
    ],
)
def test_unknown_and_unready_things_say_so(
    gateway: GatewayProcess, method: str, path: str, status: int, words: str
) -> None:
    with gateway.client() as client:
        answer = client.send(method, path, BODY if method == "POST" else None)
    assert answer.status == status
    assert words in answer.json().get("error", "")
    assert answer.headers["x-request-id"]


def test_versions_that_cannot_load_leave_their_share_to_stable(gateway: GatewayProcess) -> None:
    answers = storm(gateway.data_port, lambda client, n: client.infer("bad", BODY), requests=60)
    assert {(answer.status, answer.version) for answer in answers} == {(200, "good")}
    states = {v["version"]: (v["state"], bool(v["reason"])) for v in gateway.status("bad")["variants"]}
    assert states["good"] == ("ready", False)
    assert {states[v] for v in ("corrupt", "empty", "future", "missing")} == {("failed", True)}


def test_cuda_that_is_not_there_is_said_in_metadata_and_status(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        metadata = client.send("GET", "/v2/models/gpu").json()
        assert client.infer("gpu", BODY).status == 200
    assert "asked for cuda and runs on cpu" in metadata["properties"]["note"]
    assert any("asked for cuda" in warning for warning in gateway.status("gpu")["warnings"])


def test_a_model_without_a_route_names_its_versions_and_the_way_out(gateway: GatewayProcess) -> None:
    with gateway.client() as client, gateway.admin() as admin:
        put = {"model": "gone", "stable": "1", "variants": [{"version": "1", "weight": 100}]}
        assert admin.send("PUT", "/admin/v1/routes/gone", put, {"if-none-match": "*"}).status == 201
        shown = admin.send("DELETE", "/admin/v1/routes/sentiment", None, {"if-match": '"1"'})
        assert shown.status == 200
        body = corpus("sentiment")[0]["request"]
        for _ in range(200):
            unrouted = client.infer("sentiment", body)
            if unrouted.status == 404:
                break
        assert unrouted.status == 404
        assert "turnout routes put" in unrouted.json()["error"]
        assert "'1'" in unrouted.json()["error"]
        pinned = client.infer("sentiment", body, version="1")
        assert (pinned.status, pinned.role) == (200, "pinned")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-request-timeout-ms": "soon"}, 400),
        ({"x-request-timeout-ms": "-1"}, 400),
        ({"x-request-timeout-ms": "inf"}, 400),
        ({"x-request-timeout-ms": "999999999"}, 200),
        ({"content-encoding": "br"}, 415),
        ({"inference-header-content-length": "99999999999"}, 400),
        ({"inference-header-content-length": "x"}, 400),
        ({"inference-header-content-length": "10"}, 400),
    ],
)
def test_bad_headers_get_their_status(gateway: GatewayProcess, headers: dict[str, str], status: int) -> None:
    with gateway.client() as client:
        assert client.send("POST", "/v2/models/credit/infer", BODY, headers).status == status


def test_a_body_over_the_bound_is_413_and_the_connection_closes(gateway: GatewayProcess) -> None:
    head = f"POST /v2/models/credit/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {(1 << 20) + 1}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.data_port), timeout=10) as connection:
        connection.sendall(head.encode() + b"{")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


def test_the_request_id_is_the_clients_when_it_is_clean(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        assert client.infer("credit", BODY, x_request_id="abc-1").headers["x-request-id"] == "abc-1"
        assert client.infer("credit", BODY, x_request_id="a b").headers["x-request-id"] != "a b"
        assert client.infer("credit", BODY).json()["id"] == BODY["id"]


def test_requested_outputs_alone_are_answered_in_their_order(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        body = {**BODY, "outputs": [{"name": "probabilities"}]}
        assert [o["name"] for o in client.infer("credit", body).json()["outputs"]] == ["probabilities"]


def test_classes_of_an_empty_batch_end_and_leave_nothing_behind(gateway: GatewayProcess) -> None:
    empty = changed(numeric={"shape": [0, 7], "data": []}, categorical={"shape": [0, 11], "data": []})
    classes = {**empty, "outputs": [{"name": "probabilities", "parameters": {"classification": 1}}]}
    with gateway.client() as client:
        for key in ("a", "b", "c", "d", "e", "f"):
            assert client.infer("credit", classes, key=key, x_request_timeout_ms="2000").status in {200, 400}
    assert gateway.arm("credit", "2")["counters"]["charged"] == 0
    assert "Traceback" not in gateway.errors.read_text()


def test_an_empty_batch_crashes_nothing(gateway: GatewayProcess) -> None:
    empty = changed(numeric={"shape": [0, 7], "data": []}, categorical={"shape": [0, 11], "data": []})
    with gateway.client() as client:
        answer = client.infer("credit", empty, version="1")
        assert answer.status in {200, 400}
        assert client.infer("credit", stacked(ROWS[:8]), version="1").status == 200


def test_explain_agrees_with_live_answers_on_10_000_keys(gateway: GatewayProcess) -> None:
    plain = gateway.document("credit")
    document = decode(json.dumps({**plain, "change_id": "0" * 32}).encode())
    assert isinstance(document, RouteDocument)
    answers = storm(
        gateway.data_port,
        lambda client, n: client.infer("credit", BODY, key=f"customer-{n}"),
        requests=10_000,
        clients=4,
    )
    for n, answer in enumerate(answers):
        explained = explain(document, b"customer-%d" % n)
        assert (answer.version, answer.role) == (explained.version, explained.role)
