"""Tensors between the protocol's JSON and numpy, bound to a version's signature."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.errors import BadRequest
from gateway.protocol.request import InferRequest, InputTensor
from gateway.protocol.shapes import Signature, TensorSpec, element_count

Array = NDArray[Any]

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}


class NotFinite(Exception):
    """An output holds NaN or an infinity, which JSON cannot say."""

    def __init__(self, name: str) -> None:
        super().__init__(f"output {name!r} holds NaN or an infinity, which JSON cannot carry")


def bind(request: InferRequest, signature: Signature, dims: Mapping[str, Sequence[str | int]]) -> dict[str, Array]:
    """Arrays for every input of a version.

    Args:
        request: What the client sent.
        signature: What the version expects.
        dims: By input, the names or sizes of its dimensions; equal names must have equal sizes.

    Raises:
        BadRequest: Missing, extra or misfitting inputs, or an unknown output.
    """
    expected = {spec.name: spec for spec in signature.inputs}
    if missing := [name for name in expected if name not in request.inputs]:
        raise BadRequest(f"input {missing[0]!r} is missing; expected are {_listed(expected)}")
    if extra := [name for name in request.inputs if name not in expected]:
        raise BadRequest(f"input {extra[0]!r} is unknown; expected are {_listed(expected)}")
    if request.outputs is not None:
        known = [spec.name for spec in signature.outputs]
        if unknown := [name for name in request.outputs if name not in known]:
            raise BadRequest(f"output {unknown[0]!r} is unknown; there are {_listed(known)}")
    arrays = {name: _array(request.inputs[name], spec) for name, spec in expected.items()}
    _check_named_sizes(arrays, dims)
    return arrays


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _check_named_sizes(arrays: Mapping[str, Array], dims: Mapping[str, Sequence[str | int]]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        for dim, size in zip(dims.get(name, ()), array.shape, strict=False):
            if not isinstance(dim, str):
                continue
            other_size, other = sizes.setdefault(dim, (size, name))
            if other_size != size:
                raise BadRequest(f"inputs {other!r} and {name!r} disagree on {dim!r}: {other_size} and {size}")


def _array(tensor: InputTensor, spec: TensorSpec) -> Array:
    if tensor.datatype != spec.datatype:
        raise BadRequest(f"input {tensor.name!r} has datatype {tensor.datatype}, {spec.datatype} is expected")
    if not spec.admits(tensor.shape):
        raise BadRequest(
            f"input {tensor.name!r} has shape {list(tensor.shape)}, {list(spec.shape)} is expected (-1: any size)"
        )
    array = _strings(tensor) if tensor.datatype == "BYTES" else _numbers(tensor)
    return array.reshape(tensor.shape)


def _flat(data: Any) -> Iterator[Any]:
    if isinstance(data, list):
        for item in data:
            yield from _flat(item)
    else:
        yield data


def _strings(tensor: InputTensor) -> Array:
    data = tensor.data
    if not isinstance(data, list):
        raise BadRequest(f"`data` of input {tensor.name!r} is not a list")
    flat = data if not data or not isinstance(data[0], list) else list(_flat(data))
    count = element_count(tensor.shape)
    if len(flat) != count:
        raise BadRequest(f"input {tensor.name!r} holds {len(flat)} elements, its shape asks for {count}")
    if not all(type(item) is str for item in flat):
        raise BadRequest(f"input {tensor.name!r} is BYTES and holds something that is not a string")
    out = np.empty(count, dtype=np.object_)
    out[:] = flat
    return out


def _numbers(tensor: InputTensor) -> Array:
    name, data = tensor.name, tensor.data
    if not isinstance(data, list):
        raise BadRequest(f"`data` of input {name!r} is not a list")
    try:
        found = np.array(data)
    except (ValueError, OverflowError, TypeError):
        raise BadRequest(f"`data` of input {name!r} is nested unevenly") from None
    count = element_count(tensor.shape)
    if found.size != count:
        raise BadRequest(f"input {name!r} holds {found.size} elements, its shape asks for {count}")
    if found.ndim > 1 and found.shape != tensor.shape:
        raise BadRequest(f"`data` of input {name!r} is nested as {list(found.shape)}, not as its shape says")
    dtype = np.dtype(DTYPES[tensor.datatype])
    if count == 0:
        return np.empty(0, dtype)
    _check_kind(found, dtype, tensor)
    with np.errstate(over="ignore"):
        cast = found.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(cast).all():
        raise BadRequest(f"input {name!r} holds a number too large for {tensor.datatype}")
    return cast


def _check_kind(found: Array, dtype: np.dtype[Any], tensor: InputTensor) -> None:
    """Refuse what numpy would silently convert: strings, null, fractions for integers, sizes that wrap."""
    wanted = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if found.dtype.kind not in wanted:
        raise BadRequest(f"input {tensor.name!r} holds something that is no {tensor.datatype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise BadRequest(f"input {tensor.name!r} holds a number that does not fit {tensor.datatype}")


def write_answer(
    head: bytes, request_id: str | None, outputs: Sequence[tuple[TensorSpec, Array]], *, allow_nan: bool
) -> bytes:
    """The answer's JSON.

    Args:
        head: ``{"model_name":"…","model_version":"…"``, prepared, without the closing brace.
        request_id: The client's ``id``.
        outputs: What goes out, in order, each with its promise.
        allow_nan: Spell NaN and infinities as ``NaN``, ``Infinity``, ``-Infinity``.

    Raises:
        NotFinite: A NaN or an infinity, and ``allow_nan`` is false.
    """
    parts = [head]
    if request_id is not None:
        parts += [b',"id":', orjson.dumps(request_id)]
    parts.append(b',"outputs":[')
    for index, (spec, array) in enumerate(outputs):
        parts.append(b"," if index else b"")
        described = orjson.dumps({"name": spec.name, "datatype": spec.datatype, "shape": list(array.shape)})
        parts += [described[:-1], b',"data":', _data(spec, array, allow_nan=allow_nan), b"}"]
    parts.append(b"]}")
    return b"".join(parts)


def _data(spec: TensorSpec, array: Array, *, allow_nan: bool) -> bytes:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        if not allow_nan:
            raise NotFinite(spec.name)
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
