"""One route over ONNX in process, Triton's HTTP port and Triton's gRPC port: a client cannot tell."""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from tests.builders import scale_model
from tests.gateway_process import Answered, Client, GatewayProcess, eventually
from tests.triton_server import TritonServer, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

VERSIONS = ("3", "http", "grpc")
FACTOR = np.float32(3)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("mixed")
    scale_model(folder / "models" / "mixed" / "3")
    with ExitStack() as stack:
        triton = stack.enter_context(TritonServer(folder / "triton", "scale", (3,)))
        at = {"kind": "triton", "model": "scale", "version": "3"}
        route = {
            "model": "mixed",
            "stable": "3",
            "variants": [{"version": version, "weight_ppm": ppm} for version, ppm in zip(VERSIONS, PPM, strict=True)],
            "sticky": {"by": ["header:x-customer-id"]},
            "on_failure": "pass",
            "enforce": False,
            "backends": {"http": {**at, "url": triton.url}, "grpc": {**at, "url": triton.grpc_url}},
        }
        gateway = stack.enter_context(GatewayProcess(folder / "gateway", routes=[route], models=folder / "models"))
        eventually(lambda: {v["state"] for v in gateway.status("mixed")["variants"]} == {"ready"})
        yield gateway


PPM = (400_000, 300_000, 300_000)
X = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, -2.5, 3e20, 4.0]}
S = {"name": "s", "shape": [3], "datatype": "BYTES", "data": ["", "é", 'a "quoted" word']}
BINARY_X = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
BINARY_S = {"name": "s", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}}
ALL_BINARY = {"binary_data_output": True}
DATA_X = struct.pack("<4f", 0.1, -2.5, 3e20, 4.0)
DATA_S = b"\x03\0\0\0abc\0\0\0\0"


