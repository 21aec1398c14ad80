"""The wire form of protocol buffers, as far as gRPC's inference messages need it."""

from struct import Struct
from typing import Any

_DOUBLE = Struct("<d")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZED = frozenset({_VARINT, _BYTES})
_WIDTH = {_FIXED64: 8, _FIXED32: 4}
MAX_UINT64 = (1 << 64) - 1

COPIED_BYTES = 4096  # of a field that is copied rather than looked at where it lies

Bytes = bytes | memoryview
# A field as it is read: its number and its value, a number or bytes.
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


def read(message: Bytes) -> list[Field]:
    """The fields of a message, in order; fractions are left as bytes. Large ones are not copied.

    Raises:
        Unreadable: It ends in the middle of one.
    """
    fields: list[Field] = []
    at, end = 0, len(message)
    while at < end:
        key = message[at]
        at += 1
        if key >= 0x80:
            key, at = read_varint(message, at - 1)
        wire = key & 7
        if wire in _SIZED:
            if at < end and message[at] < 0x80:
                size = message[at]
                at += 1
            else:
                size, at = read_varint(message, at)
            if wire == _VARINT:
                fields.append((key >> 3, size))
                continue
        elif wire in _WIDTH:
            size = _WIDTH[wire]
        else:
            raise Unreadable("sent a message with a field of no known form")
        stop = at + size
        if stop > end:
            raise Unreadable("sent a message that ends too early")
        fields.append((key >> 3, message[at:stop] if size <= COPIED_BYTES else memoryview(message)[at:stop]))
        at = stop
    return fields


def read_varint(message: Bytes, at: int) -> tuple[int, int]:
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


def view(value: Any) -> Bytes:
    """A field that should be bytes.

    Raises:
        Unreadable: It is a number.
    """
    if isinstance(value, int):
        raise Unreadable("sent a message with a number where bytes belong")
    found: Bytes = value
    return found


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
