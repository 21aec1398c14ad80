"""Answers of versions in process: arrays into the protocol's JSON and binary form."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.protocol.binary import write_binary
from gateway.protocol.request import InferRequest
from gateway.protocol.shapes import TensorSpec

Array = NDArray[Any]


class NotFinite(Exception):
    """An output holds NaN or an infinity, which JSON cannot say."""

    def __init__(self, name: str) -> None:
        super().__init__(f"output {name!r} holds NaN or an infinity, which JSON cannot carry")


def write_answer(
    head: bytes, request: InferRequest, outputs: Sequence[tuple[TensorSpec, Array]]
) -> tuple[bytes, int | None]:
    """The body of an answer.

    Args:
        head: ``{"model_name":"…","model_version":"…"``, prepared, without the closing brace.
        request: What the client asked for, and how.
        outputs: What goes out, in order, each with its promise.

    Returns:
        The body, and the length of its JSON part when binary tensors follow.

    Raises:
        NotFinite: A NaN or an infinity in JSON, and the request does not allow it.
    """
    parts = [head]
    tail: list[bytes | memoryview] = []
    is_binary = False
    if request.id is not None:
        parts += [b',"id":', orjson.dumps(request.id)]
    parts.append(b',"outputs":[')
    for index, (spec, value) in enumerate(outputs):
        array, datatype = value, spec.datatype
        if count := request.classes(spec.name):
            array, datatype = _classes(array, count), "BYTES"
        parts.append(b"," if index else b"")
        described: dict[str, Any] = {"name": spec.name, "datatype": datatype, "shape": list(array.shape)}
        if request.is_binary(spec.name):
            is_binary = True
            pieces = write_binary(array)
            described["parameters"] = {"binary_data_size": sum(map(len, pieces))}
            parts.append(orjson.dumps(described))
            tail += pieces
        else:
            data = _data(spec.name, array, allow_nan=request.allow_nan)
            parts += [orjson.dumps(described)[:-1], b',"data":', data, b"}"]
    parts.append(b"]}")
    if not is_binary:
        return b"".join(parts), None
    return b"".join((*parts, *tail)), sum(map(len, parts))


def _classes(array: Array, count: int) -> Array:
    """The highest values of each row as ``value:index``, highest first."""
    rows = array.reshape(array.shape[0], prod(array.shape[1:]))
    if array.dtype.kind == "f":
        best = np.argsort(-rows, axis=1, kind="stable")[:, :count]  # NaN goes last
    else:  # never through a float; of equal ones the first goes first
        last = rows.shape[1] - 1
        best = (last - np.argsort(rows[:, ::-1], axis=1, kind="stable"))[:, ::-1][:, :count]
    out = np.empty(best.shape, dtype=np.object_)
    for row, places in enumerate(best):
        for column, place in enumerate(places):
            value = rows[row, place]
            out[row, column] = f"{value:f}:{place}" if array.dtype.kind == "f" else f"{int(value)}:{place}"
    return out


def _data(name: str, array: Array, *, allow_nan: bool) -> bytes:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        if not allow_nan:
            raise NotFinite(name)
        return b"[" + b",".join(_number(value) for value in array.ravel()) + b"]"
    if array.dtype.kind in "OU":
        return orjson.dumps([_text(value) for value in array.ravel().tolist()])
    return orjson.dumps(np.ascontiguousarray(array).ravel(), option=orjson.OPT_SERIALIZE_NUMPY)


def _number(value: Any) -> bytes:
    if np.isnan(value):
        return b"NaN"
    if np.isinf(value):
        return b"Infinity" if value > 0 else b"-Infinity"
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
