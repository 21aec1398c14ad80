"""Inputs: tensors of a request as numpy arrays, bound to a version's signature."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import BadRequest
from gateway.protocol.binary import raw_input, read_binary
from gateway.protocol.request import InferRequest, InputTensor
from gateway.protocol.shapes import DTYPES, Signature, TensorSpec, element_count

Array = NDArray[Any]


def bind(request: InferRequest, signature: Signature, dims: Mapping[str, Sequence[str | int]]) -> dict[str, Array]:
    """Arrays for every input of a version.

    Args:
        request: What the client sent.
        signature: What the version expects.
        dims: By input, the names or sizes of its dimensions; equal names must have equal sizes.

    Raises:
        BadRequest: Missing, extra or misfitting inputs, or outputs that there are not or that cannot be had so.
    """
    inputs = request.inputs if request.raw is None else _raw(request.raw, signature)
    expected = {spec.name: spec for spec in signature.inputs}
    if missing := [name for name in expected if name not in inputs]:
        raise BadRequest(f"input {missing[0]!r} is missing; expected are {_listed(expected)}")
    if extra := [name for name in inputs if name not in expected]:
        raise BadRequest(f"input {extra[0]!r} is unknown; expected are {_listed(expected)}")
    for spec in wanted_outputs(request, signature):
        _check_wanted(request, spec)
    arrays = {name: _array(inputs[name], spec) for name, spec in expected.items()}
    _check_named_sizes(arrays, dims)
    return arrays


def wanted_outputs(request: InferRequest, signature: Signature) -> Sequence[TensorSpec]:
    """The outputs that go out, in order.

    Raises:
        BadRequest: One that the version does not have.
    """
    if request.outputs is None:
        return signature.outputs
    known = {spec.name: spec for spec in signature.outputs}
    if unknown := [name for name in request.outputs if name not in known]:
        raise BadRequest(f"output {unknown[0]!r} is unknown; there are {_listed(known)}")
    return tuple(known[name] for name in request.outputs)


def _check_wanted(request: InferRequest, spec: TensorSpec) -> None:
    if request.classes(spec.name):
        if len(spec.shape) < 2 or spec.datatype in {"BYTES", "BOOL"}:
            raise BadRequest(f"output {spec.name!r} cannot be classified: it holds no row of numbers for each instance")
    elif spec.datatype == "FP16" and not request.is_binary(spec.name):
        raise BadRequest(
            f'output {spec.name!r} is FP16, which has no JSON form: ask for it with `"binary_data": true`'
            ", or name other outputs"
        )


def _raw(body: memoryview, signature: Signature) -> dict[str, InputTensor]:
    if len(signature.inputs) != 1:
        raise BadRequest(f"a raw request carries one input, expected are {_listed(s.name for s in signature.inputs)}")
    tensor = raw_input(body, signature.inputs[0])
    return {tensor.name: tensor}


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
    if type(tensor.data) is memoryview:
        array = read_binary(tensor)
    else:
        array = _strings(tensor) if tensor.datatype == "BYTES" else _numbers(tensor)
    return array.reshape(tensor.shape)


def flat(data: list[Any], shape: Sequence[int]) -> list[Any]:
    """Elements in row-major order, from data that is flat or nested exactly as ``shape`` says.

    Raises:
        ValueError: It is neither; the text says what is wrong.
    """
    if len(shape) > 1 and data and type(data[0]) is list:
        level = data
        for depth, below in enumerate(shape[1:], 1):
            is_even = len(level) == element_count(shape[:depth]) and {type(row) for row in level} == {list}
            if not is_even or {len(row) for row in level} != {below}:
                raise ValueError("is nested unevenly, or not as its shape says")
            level = list(chain.from_iterable(level))
        return level
    if len(data) != element_count(shape):
        raise ValueError(f"holds {len(data)} elements, its shape asks for {element_count(shape)}")
    return data


def _strings(tensor: InputTensor) -> Array:
    if not isinstance(tensor.data, list):
        raise BadRequest(f"`data` of input {tensor.name!r} is not a list")
    try:
        strings = flat(tensor.data, tensor.shape)
    except ValueError as problem:
        raise BadRequest(f"input {tensor.name!r} {problem}") from None
    if {type(item) for item in strings} - {str}:
        raise BadRequest(f"input {tensor.name!r} is BYTES and holds something that is not a string")
    out = np.empty(len(strings), dtype=np.object_)
    out[:] = strings
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
    if dtype.kind != "b" and _holds_booleans(data):  # which numpy turns into numbers beside numbers
        raise BadRequest(f"input {name!r} holds something that is no {tensor.datatype}")
    if dtype.kind == "u" and found.dtype.kind == "f":  # what numpy makes of 1 beside 2**63
        found = _exact(data, found, tensor)
    _check_kind(found, dtype, tensor)
    with np.errstate(over="ignore"):
        cast = found.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(cast).all():
        raise BadRequest(f"input {name!r} holds a number too large for {tensor.datatype}")
    return cast


def _holds_booleans(data: list[Any]) -> bool:
    kinds = set(map(type, data))
    return bool in kinds or (list in kinds and any(_holds_booleans(part) for part in data))


def _exact(data: list[Any], found: Array, tensor: InputTensor) -> Array:
    elements = data if found.ndim == 1 else flat(data, tensor.shape)
    if {type(item) for item in elements} != {int}:
        return found
    try:
        return np.array(elements, np.uint64)
    except OverflowError:
        raise BadRequest(f"input {tensor.name!r} holds a number that does not fit {tensor.datatype}") from None


def _check_kind(found: Array, dtype: np.dtype[Any], tensor: InputTensor) -> None:
    """Refuse what numpy would silently convert: strings, null, fractions for integers, sizes that wrap."""
    wanted = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if found.dtype.kind not in wanted:
        raise BadRequest(f"input {tensor.name!r} holds something that is no {tensor.datatype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise BadRequest(f"input {tensor.name!r} holds a number that does not fit {tensor.datatype}")