def binary(head: dict[str, Any], *tail: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return b"".join((text, *tail)), {"inference-header-content-length": str(len(text))}


def plain(**request: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(request).encode(), {}


def output(name: str, **parameters: Any) -> dict[str, Any]:
    return {"name": name, "parameters": parameters}


GOOD = {
    "json": plain(inputs=[X, S]),
    "another order, an id, parameters": plain(id="sëven", inputs=[S, X], parameters={"mine": 1, "f": 0.5, "b": True}),
    "nested": plain(inputs=[{**X, "shape": [2, 4], "data": [[1, 2, 3, 4], [5, 6, 7, 8]]}, S]),
    "no rows": plain(inputs=[{**X, "shape": [0, 4], "data": []}, S]),
    "one output": plain(inputs=[X, S], outputs=[output("t")]),
    "another order of outputs": plain(inputs=[X, S], outputs=[output("t"), output("y")]),
    "an output in binary form": plain(inputs=[X, S], outputs=[output("y", binary_data=True), output("t")]),
    "all in binary form": binary({"inputs": [BINARY_X, BINARY_S], "outputs": [
        output("y", binary_data=True), output("t", binary_data=True)]}, DATA_X, DATA_S),
    "binary in, JSON out": binary({"id": "b", "inputs": [BINARY_X, BINARY_S]}, DATA_X, DATA_S),
    "binary strings beside JSON numbers": binary({"inputs": [X, BINARY_S]}, DATA_S),
    "strings out in binary form": plain(inputs=[X, S], outputs=[output("t", binary_data=True)]),
}  # fmt: skip
BAD = {
    "not JSON": (b'{"inputs": [', {}),
    "no inputs": plain(inputs=[]),
    "an unknown input": plain(inputs=[{**X, "name": "z"}, S]),
    "one input too many": plain(inputs=[X, S, {**X, "name": "z"}]),
    "another shape": plain(inputs=[{**X, "shape": [1, 5], "data": [1, 2, 3, 4, 5]}, S]),
    "fewer elements than its shape": plain(inputs=[{**X, "data": [1, 2, 3]}, S]),
    "another datatype": plain(inputs=[{**X, "datatype": "FP64"}, S]),
    "words for numbers": plain(inputs=[{**X, "data": ["a", "b", "c", "d"]}, S]),
    "an unknown output": plain(inputs=[X, S], outputs=[output("nope")]),
    "too few bytes": binary({"inputs": [BINARY_X, S]}, DATA_X[:-1]),
    "strings that do not fill their bytes": binary({"inputs": [X, {**BINARY_S, "shape": [3]}]}, DATA_S),
}  # fmt: skip


def ask(client: Client, request: tuple[bytes, dict[str, str]], version: str) -> Answered:
    return client.send("POST", f"/v2/models/mixed/versions/{version}/infer", *request)


def meaning(answer: Answered) -> Any:
    """What a client makes of an answer: its tensors as arrays, whatever form they came in."""
    size = answer.headers.get("inference-header-content-length")
    head = json.loads(answer.body[: int(size)] if size else answer.body)
    at = int(size) if size else len(answer.body)
    assert head.pop("model_version") in VERSIONS
    for tensor in head.get("outputs", ()):
        count = tensor.get("parameters", {}).get("binary_data_size")
        if count is None:
            found = tensor["data"]
        else:
            data, at = answer.body[at : at + count], at + count
            found = np.frombuffer(data, np.float32).tolist() if tensor["datatype"] == "FP32" else data
        tensor["data"] = np.float32(found).tolist() if tensor["datatype"] == "FP32" else found
        tensor["data"] = str(tensor["data"])
    assert at == len(answer.body)
    return {**head, "outputs": {tensor["name"]: tensor for tensor in head["outputs"]}}  # whose order nobody promises


def said(answer: Answered) -> set[str]:
    own = {"x-request-id", "x-turnout-version", "date", "content-length"}
    return {f"{name}: {value}" for name, value in answer.headers.items() if name not in own}


@pytest.mark.parametrize("request_", GOOD.values(), ids=GOOD)
def test_a_client_cannot_tell_who_answered(served: GatewayProcess, request_: tuple[bytes, dict[str, str]]) -> None:
    with served.client() as client:
        first, *others = [ask(client, request_, version) for version in VERSIONS]
    assert first.status == 200, first.body
    for other in others:
        assert other.status == 200, other.body
        assert meaning(other) == meaning(first)
        assert {line.partition(":")[0] for line in said(other)} == {line.partition(":")[0] for line in said(first)}
        assert other.headers["content-type"] == first.headers["content-type"]


@pytest.mark.parametrize("request_", BAD.values(), ids=BAD)
def test_nor_who_refused(served: GatewayProcess, request_: tuple[bytes, dict[str, str]]) -> None:
    with served.client() as client:
        answers = [ask(client, request_, version) for version in VERSIONS]
    assert [answer.status for answer in answers] == [400, 400, 400], [answer.body for answer in answers]
    for answer in answers:
        assert list(answer.json()) == ["error"]
        assert said(answer) == said(answers[0])


def test_classes_are_the_same_from_both_ports_of_triton(served: GatewayProcess) -> None:
    """In process they have a row for each instance; Triton takes a model without batches for one instance."""
    request = plain(inputs=[{**X, "data": [1, 4, 3, 2]}, S], outputs=[output("y", classification=2)])
    with served.client() as client:
        found = [meaning(ask(client, request, version)) for version in VERSIONS]
    assert found[1] == found[2]
    data = "['12.000000:1', '9.000000:2']"
    assert {one["outputs"]["y"]["data"] for one in found} == {data}


def test_each_customer_stays_with_a_version_and_every_version_gets_its_share(served: GatewayProcess) -> None:
    request = {"inputs": [X, {**S, "shape": [1], "data": ["word"]}]}
    seen: Counter[str | None] = Counter()
    with served.client() as client:
        for n in range(300):
            first, second = [client.infer("mixed", request, key=f"c-{n}") for _ in range(2)]
            assert (first.status, first.version) == (second.status, second.version) == (200, second.version), first.body
            seen[first.version] += 1
    assert {version: 60 < seen[version] < 170 for version in VERSIONS} == dict.fromkeys(VERSIONS, True), seen


def test_metadata_is_the_same_but_for_who_runs_it(served: GatewayProcess) -> None:
    with served.client() as client:
        found = [client.send("GET", f"/v2/models/mixed/versions/{version}").json() for version in VERSIONS]
    for one in found:
        one.pop("platform")
        one.pop("properties", None)
    tensors = [{**one, "inputs": [(t["name"], t["datatype"]) for t in one["inputs"]]} for one in found]
    assert tensors[0] == tensors[1] == tensors[2]
