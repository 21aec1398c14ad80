"""Whether an answer is what its version promises: names, datatypes, shapes, counts, values."""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from gateway.protocol.shapes import ELEMENT_BYTES, LENGTH, MAX_ELEMENTS, MAX_RANK, Signature, TensorSpec, element_count

_JSON_TYPES: dict[str, frozenset[type]] = {
    "BOOL": frozenset({bool}),
    "BYTES": frozenset({str}),
    **{name: frozenset({int, float}) for name in ("FP16", "FP32", "FP64")},
}
_INTEGER = frozenset({int})
_FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
_LARGEST = {
    "FP16": float(np.finfo(np.float16).max),
    "FP32": float(np.finfo(np.float32).max),
    "FP64": float(np.finfo(np.float64).max),
}
_RANGE = {
    name: (int(np.iinfo(name.lower()).min), int(np.iinfo(name.lower()).max))
    for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
}
FEW = 64  # floats that plain Python looks at faster than numpy


class _Breach(Exception):
    """The answer breaks its contract; the message is the sentence."""


def check_answer(
    body: bytes,
    header_length: int | None,
    signature: Signature,
    *,
    requested: Sequence[str] | None,
    nan_ok: bool,
) -> str | None:
    """Hold a complete answer against a signature.

    Args:
        body: A whole answer.
        header_length: Length of its JSON part when binary tensors follow, else ``None``.
        signature: What the version promises.
        requested: Outputs that the request named; ``None`` or none at all means every output.
        nan_ok: Whether NaN and infinities are legal values in JSON. In binary form they always are.

    Returns:
        ``None`` for a good answer, else a sentence that says what is wrong with it. Takes time linear in ``body``.
    """
    try:
        outputs, binary_bytes = _parse(body, header_length, nan_ok)
        specs = {spec.name: spec for spec in signature.outputs}
        _check_names(outputs, specs, requested)
        _check_tensors(outputs, specs, body, len(body) - binary_bytes, nan_ok)
    except _Breach as breach:
        return str(breach)
    return None


def _check_tensors(
    outputs: list[dict[str, Any]], specs: dict[str, TensorSpec], body: bytes, at: int, nan_ok: bool
) -> None:
    batch: tuple[str, int] | None = None
    for output in outputs:
        spec = specs[output["name"]]
        shape = _check_shape(output, spec)
        if spec.shape and spec.shape[0] == -1:
            batch = batch or (spec.name, shape[0])
            if batch[1] != shape[0]:
                raise _Breach(f"output {spec.name!r} has {shape[0]} rows, output {batch[0]!r} has {batch[1]}")
        size = _binary_size(output)
        if size is None:
            _check_json(output, spec, shape, nan_ok)
        else:
            _check_binary(body, at, size, spec, shape)
            at += size
    if at != len(body):
        raise _Breach(f"{len(body) - at} bytes follow that no output describes")


def _parse(body: bytes, header_length: int | None, nan_ok: bool) -> tuple[list[dict[str, Any]], int]:
    if header_length is not None and not 0 <= header_length <= len(body):
        raise _Breach(f"the JSON part is {header_length} bytes of an answer of {len(body)}")
    head = body if header_length is None else body[:header_length]
    document = _decode(head, nan_ok)
    outputs = document.get("outputs") if isinstance(document, dict) else None
    if not isinstance(outputs, list):
        raise _Breach("the answer has no list of outputs")
    if not all(isinstance(output, dict) and isinstance(output.get("name"), str) for output in outputs):
        raise _Breach("an output is not an object with a name")
    return outputs, len(body) - len(head)


def _decode(head: bytes, nan_ok: bool) -> object:
    try:
        return orjson.loads(head)
    except orjson.JSONDecodeError as problem:
        sentence = f"the answer is not JSON: {problem}"
        if not nan_ok:
            if b"NaN" in head or b"Infinity" in head:
                sentence = "the answer is not JSON: it contains NaN or Infinity"
            raise _Breach(sentence) from None
    try:
        return json.loads(head)
    except (ValueError, RecursionError):
        raise _Breach(sentence) from None


def _check_names(outputs: list[dict[str, Any]], specs: dict[str, TensorSpec], requested: Sequence[str] | None) -> None:
    seen: set[str] = set()
    for output in outputs:
        name = output["name"]
        if name in seen:
            raise _Breach(f"output {name!r} is there twice")
        if name not in specs:
            raise _Breach(f"output {name!r} is not one that the version has")
        seen.add(name)
    for name in requested or specs:
        if name not in seen:
            raise _Breach(f"output {name!r} is missing")


