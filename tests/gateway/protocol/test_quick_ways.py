"""The quick ways of reading and writing give exactly what the careful ones give."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.protocol import request as reading
from gateway.protocol import tensors
from gateway.protocol.form import Form, InferRequest, InputTensor
from gateway.protocol.request import read_request
from gateway.protocol.response import OPENINGS_KEPT, AnswerWriter
from gateway.protocol.shapes import DTYPES, TensorSpec

NUMBERS = [name for name in DTYPES if name not in {"BOOL", "BYTES", "FP16"}]
element = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, 1, 255, 256, 2**31, 2**63, 1e39, -1e39, 3.4028235e38, 0.5]),
    st.sampled_from([True, None, "1", [1], {}]),
)


def outcome(read: Any, tensor: InputTensor) -> Any:
    try:
        found = read(tensor)
    except BadRequest as error:
        return str(error)
    return found.dtype, found.ravel().tolist()


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NUMBERS), st.lists(st.one_of(st.integers(0, 9), element), max_size=6), st.integers(0, 1))
def test_numbers_are_read_the_same_both_ways(datatype: str, data: list[Any], more: int) -> None:
    row = InputTensor("x", datatype, (1, len(data) + more), [data])
    for tensor in (row, InputTensor("x", datatype, (len(data) + more,), data)):
        assert outcome(tensors._quick_numbers, tensor) == outcome(tensors._numbers, tensor)


@pytest.mark.parametrize("count", [3, 1000])
def test_a_number_too_large_is_seen_among_few_and_many(count: int) -> None:
    data = [1.0] * count + [1e39, -1e39]
    with pytest.raises(BadRequest, match="too large"):
        tensors._quick_numbers(InputTensor("x", "FP32", (count + 2,), data, may_hold_booleans=False))


@pytest.mark.parametrize("word", ["true", "false"])
@pytest.mark.parametrize("name", ["x", "lulu"])
def test_booleans_are_seen_wherever_they_stand(word: str, name: str) -> None:
    body = f'{{"inputs":[{{"name":"{name}","shape":[3],"datatype":"FP32","data":[1,0,{word}]}}]}}'.encode()
    tensor = read_request(body).inputs[name]
    with pytest.raises(BadRequest, match="no FP32"):
        tensors._quick_numbers(tensor)


def binary(data: np.ndarray[Any, Any], **more: Any) -> tuple[bytes, int]:
    item = {"name": "x", "shape": list(data.shape), "datatype": "FP32", "parameters": {"binary_data_size": data.nbytes}}
    head = json.dumps({"inputs": [item], **more}).encode()
    return head + data.tobytes(), len(head)


def test_the_same_head_with_other_data_is_another_request() -> None:
    reading._kept_head.cache_clear()
    for n in range(3):
        body, length = binary(np.full((2, 3), n, np.float32))
        request = read_request(body, length)
        assert np.frombuffer(request.inputs["x"].data, np.float32).tolist() == [n] * 6
    assert reading._kept_head.cache_info().hits == 2
    with pytest.raises(BadRequest, match="are left"):
        read_request(body[:-1], length)
    with pytest.raises(BadRequest, match="that no input describes"):
        read_request(body + b"x", length)


def test_kept_heads_are_bounded_in_number_and_size() -> None:
    reading._kept_head.cache_clear()
    for n in range(reading.HEADERS_KEPT + 50):
        assert read_request(*binary(np.zeros(1, np.float32), id=str(n))).id == str(n)
    assert reading._kept_head.cache_info().currsize == reading.HEADERS_KEPT
    reading._kept_head.cache_clear()
    read_request(*binary(np.zeros(1, np.float32), id="i" * reading.HEADER_KEPT_BYTES))
    assert reading._kept_head.cache_info().currsize == 0


SPECS = [TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "INT64", (-1,)), TensorSpec("c", "BYTES", (-1,))]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.none() | st.text(), st.floats(width=32), st.text()), min_size=1, max_size=5), st.booleans()
)
def test_rows_are_written_together_as_each_would_be(rows: list[tuple[str | None, float, str]], binary: bool) -> None:
    parameters = {"binary_data_output": True} if binary else {"allow_nan": True}
    requests = [InferRequest(Form(parameters, {}, None), row[0]) for row in rows]
    values = [
        np.array([[row[1], 0.1, -0.0] for row in rows], np.float32),
        np.arange(len(rows)),
        np.array([row[2] for row in rows], np.object_),
    ]
    writer = AnswerWriter("m", "1")
    for count in (2, 3):
        outputs = list(zip(SPECS[:count], values[:count], strict=True))
        together = writer.write_rows(requests, outputs)
        has_reason = (binary and count == 3) or (not binary and not np.isfinite(values[0]).all())
        assert (together is None) == has_reason
        for n, body in enumerate(together or ()):
            alone = AnswerWriter("m", "1").write(requests[n], [(spec, value[n : n + 1]) for spec, value in outputs])
            assert body == alone


def test_an_answer_is_json_that_says_its_shape() -> None:
    writer = AnswerWriter("m", "1")
    plain = InferRequest(Form({}, {}, None), "i")
    for n in range(OPENINGS_KEPT + 20):
        body, length = writer.write(plain, [(SPECS[0], np.ones((n, 3), np.float32))])
        assert length is None
        assert orjson.loads(body)["outputs"] == [
            {"name": "a", "datatype": "FP32", "shape": [n, 3], "data": [1.0] * 3 * n}
        ]
    assert len(writer._openings) == OPENINGS_KEPT
