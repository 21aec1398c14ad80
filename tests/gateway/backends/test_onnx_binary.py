"""Binary tensors of models in process: every datatype there and back, and what is refused."""

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
import pytest
from onnx import TensorProto, helper

from gateway.backends.base import Reply, State
from gateway.backends.onnx import OnnxBackend
from gateway.protocol.request import InferRequest, read_request
from gateway.protocol.shapes import DTYPES

TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def identity(folder: Path, datatype: str, shape: list[Any], *, inputs: int = 1) -> Path:
    """``y = x``, for each pair."""
    tensors = [
        [helper.make_tensor_value_info(f"{side}{n}", TYPES[datatype], shape) for n in range(inputs)] for side in "xy"
    ]
    nodes = [helper.make_node("Identity", [f"x{n}"], [f"y{n}"]) for n in range(inputs)]
    graph = helper.make_graph(nodes, "identity", *tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


class Call:
    request_id = "r"
    via = "1.1 test"
    may_repeat = True

    def __init__(self, body: bytes, header_length: int | None) -> None:
        self.body = body
        self.header_length = header_length

    def request(self) -> InferRequest:
        return read_request(self.body, self.header_length)


def ask(file: Path, *calls: tuple[bytes, int | None]) -> list[Reply]:
    async def scenario() -> list[Reply]:
        backend = OnnxBackend(file, "identity", "1")
        await backend.open()
        assert backend.state is State.READY, backend.reason
        replies = []
        for body, header_length in calls:
            reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            backend.submit(Call(body, header_length), 1e12, reply.set_result)
            replies.append(await reply)
        await backend.close()
        return replies

    return asyncio.run(scenario())


def packed(plain: dict[str, Any], *tails: bytes, pad: int = 0) -> tuple[bytes, int]:
    head = json.dumps(plain).encode() + b" " * pad
    return head + b"".join(tails), len(head)


def tensor(datatype: str, shape: list[int], size: Any, name: str = "x0") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


BINARY = {"binary_data_output": True}


def samples(datatype: str) -> bytes:
    """Six elements, the extremes among them."""
    if datatype == "BYTES":
        return strings(b"", b"a\0b", b"\0", "é€😀".encode(), b"x" * 300, b"\0\0")
    dtype = np.dtype(DTYPES[datatype])
    if dtype.kind == "b":
        return bytes([0, 1, 1, 0, 0, 1])
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return np.array([0.1, -0.0, np.nan, np.inf, -np.inf, limits.max], dtype).tobytes()
    wide = np.iinfo(dtype)
    return np.array([0, 1, wide.min, wide.max, 7, wide.max - 1], dtype).tobytes()


@pytest.mark.parametrize("datatype", TYPES)
def test_every_datatype_comes_back_bit_for_bit_wherever_it_lies_in_the_body(tmp_path: Path, datatype: str) -> None:
    data = samples(datatype)
    plain = {"inputs": [tensor(datatype, [2, 3], len(data))], "parameters": BINARY}
    for reply in ask(identity(tmp_path, datatype, ["n", 3]), *(packed(plain, data, pad=pad) for pad in range(9))):
        assert reply.status == 200, reply.detail
        assert reply.header_length is not None
        described = json.loads(reply.body[: reply.header_length])["outputs"][0]
        assert described == {**tensor(datatype, [2, 3], len(data)), "name": "y0"}
        assert reply.body[reply.header_length :] == data


@pytest.mark.parametrize("datatype", [t for t in TYPES if t not in {"FP16", "FP32", "FP64"}])
def test_json_and_binary_forms_say_the_same(tmp_path: Path, datatype: str) -> None:
    data = samples(datatype)
    file = identity(tmp_path, datatype, ["n", 3])
    as_json, *_ = ask(file, packed({"inputs": [tensor(datatype, [2, 3], len(data))]}, data))
    assert as_json.header_length is None
    output = json.loads(as_json.body)["outputs"][0]
    back, *_ = ask(file, (orjson.dumps({"inputs": [{**output, "name": "x0"}], "parameters": BINARY}), None))
    assert back.header_length is not None
    assert back.body[back.header_length :] == data


def test_floats_are_written_shortest_and_read_back_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 1 << 32, 4000, np.uint32).view(np.float32)
    data = values[np.isfinite(values)]
    reply, *_ = ask(
        identity(tmp_path, "FP32", ["n"]),
        packed({"inputs": [tensor("FP32", [data.size], data.nbytes)]}, data.tobytes()),
    )
    assert np.array(json.loads(reply.body)["outputs"][0]["data"], np.float32).tobytes() == data.tobytes()


