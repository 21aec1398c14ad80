"""One HTTP/2 connection of a gRPC client, as its owner sees it: many calls at a time, one message each way."""

import asyncio
from collections import deque
from struct import Struct
from typing import Protocol, cast

from gateway.backends.http2 import frames
from gateway.backends.http2.frames import Code, Setting, Type, Violation
from gateway.backends.http2.heads import Head

MAX_BLOCK_BYTES = 64 * 1024  # of one header block, its continuations included
MAX_OWED_BYTES = 1 << 20  # that wait in the socket of one that asks for answers and does not read them
PREFIX = Struct(">BL")  # before a message: whether it is compressed, and its length
OPENING = b"".join(
    (
        frames.PREFACE,
        frames.settings(
            {
                Setting.HEADER_TABLE_SIZE: 0,
                Setting.ENABLE_PUSH: 0,
                # A stream never waits for a window: the bound on its answer is below this, and ends it.
                Setting.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW,
                Setting.MAX_HEADER_LIST_SIZE: MAX_BLOCK_BYTES,
            }
        ),
        frames.window_update(0, frames.MAX_WINDOW - frames.USUAL_WINDOW),
    )
)


class Stream:
    """One call.

    Attributes:
        owner: Whose it is; the connection never looks at it.
        began: Whether any of the answer has come.
    """

    __slots__ = ("began", "interim", "number", "owner", "parts", "rest", "size", "window")

    def __init__(self, number: int, owner: object, window: int) -> None:
        self.number = number
        self.owner = owner
        self.window = window
        self.rest: memoryview | None = None  # of the request, what has found no window yet
        self.parts: list[bytes] = []
        self.size = 0
        self.interim = 0
        self.began = False


class Owner(Protocol):
    """Who hears how calls fare. Each ``begin`` is ``answered`` or ``broke``, unless cancelled."""

    def made(self, connection: "Http2Connection") -> None:
        """The socket is open; ``ended`` will follow."""

    def answered(self, connection: "Http2Connection", stream: Stream, head: Head, message: bytes) -> None:
        """The call is over by the server's word: ``head`` has its status, ``message`` is empty unless that is OK."""

    def broke(self, connection: "Http2Connection", stream: Stream, sentence: str, *, is_untouched: bool) -> None:
        """The call will not be answered; ``is_untouched``: the server has not begun with it and says so."""

    def lost(self, connection: "Http2Connection") -> None:
        """No more calls there: it closes, or will when its calls are over. May be called twice."""

    def ended(self, connection: "Http2Connection") -> None:
        """The socket is closed. Called last, once for each ``made``."""

    def roomier(self, connection: "Http2Connection") -> None:
        """The server allows another number of calls."""


