"""Tensors in the binary form of the protocol: little-endian, row-major, strings behind their lengths."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import BadRequest
from gateway.protocol.form import InputTensor
from gateway.protocol.shapes import DTYPES, ELEMENT_BYTES, LENGTH, TensorSpec, element_count

Array = NDArray[Any]

SMALL_BYTES = 4096  # of an output that is copied once more rather than looked at


def read_binary(tensor: InputTensor) -> Array:
    """The flat array of an input sent in binary form; its size was held against its shape when the request was read.

    Numbers are a view of the body where their place in it is aligned for the processor, else one copy.

    Raises:
        BadRequest: Strings that do not fill the bytes or are no UTF-8; a BOOL that is neither 0 nor 1.
    """
    if tensor.datatype == "BYTES":
        return _strings(tensor)
    array = np.frombuffer(tensor.data, DTYPES[tensor.datatype])
    if tensor.datatype == "BOOL" and array.size and array.view(np.uint8).max() > 1:
        raise BadRequest(f"input {tensor.name!r} is BOOL and holds a byte that is neither 0 nor 1")
    return array if array.flags.aligned else array.copy()


def _strings(tensor: InputTensor) -> Array:
    count = element_count(tensor.shape)
    pieces = strings_of(tensor.data, count)
    if pieces is None:
        raise _does_not_fill(tensor, count)
    out = np.empty(count, dtype=np.object_)
    try:
        out[:] = list(map(bytes.decode, pieces))
    except UnicodeDecodeError:
        index = next(index for index, piece in enumerate(pieces) if not _is_text(piece))
        raise BadRequest(f"input {tensor.name!r}: element {index} is no UTF-8, which this version needs") from None
    return out


def strings_of(view: bytes | memoryview, count: int) -> list[bytes] | None:
    """The elements of BYTES, each behind its length; ``None`` where the bytes are not exactly as many."""
    size = len(view)
    if count > size // LENGTH.size:  # before anything is allocated
        return None
    data, unpack, prefix = bytes(view), LENGTH.unpack_from, LENGTH.size
    pieces: list[bytes] = []
    at = 0
    for _ in range(count):
        start = at + prefix
        if start > size:
            return None
        (length,) = unpack(data, at)
        at = start + length
        pieces.append(data[start:at])
    return pieces if at == size else None


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _does_not_fill(tensor: InputTensor, count: int) -> BadRequest:
    return BadRequest(
        f"input {tensor.name!r}: its {len(tensor.data)} bytes are not {count} strings, each behind its length"
    )


def raw_input(body: memoryview, spec: TensorSpec) -> InputTensor:
    """The whole body as the one input of a version.

    Raises:
        BadRequest: The shape does not follow from the size.
    """
    if spec.shape.count(-1) > 1:
        raise BadRequest(f"a raw request needs an input with at most one variable dimension, {spec.name!r} has more")
    item_bytes = ELEMENT_BYTES[spec.datatype]
    if item_bytes is None:
        return _raw_string(body, spec)
    fixed = element_count([size for size in spec.shape if size != -1]) * item_bytes
    rows, rest = divmod(len(body), fixed) if fixed else (0, len(body))
    shape = tuple(rows if size == -1 else size for size in spec.shape)
    if rest or element_count(shape) * item_bytes != len(body):
        raise BadRequest(
            f"{len(body)} bytes are no {spec.datatype} input {spec.name!r} of shape {list(spec.shape)} (-1: any size)"
        )
    return InputTensor(spec.name, spec.datatype, shape, body)


def _raw_string(body: memoryview, spec: TensorSpec) -> InputTensor:
    """One string, the whole body, without a length in front of it."""
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if element_count(shape) != 1:
        raise BadRequest(f"a raw request carries one string, input {spec.name!r} has shape {list(spec.shape)}")
    try:
        text = str(body, "utf-8")
    except UnicodeDecodeError:
        raise BadRequest("the body of the raw request is no UTF-8, which this version needs") from None
    return InputTensor(spec.name, spec.datatype, shape, [text])


def write_binary(array: Array) -> list[bytes | memoryview]:
    """The binary form of an output, in pieces."""
    if array.dtype.kind not in "OU" and array.nbytes <= SMALL_BYTES:
        return [array.tobytes()] if array.size else []
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind not in "OU":
        return [flat.view(np.uint8).data] if flat.size else []
    pieces: list[bytes | memoryview] = []
    for value in flat.tolist():
        text = value if isinstance(value, bytes) else str(value).encode()
        pieces += [LENGTH.pack(len(text)), text]
    return pieces
