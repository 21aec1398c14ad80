"""The wire form of protocol buffers, as far as gRPC's inference messages need it."""

from collections.abc import Iterator
from struct import Struct
from typing import Any

_DOUBLE = Struct("<d")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}
MAX_UINT64 = (1 << 64) - 1

# A field as it is read: its number and its value, a number or a view of the bytes.
Field = tuple[int, Any]


class Unreadable(Exception):
    """The bytes are no such message. The text is a sentence that starts with a verb."""


def varint(value: int) -> bytes:
    """A number; a negative one as 64 bits."""
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= MAX_UINT64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field that is an integer or a truth."""
    return varint(field << 3 | _VARINT) + varint(value)


def double(field: int, value: float) -> bytes:
    """A field that is a fraction."""
    return varint(field << 3 | _FIXED64) + _DOUBLE.pack(value)


def opening(field: int, size: int) -> bytes:
    """What stands before ``size`` bytes of a field."""
    return varint(field << 3 | _BYTES) + varint(size)


def data(field: int, value: bytes) -> bytes:
    """A field that is bytes or a message."""
    return opening(field, len(value)) + value


def text(field: int, value: str) -> bytes:
    """A field that is text."""
    return data(field, value.encode())


def read(message: memoryview) -> Iterator[Field]:
    """The fields of a message, in order; fractions are left as bytes.

    Raises:
        Unreadable: It ends in the middle of one.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = read_varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = read_varint(message, at)
            yield field, value
            continue
        if wire == _BYTES:
            size, at = read_varint(message, at)
        elif wire in _WIDTH:
            size = _WIDTH[wire]
        else:
            raise Unreadable("sent a message with a field of no known form")
        if size > end - at:
            raise Unreadable("sent a message that ends too early")
        yield field, message[at : at + size]
        at += size


def read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and where it ends.

    Raises:
        Unreadable: It does not end, or is too long.
    """
    value = shift = 0
    for place in range(at, min(at + 10, len(message))):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & MAX_UINT64, place + 1
        shift += 7
    raise Unreadable("sent a message with a number that does not end")


def signed(value: int) -> int:
    """A number as 64 bits with a sign."""
    return value - (1 << 64) if value >> 63 else value


def as_text(value: Any) -> str:
    """A field that should be text.

    Raises:
        Unreadable: It is a number, or no UTF-8.
    """
    try:
        return str(view(value), "utf-8")
    except UnicodeDecodeError:
        raise Unreadable("sent a message with text that is no UTF-8") from None


def view(value: Any) -> memoryview:
    """A field that should be bytes.

    Raises:
        Unreadable: It is a number.
    """
    if not isinstance(value, memoryview):
        raise Unreadable("sent a message with a number where bytes belong")
    return value


def as_double(value: Any) -> float:
    """A field that should be a fraction.

    Raises:
        Unreadable: It is something else.
    """
    if len(view(value)) != _DOUBLE.size:
        raise Unreadable("sent a message with a fraction of another size")
    return float(_DOUBLE.unpack(value)[0])


def as_integers(value: Any) -> list[int]:
    """A repeated integer: one, or many in a row.

    Raises:
        Unreadable: They do not end.
    """
    if isinstance(value, int):
        return [signed(value)]
    found, at, many = [], 0, view(value)
    while at < len(many):
        one, at = read_varint(many, at)
        found.append(signed(one))
    return found