class Http2Connection(asyncio.Protocol):
    """Carries calls, and sends what they need; ``reading`` adds what comes back.

    Args:
        owner: Who hears how they fare.
        max_answer_bytes: Bound on the message of one answer.

    Attributes:
        answers: Calls that were answered.
        may_hold: Calls that the server takes at a time.
        is_open: Whether calls may begin.
    """

    __slots__ = (
        "_blocked",
        "_limit",
        "_loop",
        "_max_frame",
        "_next",
        "_out",
        "_owed",
        "_owner",
        "_streams",
        "_transport",
        "_usual_window",
        "_window",
        "answers",
        "is_open",
        "may_hold",
    )

    def __init__(self, owner: Owner, max_answer_bytes: int) -> None:
        self._owner = owner
        self._limit = max_answer_bytes + PREFIX.size
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._blocked: deque[Stream] = deque()  # those with a rest
        self._next = 1
        self._window = self._usual_window = frames.USUAL_WINDOW
        self._max_frame = frames.MAX_FRAME_BYTES
        self._owed = 0
        self._out: list[bytes | memoryview] = []
        self._loop = asyncio.get_running_loop()
        self.answers = 0
        self.may_hold = frames.MAX_WINDOW
        self.is_open = False

    # What the owner calls.

    @property
    def calls(self) -> int:
        """In flight."""
        return len(self._streams)

    def begin(self, owner: object, block: bytes, message: bytes) -> Stream:
        """Start a call; only while ``is_open``.

        Args:
            owner: Of the stream.
            block: Header block.
            message: With its prefix.
        """
        assert self._transport is not None
        number = self._next
        self._next = number + 2
        stream = self._streams[number] = Stream(number, owner, self._usual_window)
        if self._next > frames.LAST_STREAM:
            self._retire()
        size = len(message)
        head = frames.headers(number, block)
        if size <= self._window and size <= stream.window and size <= self._max_frame and not self._blocked:
            self._window -= size
            stream.window -= size
            self._write(head + frames.frame_head(size, Type.DATA, frames.END_STREAM, number) + message)
            return stream
        self._write(head)
        stream.rest = memoryview(message)
        self._blocked.append(stream)
        self._pump()
        return stream

    def cancel(self, stream: Stream) -> None:
        """Give a call up; nobody hears of it any more."""
        if self._forget(stream):
            self._write(frames.reset(stream.number, Code.CANCEL))

    def retire(self) -> None:
        """Begin no more calls here; close when there are none."""
        self._retire()

    def abort(self) -> None:
        """Close at once; nobody hears of the calls in flight."""
        self.is_open = False
        self._streams.clear()
        self._blocked.clear()
        self._out.clear()
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open: greet."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(OPENING)
        self.is_open = True
        self._owner.made(self)

    def eof_received(self) -> bool:
        """The other side is done."""
        self._fail_all("closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._fail_all("reset the connection")
        self._owner.ended(self)

    # How calls go out and end.

    def _pump(self) -> None:
        """Send of what waits as much as windows allow, a frame of each in turn."""
        stuck = 0
        while self._blocked and self._window > 0 and stuck < len(self._blocked):
            stream = self._blocked.popleft()
            assert stream.rest is not None
            size = min(len(stream.rest), self._window, stream.window, self._max_frame)
            if size <= 0:
                self._blocked.append(stream)
                stuck += 1
                continue
            stuck = 0
            self._window -= size
            stream.window -= size
            piece, stream.rest = stream.rest[:size], stream.rest[size:]
            is_last = not stream.rest
            flags = frames.END_STREAM if is_last else 0
            self._write(frames.frame_head(size, Type.DATA, flags, stream.number))
            self._write(piece)
            if is_last:
                stream.rest = None
            else:
                self._blocked.append(stream)

    def _break(self, stream: Stream, sentence: str) -> None:
        self._forget(stream)
        self._write(frames.reset(stream.number, Code.CANCEL))
        self._owner.broke(self, stream, sentence, is_untouched=False)

    def _forget(self, stream: Stream) -> bool:
        if self._streams.pop(stream.number, None) is None:
            return False
        if stream.rest is not None:
            self._blocked.remove(stream)
            stream.rest = None
        if not self._streams and not self.is_open:
            self._loop.call_soon(self._close)
        return True

    def _retire(self) -> None:
        was_open, self.is_open = self.is_open, False
        if not self._streams:
            self._loop.call_soon(self._close)
        if was_open:
            self._owner.lost(self)

    def _fail_all(self, sentence: str) -> None:
        over = list(self._streams.values())
        was_open = self.is_open
        self.abort()
        if was_open:
            self._owner.lost(self)
        for stream in over:
            where = "in the middle of an answer" if stream.began else "without an answer"
            self._owner.broke(self, stream, f"{sentence} {where}", is_untouched=False)

    def _owe(self, data: bytes) -> None:
        """Write what the other side has asked for; one that asks without reading is dropped."""
        assert self._transport is not None
        if not self._transport.get_write_buffer_size():
            self._owed = 0
        self._owed += len(data)
        if self._owed > MAX_OWED_BYTES:
            raise Violation("asks for answers that it does not read")
        self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        """To the socket with all else of this turn of the loop: a system call costs more than what it carries."""
        self._out.append(data)
        if len(self._out) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _close(self) -> None:
        """Close once all is out."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
