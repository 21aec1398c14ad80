"""Small models for tests, and a call as a backend sees it."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gateway.backends.base import Reply, State
from gateway.backends.onnx import OnnxBackend
from gateway.protocol.request import InferRequest, read_request

DEMO = Path(__file__).parents[3] / "configs" / "demo"
NUMBERS, INTEGERS = TensorProto.FLOAT, TensorProto.INT64


class Call:
    """What a backend reads of a request."""

    request_id = "r"
    via = "1.1 test"
    may_repeat = True

    def __init__(self, body: dict[str, Any] | bytes, header_length: int | None = None) -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.header_length = header_length

    def request(self) -> InferRequest:
        return read_request(self.body, self.header_length)


def saved(
    folder: Path,
    nodes: Sequence[NodeProto],
    shapes: tuple[list[Any], list[Any]],
    *,
    kinds: tuple[int, int] = (NUMBERS, NUMBERS),
    **tables: Any,
) -> Path:
    """A model from ``x`` to ``y``."""
    folder.mkdir(exist_ok=True)
    inputs = [helper.make_tensor_value_info("x", kinds[0], shapes[0])]
    outputs = [helper.make_tensor_value_info("y", kinds[1], shapes[1])]
    held = [numpy_helper.from_array(table, name) for name, table in tables.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, held), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def doubled(folder: Path, shape: Sequence[Any] = ("n", 2)) -> Path:
    """``y = x + x``."""
    return saved(folder, [helper.make_node("Add", ["x", "x"], ["y"])], (list(shape), list(shape)))


def looked_up(folder: Path) -> Path:
    """``y = table[x]`` with ten rows; another index makes the run fail."""
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    return saved(folder, nodes, (["n"], ["n", 2]), kinds=(INTEGERS, NUMBERS), table=table)


def added_up(folder: Path) -> Path:
    """``y = cumsum(table[x - 100])``: rows depend on those before them, and small made-up rows make the run fail."""
    nodes = [
        helper.make_node("Sub", ["x", "hundred"], ["i"]),
        helper.make_node("Gather", ["table", "i"], ["t"]),
        helper.make_node("CumSum", ["t", "axis"], ["y"]),
    ]
    constants = {
        "hundred": np.int64(100),
        "table": np.arange(1, 11, dtype=np.float32),
        "axis": np.int64(0),
    }
    tables = {name: np.array(value) for name, value in constants.items()}
    return saved(folder, nodes, (["n"], ["n"]), kinds=(INTEGERS, NUMBERS), **tables)


def centred(folder: Path) -> Path:
    """``y = x - mean(x)`` over all rows."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    return saved(folder, nodes, (["n", 2], ["n", 2]))


def scaled_by_the_largest(folder: Path) -> Path:
    """``y = x / max(100, largest of all x)``: rows mix once one of them is beyond 100."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=1),
        helper.make_node("Max", ["largest", "floor"], ["scale"]),
        helper.make_node("Div", ["x", "scale"], ["y"]),
    ]
    return saved(folder, nodes, (["n", 2], ["n", 2]), floor=np.array([[100.0]], np.float32))


def summed(folder: Path) -> Path:
    """``y = sum(x)``, a scalar."""
    return saved(folder, [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], (["n"], []))


def tensor(data: Any, datatype: str = "FP32", name: str = "x") -> dict[str, Any]:
    """A request with one input, nested as ``data`` is."""
    array = np.array(data)
    return {
        "inputs": [{"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}]
    }


async def opened(file: Path, **options: Any) -> OnnxBackend:
    backend = OnnxBackend(file, "m", "1", **options)
    await backend.open()
    assert backend.state is State.READY, backend.reason
    return backend


async def answered(backend: OnnxBackend, *calls: Call) -> list[Reply]:
    """The replies to calls that come in one turn of the loop."""
    replies: list[Reply | None] = [None] * len(calls)
    for index, call in enumerate(calls):
        backend.submit(call, 1e12, lambda reply, index=index: replies.__setitem__(index, reply))  # type: ignore[misc]
    while None in replies:
        await asyncio.sleep(0)
    return [reply for reply in replies if reply is not None]


def output(reply: Reply, name: str = "y") -> Any:
    assert reply.status == 200, reply.detail
    return next(o["data"] for o in json.loads(reply.body)["outputs"] if o["name"] == name)