def test_json_and_binary_mix_on_both_sides(tmp_path: Path) -> None:
    data = np.arange(3, dtype=np.int64).tobytes()
    plain = {
        "id": "7",
        "inputs": [
            tensor("INT64", [3], 24),
            {"name": "x1", "shape": [2], "datatype": "INT64", "data": [2**53 + 1, -(2**63)]},
            tensor("INT64", [0], 0, "x2"),
        ],
        "outputs": [{"name": "y2"}, {"name": "y1", "parameters": {"binary_data": False}}, {"name": "y0"}],
        "parameters": BINARY,
    }
    reply, *_ = ask(identity(tmp_path, "INT64", [None], inputs=3), packed(plain, data))
    assert reply.header_length is not None
    answer = json.loads(reply.body[: reply.header_length])
    assert answer["id"] == "7"
    assert [output["name"] for output in answer["outputs"]] == ["y2", "y1", "y0"]
    assert answer["outputs"][1]["data"] == [2**53 + 1, -(2**63)]
    assert reply.body[reply.header_length :] == data


def test_unsigned_integers_of_any_size_are_exact_in_json(tmp_path: Path) -> None:
    file = identity(tmp_path, "UINT64", [None])
    data = [1, 2**63, 2**64 - 1, 2**53 + 1]
    item = {"name": "x0", "shape": [4], "datatype": "UINT64", "data": data}
    good, bad = ask(
        file,
        (orjson.dumps({"inputs": [item]}), None),
        (orjson.dumps({"inputs": [{**item, "data": [1, 2**63, -1, 1.5]}]}), None),
    )
    assert json.loads(good.body)["outputs"][0]["data"] == data
    assert bad.status == 400


@pytest.mark.parametrize(
    ("datatype", "body", "shape"),
    [
        ("FP32", np.arange(6, dtype=np.float32).tobytes(), [2, 3]),
        ("INT8", bytes(range(3)), [1, 3]),
    ],
)
def test_a_raw_request_is_its_one_input(tmp_path: Path, datatype: str, body: bytes, shape: list[int]) -> None:
    good, odd = ask(identity(tmp_path, datatype, ["n", 3]), (body, 0), (body + b"\0", 0))
    assert good.header_length is not None
    assert json.loads(good.body[: good.header_length])["outputs"][0]["shape"] == shape
    assert good.body[good.header_length :] == body
    assert odd.status == 400


def test_a_raw_string_is_the_whole_body(tmp_path: Path) -> None:
    good, bad = ask(identity(tmp_path, "BYTES", [None]), ("427 é".encode(), 0), (b"\xff", 0))
    assert good.header_length is not None
    assert good.body[good.header_length :] == strings("427 é".encode())
    assert bad.status == 400


@pytest.mark.parametrize(
    ("shape", "inputs", "words"), [(["a", "b"], 1, "at most one variable"), (["a"], 2, "carries one input")]
)
def test_a_raw_request_needs_one_input_whose_shape_follows(
    tmp_path: Path, shape: list[Any], inputs: int, words: str
) -> None:
    reply, *_ = ask(identity(tmp_path, "FP32", shape, inputs=inputs), (bytes(4), 0))
    assert reply.status == 400
    assert words in reply.detail


BAD_NUMBERS: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "too short": (tensor("INT32", [2], 8), bytes(4), "4 are left"),
    "too long": (tensor("INT32", [2], 8), bytes(12), "4 bytes follow"),
    "size and shape differ": (tensor("INT32", [3], 8), bytes(8), "needs 12"),
    "negative size": (tensor("INT32", [2], -8), bytes(8), "no number of bytes"),
    "size no number": (tensor("INT32", [2], "8"), bytes(8), "no number of bytes"),
    "huge size": (tensor("INT32", [2], 1 << 70), bytes(8), "binary_data_size|are left"),
    "huge shape": (tensor("INT32", [16, (1 << 60) + 2], 128), bytes(128), "more than"),
    "negative dimension": (tensor("INT32", [-2], 8), bytes(8), "negative dimension"),
    "other datatype": (tensor("FP32", [2], 8), bytes(8), "INT32 is expected"),
    "data as well": ({**tensor("INT32", [2], 8), "data": [1, 2]}, bytes(8), "both"),
    "nothing described": (
        {"name": "x0", "shape": [2], "datatype": "INT32", "data": [1, 2]},
        bytes(8),
        "8 bytes follow",
    ),
    "shared memory": (
        {"name": "x0", "shape": [2], "datatype": "INT32", "parameters": {"shared_memory_region": "r"}},
        b"x",
        "shared memory",
    ),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_sizes_that_do_not_add_up_are_400(tmp_path: Path, case: str) -> None:
    item, tail, words = BAD_NUMBERS[case]
    reply, *_ = ask(identity(tmp_path, "INT32", [None]), packed({"inputs": [item]}, tail))
    assert reply.status == 400
    assert any(word in reply.detail for word in words.split("|")), reply.detail