def _check_shape(output: dict[str, Any], spec: TensorSpec) -> list[int]:
    datatype, shape = output.get("datatype"), output.get("shape")
    if datatype != spec.datatype:
        raise _Breach(f"output {spec.name!r} has datatype {datatype!r}, not {spec.datatype}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
        raise _Breach(f"output {spec.name!r} has no shape of non-negative integers")
    if not spec.admits(shape):
        raise _Breach(f"output {spec.name!r} has shape {shape}, not {list(spec.shape)}")
    if element_count(shape) > MAX_ELEMENTS:
        raise _Breach(f"output {spec.name!r} has more than {MAX_ELEMENTS} elements")
    return shape


# Binary outputs.


def _binary_size(output: dict[str, Any]) -> int | None:
    parameters = output.get("parameters")
    if not isinstance(parameters, dict) or "binary_data_size" not in parameters:
        return None
    name, size = output["name"], parameters["binary_data_size"]
    if type(size) is not int or size < 0:
        raise _Breach(f"output {name!r} has a binary_data_size of {size!r}")
    if "data" in output:
        raise _Breach(f"output {name!r} has both JSON and binary data")
    return size


def _check_binary(body: bytes, at: int, size: int, spec: TensorSpec, shape: list[int]) -> None:
    if at + size > len(body):
        raise _Breach(f"output {spec.name!r} ends {at + size - len(body)} bytes behind the answer")
    count, item_bytes = element_count(shape), ELEMENT_BYTES[spec.datatype]
    if item_bytes is None:
        if _strings_in(body, at, at + size, count) != count:
            raise _Breach(f"output {spec.name!r} is not {count} strings with their lengths in {size} bytes")
    elif size != count * item_bytes:
        raise _Breach(f"output {spec.name!r} has {size} bytes, shape {shape} of {spec.datatype} needs another number")


def _strings_in(body: bytes, at: int, end: int, at_most: int) -> int:
    """How many length-prefixed strings fill ``body[at:end]``; -1 when they do not fill it exactly."""
    count = 0
    while at + LENGTH.size <= end and count < at_most:
        at += LENGTH.size + LENGTH.unpack_from(body, at)[0]
        count += 1
    return count if at == end else -1


# JSON outputs.


def _check_json(output: dict[str, Any], spec: TensorSpec, shape: list[int], nan_ok: bool) -> None:
    data = output.get("data")
    if not isinstance(data, list):
        raise _Breach(f"output {spec.name!r} has no data")
    flat = _flat(data, spec, shape)
    types = set(map(type, flat))
    if type(None) in types:
        raise _Breach(f"output {spec.name!r} contains null, which is how some servers write NaN")
    strange = types - _JSON_TYPES.get(spec.datatype, _INTEGER)
    if strange:
        names = ", ".join(sorted(kind.__name__ for kind in strange))
        raise _Breach(f"output {spec.name!r} of {spec.datatype} contains {names}")
    if not flat:
        return
    if spec.datatype in _FLOATS:
        if not nan_ok and not _is_finite(flat, spec.datatype):
            raise _Breach(f"output {spec.name!r} contains a value that is not a finite {spec.datatype}")
    elif int in types:
        lowest, highest = _RANGE[spec.datatype]
        if min(flat) < lowest or max(flat) > highest:
            raise _Breach(f"output {spec.name!r} contains a value outside {spec.datatype}")


def _flat(data: list[Any], spec: TensorSpec, shape: list[int]) -> list[Any]:
    """Elements in row-major order, from flat data or data nested exactly as ``shape`` says."""
    level: list[Any] = data
    if len(shape) > 1 and data and type(data[0]) is list:
        for depth, size in enumerate(shape):
            if depth:
                if set(map(type, level)) - {list}:
                    raise _Breach(f"output {spec.name!r} is nested unevenly")
                rows: Iterable[list[Any]] = level
                if set(map(len, rows)) - {size}:
                    raise _Breach(f"output {spec.name!r} has a row that is not of {size} at depth {depth}")
                level = list(chain.from_iterable(rows))
            elif len(level) != size:
                raise _Breach(f"output {spec.name!r} has {len(level)} rows, its shape is {shape}")
    elif len(level) != element_count(shape):
        raise _Breach(f"output {spec.name!r} has {len(level)} elements, its shape is {shape}")
    return level


def _is_finite(flat: list[Any], datatype: str) -> bool:
    if len(flat) <= FEW:
        limit = _LARGEST[datatype]
        if all(-limit <= value <= limit for value in flat):  # which no NaN is
            return True
    try:
        values = np.fromiter(flat, np.float64, len(flat))
    except OverflowError:
        return False
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(_FLOATS[datatype])).all())
