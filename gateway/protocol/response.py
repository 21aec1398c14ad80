"""Answers of versions in process: arrays into the protocol's JSON and binary form."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from math import prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.protocol.binary import write_binary
from gateway.protocol.form import InferRequest
from gateway.protocol.shapes import TensorSpec

Array = NDArray[Any]

OPENINGS_KEPT = 256  # shapes whose description a version keeps
_OUTPUTS = b',"outputs":['
_NULL = b"null"  # how orjson writes NaN and infinities; no finite number holds it


class NoJson(Exception):
    """An output holds what JSON cannot say."""


class NotFinite(NoJson):
    """NaN or an infinity."""

    def __init__(self, name: str) -> None:
        super().__init__(f"output {name!r} holds NaN or an infinity, which JSON cannot carry")


class NotText(NoJson):
    """Bytes that are no UTF-8. It names no output: of an answer that comes as text nobody knows which one it was."""

    def __init__(self) -> None:
        super().__init__("an output holds bytes that are no UTF-8, which JSON cannot carry: ask for it in binary form")


Body = tuple[bytes, int | None]  # and the length of its JSON part when binary tensors follow
Output = tuple[TensorSpec, Array]


class AnswerWriter:
    """Writes the answers of one version. What stands before the data is made once for each shape.

    Args:
        model: Name in the answers.
        version: The same.
    """

    __slots__ = ("_head", "_openings", "_plain")

    def __init__(self, model: str, version: str) -> None:
        self._plain = orjson.dumps({"model_name": model, "model_version": version})[:-1]
        self._head = self._plain + _OUTPUTS
        self._openings: dict[tuple[str, str, tuple[int, ...], int], bytes] = {}

    def write(self, request: InferRequest, outputs: Sequence[Output]) -> Body:
        """The body of an answer.

        Args:
            request: What the client asked for, and how.
            outputs: What goes out, in order, each with its promise.

        Raises:
            NotFinite: A NaN or an infinity in JSON, and the request does not allow it.
        """
        form = request.form
        parts = [self._begin(request)]
        tail: list[bytes | memoryview] = []
        is_binary = False
        for spec, value in outputs:
            array, datatype = value, spec.datatype
            if not form.is_plain and (count := form.classes(spec.name)):
                array, datatype = _classes(value, count), "BYTES"
            if not form.is_plain and form.is_binary(spec.name):
                is_binary = True
                pieces = write_binary(array)
                tail += pieces
                parts += [self._opening(spec.name, datatype, array.shape, sum(map(len, pieces))), b","]
            else:
                parts += [self._opening(spec.name, datatype, array.shape), json_data(spec.name, array, request), b"},"]
        if outputs:
            parts[-1] = parts[-1][:-1]
        parts.append(b"]}")
        if not is_binary:
            return b"".join(parts), None
        return b"".join((*parts, *tail)), sum(map(len, parts))

    def write_rows(self, requests: Sequence[InferRequest], outputs: Sequence[Output]) -> list[Body] | None:
        """The bodies for requests of one row each, from arrays that hold one row for each request.

        Every byte is as ``write`` would have it; the numbers of all rows become text, or bytes, at once.

        Returns:
            The bodies, or ``None`` where each has to be written by itself: for some all as JSON and for some all in
            binary form, or as each output is asked for, or where there are NaN or infinities.
        """
        if False not in [request.form.is_plain for request in requests]:
            return self._text_rows(requests, outputs)
        if False not in [request.form.outputs is None and request.form.binary for request in requests]:
            return self._binary_rows(requests, outputs)
        return None

    def _text_rows(self, requests: Sequence[InferRequest], outputs: Sequence[Output]) -> list[Body] | None:
        columns: list[Iterable[bytes]] = []
        close = b""
        for spec, array in outputs:
            texts = _row_texts(array)
            if texts is None:
                return None
            columns += [repeat(close + self._opening(spec.name, spec.datatype, (1, *array.shape[1:])) + b"["), texts]
            close = b"]},"
        begins = [self._head if request.id is None else self._begin(request) for request in requests]
        return list(
            zip(map(b"".join, zip(begins, *columns, repeat(b"]}]}"), strict=False)), repeat(None), strict=False)
        )

    def _binary_rows(self, requests: Sequence[InferRequest], outputs: Sequence[Output]) -> list[Body] | None:
        opened: list[bytes] = []
        columns: list[list[bytes]] = []
        for spec, array in outputs:
            if array.dtype.kind in "OU":
                return None
            data = array.tobytes()
            size = len(data) // len(requests)
            opened += [self._opening(spec.name, spec.datatype, (1, *array.shape[1:]), size), b","]
            columns.append(
                [data[at : at + size] for at in range(0, len(data), size)] if size else [b""] * len(requests)
            )
        opened[-1] = b"]}"
        described = b"".join(opened)
        usual = self._head + described
        heads = [usual if request.id is None else self._begin(request) + described for request in requests]
        return list(zip(map(b"".join, zip(heads, *columns, strict=True)), map(len, heads), strict=True))

    def _begin(self, request: InferRequest) -> bytes:
        if request.id is None:
            return self._head
        return self._plain + b',"id":' + orjson.dumps(request.id) + _OUTPUTS

    def _opening(self, name: str, datatype: str, shape: tuple[int, ...], binary_bytes: int = -1) -> bytes:
        """An output in JSON: up to its data, or all of it where the data are in the binary part."""
        place = datatype, name, shape, binary_bytes
        opening = self._openings.get(place)
        if opening is not None:
            return opening
        described: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary_bytes < 0:
            opening = orjson.dumps(described)[:-1] + b',"data":'
        else:
            described["parameters"] = {"binary_data_size": binary_bytes}
            opening = orjson.dumps(described)
        is_usual = datatype != "BYTES" or binary_bytes < 0  # strings in binary form have any size
        if is_usual and len(self._openings) < OPENINGS_KEPT:
            self._openings[place] = opening
        return opening


def _row_texts(array: Array) -> list[bytes] | None:
    """For each row the elements as JSON, without brackets; ``None`` where that cannot be had from one text."""
    if array.dtype.kind in "OU":
        rows = array.reshape(len(array), -1).tolist()
        return [orjson.dumps([_text(value) for value in row])[1:-1] for row in rows]
    flat = array if array.ndim == 1 else array.reshape(len(array), prod(array.shape[1:]))
    if not flat.size or not flat.flags.c_contiguous or not flat.flags.aligned:
        return None
    text = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    if _NULL in text:
        return None
    return text[1:-1].split(b",") if flat.ndim == 1 else text[2:-2].split(b"],[")


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


def json_data(name: str, array: Array, request: InferRequest) -> bytes:
    """The elements of an output as a JSON list.

    Raises:
        NotFinite: One is NaN or an infinity, and the request does not allow it.
    """
    kind = array.dtype.kind
    if kind in "OU":
        return orjson.dumps([_text(value) for value in array.ravel().tolist()])
    flat = array.ravel()
    text = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    if kind != "f" or _NULL not in text:
        return text
    if not request.allow_nan:
        raise NotFinite(name)
    return b"[" + b",".join(_number(value) for value in flat) + b"]"


def _number(value: Any) -> bytes:
    if np.isnan(value):
        return b"NaN"
    if np.isinf(value):
        return b"Infinity" if value > 0 else b"-Infinity"
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