BAD_STRINGS: dict[str, tuple[list[int], bytes, str]] = {
    "a length beyond the end": ([1], struct.pack("<I", 9) + b"abc", "are not 1 strings"),
    "half a length": ([1], b"\x01\x00", "are not 1 strings"),
    "one too few": ([2], strings(b"abcdefgh"), "are not 2 strings"),
    "one too many": ([1], strings(b"a", b"b"), "are not 1 strings"),
    "a huge length": ([1], struct.pack("<I", 0xFFFFFFFF), "are not 1 strings"),
    "a huge count": ([1 << 30], strings(b"a"), "are not 1073741824 strings"),
    "no UTF-8": ([2], strings(b"a", b"\xff\xfe"), "element 1 is no UTF-8"),
}


@pytest.mark.parametrize("case", BAD_STRINGS)
def test_strings_that_do_not_fill_their_bytes_are_400(tmp_path: Path, case: str) -> None:
    shape, data, words = BAD_STRINGS[case]
    reply, *_ = ask(identity(tmp_path, "BYTES", [None]), packed({"inputs": [tensor("BYTES", shape, len(data))]}, data))
    assert reply.status == 400
    assert words in reply.detail


def test_nested_strings_must_be_nested_as_their_shape_says(tmp_path: Path) -> None:
    item = {"name": "x0", "shape": [2, 2], "datatype": "BYTES"}
    good, bad = ask(
        identity(tmp_path, "BYTES", [None, 2]),
        (orjson.dumps({"inputs": [{**item, "data": [["a", "b"], ["c", "d"]]}]}), None),
        (orjson.dumps({"inputs": [{**item, "data": [["a", "b", "c"], ["d"]]}]}), None),
    )
    assert json.loads(good.body)["outputs"][0]["data"] == ["a", "b", "c", "d"]
    assert bad.status == 400


def test_a_bool_is_0_or_1(tmp_path: Path) -> None:
    reply, *_ = ask(identity(tmp_path, "BOOL", [None]), packed({"inputs": [tensor("BOOL", [2], 2)]}, b"\x01\x02"))
    assert reply.status == 400


def test_fp16_is_binary_only_and_says_so(tmp_path: Path) -> None:
    data = np.array([0.5, 2], np.float16).tobytes()
    item = {"name": "x0", "shape": [2], "datatype": "FP16", "data": [0.5, 2]}
    as_json, half = ask(
        identity(tmp_path, "FP16", [None]),
        (orjson.dumps({"inputs": [item], "parameters": BINARY}), None),
        packed({"inputs": [tensor("FP16", [2], 4)]}, data),
    )
    assert (as_json.status, half.status) == (400, 400)
    assert "binary_data_size" in as_json.detail
    assert '"binary_data": true' in half.detail


def test_a_binary_size_without_the_header_is_400(tmp_path: Path) -> None:
    body = orjson.dumps({"inputs": [tensor("INT32", [2], 8)]})
    reply, *_ = ask(identity(tmp_path, "INT32", [None]), (body, None))
    assert reply.status == 400
    assert "Inference-Header-Content-Length" in reply.detail


def test_classification_names_the_highest_values_of_each_row(tmp_path: Path) -> None:
    item = {"name": "x0", "shape": [2, 3], "datatype": "FP32", "data": [0.5, 0.25, 1, 3, 3, -1]}
    asked = {"inputs": [item], "outputs": [{"name": "y0", "parameters": {"classification": 2}}]}
    reply, *_ = ask(identity(tmp_path, "FP32", ["n", 3]), (orjson.dumps(asked), None))
    output = json.loads(reply.body)["outputs"][0]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["1.000000:2", "0.500000:0", "3.000000:0", "3.000000:1"]


@pytest.mark.parametrize("classes", [-1, "2", 1.5, True])
def test_a_number_of_classes_is_a_number(tmp_path: Path, classes: Any) -> None:
    item = {"name": "x0", "shape": [1, 3], "datatype": "FP32", "data": [0.5, 0.25, 1]}
    asked = {"inputs": [item], "outputs": [{"name": "y0", "parameters": {"classification": classes}}]}
    reply, *_ = ask(identity(tmp_path, "FP32", ["n", 3]), (orjson.dumps(asked), None))
    assert reply.status == 400
