"""What a client can tell of ONNX in process, Triton's HTTP port and Triton's gRPC port: docs/reference/protocol.md."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.gateway_process import Answered, GatewayProcess
from tests.integration import test_mixed_split as mixed
from tests.integration.test_mixed_split import BINARY_X, VERSIONS, S, X, ask, binary, output, plain
from tests.triton_server import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

served = mixed.served  # servers of its own
BAD = b"\x02\0\0\0\xff\xfe\x01\0\0\0a"
NOT_TEXT = {"name": "s", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(BAD)}}
NOT_FINITE = struct.pack("<4f", float("nan"), float("inf"), float("-inf"), 1)
NOT_UTF8 = "an output holds bytes that are no UTF-8, which JSON cannot carry: ask for it in binary form"
NO_CLASSES = "output 't' cannot be classified: it holds no row of numbers for each instance"
ASKS = plain(inputs=[X, S], outputs=[output("t", classification=1)])[0]
TWICE = ASKS[:-1] + b',"outputs":[]}'


def each(gateway: GatewayProcess, request: tuple[bytes, dict[str, str]]) -> list[Answered]:
    with gateway.client() as client:
        return [ask(client, request, version) for version in VERSIONS]


def numbers(answer: Answered) -> Any:
    return answer.json()["outputs"][0]["data"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (ASKS, NO_CLASSES),
        (ASKS.replace(b"classification", b"cl\\u0061ssification"), NO_CLASSES),
        (ASKS.replace(b'{"classification": 1}', b'{"classification": 1, "binary_data": true}'), NO_CLASSES),
    ],
)
def test_classes_of_strings_end_no_server(served: GatewayProcess, body: bytes, sentence: str) -> None:
    """Triton 2.51 dies of one such request."""
    answers = each(served, (body, {}))
    assert [(answer.status, answer.json()) for answer in answers] == [(400, {"error": sentence})] * 3
    assert [answer.status for answer in each(served, plain(inputs=[X, S]))] == [200, 200, 200]


def test_nor_does_a_request_that_says_its_outputs_twice(served: GatewayProcess) -> None:
    """The gateway reads the last ones, and Triton the first."""
    assert [answer.status for answer in each(served, (TWICE, {}))] == [200, 400, 400]
    assert [answer.status for answer in each(served, plain(inputs=[X, S]))] == [200, 200, 200]


def test_bytes_that_are_no_text_go_out_in_binary_form_alone(served: GatewayProcess) -> None:
    as_json = binary({"inputs": [X, NOT_TEXT]}, BAD)
    in_process, *answers = each(served, as_json)
    assert in_process.status == 400, "a version in process holds text: it takes no such input"
    assert [(answer.status, answer.json()) for answer in answers] == [(500, {"error": NOT_UTF8})] * 2
    as_bytes = binary({"inputs": [X, NOT_TEXT], "outputs": [output("t", binary_data=True)]}, BAD)
    in_process, *answers = each(served, as_bytes)
    assert in_process.status == 400
    assert [(answer.status, answer.body[-len(BAD) :]) for answer in answers] == [(200, BAD)] * 2


def test_an_answer_by_grpc_has_the_numbers_of_tritons_own_json(served: GatewayProcess) -> None:
    values = [0.1, 16777217.0, 1e-7, 3e20, 1e21, 1e-45, 12345.678, -0.0]
    request = plain(inputs=[{**X, "shape": [2, 4], "data": values}, S], outputs=[output("y")])
    in_process, http, grpc = map(numbers, each(served, request))
    assert http == grpc == [float(np.float32(x) * np.float32(3)) for x in values]
    assert np.float32(in_process).tolist() == http, "shortest digits: the same FP32"


def test_nan_is_the_same_where_it_is_allowed(served: GatewayProcess) -> None:
    head = {"inputs": [BINARY_X, S], "outputs": [output("y")]}
    allowed = each(served, binary({**head, "parameters": {"allow_nan": True}}, NOT_FINITE))
    texts = [answer.body[answer.body.index(b'"data":') :] for answer in allowed]
    assert texts == [b'"data":[NaN,Infinity,-Infinity,3.0]}]}'] * 3
    in_process, http, grpc = each(served, binary(head, NOT_FINITE))
    assert (in_process.status, in_process.json()) == (grpc.status, grpc.json())
    assert in_process.status == 500
    assert http.status == 200, "a pin's answer by HTTP is the server's own text"


def differing() -> Iterator[tuple[str, tuple[bytes, dict[str, str]], list[int]]]:
    """What a server takes by HTTP, where the body is not read: statuses of ONNX, HTTP and gRPC."""
    yield "too large", plain(inputs=[{**X, "data": [1e39, 1, 2, 3]}, S]), [400, 200, 400]
    nan = json.dumps({"inputs": [X, S]}).replace("0.1", "NaN").encode()
    yield "NaN", (nan, {}), [400, 200, 400]
    yield "an output twice", plain(inputs=[X, S], outputs=[output("y"), output("y")]), [400, 200, 400]
    uneven = {**X, "shape": [1, 4], "data": [[1, 2], [3, 4]]}
    yield "nested unevenly", plain(inputs=[uneven, S]), [400, 200, 400]
    yield "a parameter that is no scalar", plain(inputs=[X, S], parameters={"a": [1]}), [200, 400, 400]


@pytest.mark.parametrize(
    ("request_", "statuses"), [(r, s) for _, r, s in differing()], ids=[n for n, _, _ in differing()]
)
def test_what_differs_is_what_the_reference_says(
    served: GatewayProcess, request_: tuple[bytes, dict[str, str]], statuses: list[int]
) -> None:
    assert [answer.status for answer in each(served, request_)] == statuses
