"""Answers read into tensors, JSON and binary alike, to be compared: on no client's way."""

import json
import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from math import nan, prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.protocol.shapes import ELEMENT_BYTES

Values = NDArray[np.float64] | list[Any]

FEW = 32  # floats that plain Python compares faster than numpy
_LENGTH = struct.Struct("<I")
_WIRE = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_FLOATS = frozenset({"FP16", "FP32", "FP64"})


class Unreadable(Exception):
    """An answer that is not one of the protocol."""


class Output:
    """One output tensor.

    Attributes:
        values: In row-major order: of floats, integers, booleans or text; large float tensors as float64 arrays.
    """

    __slots__ = ("datatype", "shape", "values")

    def __init__(self, datatype: str, shape: tuple[int, ...], values: Values) -> None:
        self.datatype = datatype
        self.shape = shape
        self.values = values


def read_outputs(body: bytes, header_length: int | None) -> dict[str, Output]:
    """Outputs of an answer by name.

    Args:
        body: A whole answer.
        header_length: Length of its JSON part when binary tensors follow, else ``None``.

    Raises:
        Unreadable: It is no answer of the protocol.
    """
    try:
        head = body if header_length is None else body[:header_length]
        at = len(head)
        found = {}
        for plain in _loads(head)["outputs"]:
            parameters = plain.get("parameters")
            size = parameters.get("binary_data_size") if parameters else None
            datatype, shape = plain["datatype"], tuple(plain["shape"])
            if size is None:
                values = _from_json(datatype, plain["data"])
            else:
                values = _from_binary(datatype, body[at : at + size])
                at += size
            if len(values) != prod(shape):
                raise Unreadable(f"output {plain['name']!r} has {len(values)} elements in shape {list(shape)}")
            found[plain["name"]] = Output(datatype, shape, values)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, struct.error) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from None
    return found


def _loads(head: bytes) -> Any:
    try:
        return orjson.loads(head)
    except orjson.JSONDecodeError:
        return json.loads(head)  # knows NaN and Infinity


def _from_json(datatype: str, data: list[Any]) -> Values:
    if data and type(data[0]) is list:
        data = list(_flat(data))
    if datatype not in _FLOATS:
        if datatype not in ELEMENT_BYTES:
            raise Unreadable(f"datatype {datatype!r} is not known")
        return data
    if len(data) > FEW:
        return np.array(data, np.float64)
    return [nan if value is None else value + 0.0 for value in data]


def _flat(data: Iterable[Any]) -> Iterator[Any]:
    return chain.from_iterable(_flat(item) if isinstance(item, list) else (item,) for item in data)


def _from_binary(datatype: str, data: bytes) -> Values:
    if datatype == "BYTES":
        return list(_strings(data))
    values = np.frombuffer(data, _WIRE[datatype])
    is_array = datatype in _FLOATS and values.size > FEW
    return values.astype(np.float64) if is_array else list(values.tolist())


def _strings(data: bytes) -> Iterator[str]:
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        if at > len(data):
            raise Unreadable("a string ends behind its tensor")
        yield data[at - length : at].decode("utf-8", "surrogateescape")
