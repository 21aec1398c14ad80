"""Frames of HTTP/2 (RFC 9113): their types, their flags, how they are written, how paddings are taken off."""

from enum import IntEnum
from struct import Struct

HEAD = Struct(">HBBBL")  # length (two parts), type, flags, stream
HEAD_BYTES = 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_BYTES = 1 << 14  # of what comes in: we never allow more
USUAL_WINDOW = (1 << 16) - 1
MAX_WINDOW = (1 << 31) - 1
LAST_STREAM = (1 << 31) - 1
_SETTING = Struct(">HL")
_NUMBER = Struct(">L")


class Type(IntEnum):
    """Types of frames; others are skipped."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """Settings that matter here."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    REFUSED_STREAM = 7
    CANCEL = 8


ACK = 0x1
END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20


class Violation(Exception):
    """The other side does not speak HTTP/2 as we do. The message is a sentence that starts with a verb."""


def frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """What stands before a frame's payload."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A whole frame."""
    return frame_head(len(payload), kind, flags, stream) + payload


def headers(stream: int, block: bytes) -> bytes:
    """A header block, in as many frames as it takes; the stream goes on after it."""
    if len(block) <= MAX_FRAME_BYTES:  # what everybody has to take
        return frame(Type.HEADERS, END_HEADERS, stream, block)
    pieces = [block[at : at + MAX_FRAME_BYTES] for at in range(0, len(block), MAX_FRAME_BYTES)]
    first, *between, last = pieces
    found = [frame(Type.HEADERS, 0, stream, first)]
    found += [frame(Type.CONTINUATION, 0, stream, piece) for piece in between]
    return b"".join((*found, frame(Type.CONTINUATION, END_HEADERS, stream, last)))


def settings(values: dict[Setting, int]) -> bytes:
    """Our settings."""
    return frame(Type.SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values.items()))


def read_settings(payload: bytes) -> dict[int, int]:
    """Theirs, unknown ones too; of one that comes twice the last.

    Raises:
        Violation: The payload has a part too many.
    """
    if len(payload) % _SETTING.size:
        raise Violation("sent settings of an odd size")
    return dict(_SETTING.iter_unpack(payload))


def reset(stream: int, code: Code) -> bytes:
    """The end of a stream, from our side."""
    return frame(Type.RST_STREAM, 0, stream, _NUMBER.pack(code))


def window_update(stream: int, size: int) -> bytes:
    """Room for so many bytes more."""
    return frame(Type.WINDOW_UPDATE, 0, stream, _NUMBER.pack(size))


def read_number(payload: bytes, what: str) -> int:
    """The one number of a payload; of windows and streams the first bit means nothing.

    Raises:
        Violation: It has another size.
    """
    if len(payload) != _NUMBER.size:
        raise Violation(f"sent a {what} of {len(payload)} bytes")
    return int(_NUMBER.unpack(payload)[0])


def unpadded(flags: int, payload: bytes, *, has_priority: bool = False) -> bytes:
    """What is between a frame's fields and its padding.

    Raises:
        Violation: There is more padding than frame.
    """
    begin = end = 0
    if flags & PADDED:
        if not payload:
            raise Violation("sent padding that is longer than its frame")
        begin, end = 1, payload[0]
    if has_priority and flags & PRIORITY:
        begin += 5
    if begin + end > len(payload):
        raise Violation("sent padding that is longer than its frame")
    return payload[begin : len(payload) - end]
