"""One HTTP/2 connection of a gRPC client: many calls at a time, one message each way."""

import asyncio
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Protocol, cast

from gateway.backends.http2 import frames
from gateway.backends.http2.frames import Code, Setting, Type, Violation
from gateway.backends.http2.heads import Head, KnownBlocks

MAX_BLOCK_BYTES = 64 * 1024  # of one header block, its continuations included
MAX_INTERIM_HEADS = 8  # 1xx heads before the real one
MAX_OWED_BYTES = 1 << 20  # that wait in the socket of one that asks for answers and does not read them
REFILL_BYTES = 1 << 30  # of its window that the other side may use before it is filled up
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
    """Carries calls.

    Args:
        owner: Who hears how they fare.
        known: What header blocks of this server meant before.
        max_answer_bytes: Bound on the message of one answer.

    Attributes:
        answers: Calls that were answered.
        may_hold: Calls that the server takes at a time.
        is_open: Whether calls may begin.
    """

    __slots__ = (
        "_block",
        "_blocked",
        "_known",
        "_limit",
        "_loop",
        "_max_frame",
        "_next",
        "_out",
        "_owed",
        "_owner",
        "_rest",
        "_streams",
        "_taken",
        "_transport",
        "_usual_window",
        "_was_greeted",
        "_window",
        "answers",
        "is_open",
        "may_hold",
    )

    def __init__(self, owner: Owner, known: KnownBlocks, max_answer_bytes: int) -> None:
        self._owner = owner
        self._known = known
        self._limit = max_answer_bytes + PREFIX.size
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._blocked: deque[Stream] = deque()  # those with a rest
        self._next = 1
        self._rest = b""  # of a frame, what has come
        self._block: tuple[Stream | None, bool, bytearray] | None = None  # a header block that goes on
        self._window = self._usual_window = frames.USUAL_WINDOW
        self._max_frame = frames.MAX_FRAME_BYTES
        self._taken = 0
        self._owed = 0
        self._out: list[bytes | memoryview] = []
        self._loop = asyncio.get_running_loop()
        self._was_greeted = False
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

    def data_received(self, data: bytes) -> None:
        """Bytes came in: whole frames are read, the rest is kept."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        try:
            while end - at >= frames.HEAD_BYTES:
                high, low, kind, flags, number = frames.HEAD.unpack_from(data, at)
                length = high << 8 | low
                if length > frames.MAX_FRAME_BYTES:
                    self._refuse_size()
                stop = at + frames.HEAD_BYTES + length
                if stop > end:
                    break
                self._read(kind, flags, number & frames.LAST_STREAM, data[at + frames.HEAD_BYTES : stop])
                at = stop
        except Violation as problem:
            self._rest = b""
            self._fail_all(str(problem))
            return
        self._rest = data[at:]

    def eof_received(self) -> bool:
        """The other side is done."""
        self._fail_all("closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._fail_all("reset the connection")
        self._owner.ended(self)

    # Frames.

    def _refuse_size(self) -> None:
        raise Violation("sent a frame too large" if self._was_greeted else "is no HTTP/2 server")

    def _read(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != Type.CONTINUATION:
            raise Violation("broke off a header block")
        if not self._was_greeted:
            if kind != Type.SETTINGS or flags & frames.ACK:
                raise Violation("is no HTTP/2 server")
            self._was_greeted = True
        reader = _READERS.get(kind)
        if reader is not None:
            reader(self, flags, number, payload)

    def _read_data(self, flags: int, number: int, payload: bytes) -> None:
        self._taken += len(payload)
        if self._taken >= REFILL_BYTES:
            self._write(frames.window_update(0, self._taken))
            self._taken = 0
        stream = self._streams.get(number)
        if stream is None:
            self._check_known(number)
            return
        if not stream.began:
            raise Violation("sent data before headers")
        if flags & frames.PADDED:
            payload = frames.unpadded(flags, payload)
        stream.size += len(payload)
        if stream.size > self._limit:
            self._break(stream, f"sent an answer of more than {self._limit - PREFIX.size} bytes")
            return
        if payload:
            stream.parts.append(payload)
        if flags & frames.END_STREAM:
            self._break(stream, "ended its answer without a status")

    def _read_headers(self, flags: int, number: int, payload: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            self._check_known(number)
        payload = frames.unpadded(flags, payload, has_priority=True)
        ends = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._headed(stream, payload, ends=ends)
        else:
            self._block = stream, ends, bytearray(payload)

    def _read_continuation(self, flags: int, _number: int, payload: bytes) -> None:
        if self._block is None:
            raise Violation("continues headers that it has not begun")
        stream, ends, block = self._block
        block += payload
        if len(block) > MAX_BLOCK_BYTES:
            raise Violation(f"sent more than {MAX_BLOCK_BYTES} bytes of headers")
        if flags & frames.END_HEADERS:
            self._block = None
            self._headed(stream, bytes(block), ends=ends)

    def _headed(self, stream: Stream | None, block: bytes, *, ends: bool) -> None:
        """A whole header block has come. Blocks of calls that are over are read as well: they may be wrong."""
        head = self._known.read(block)
        if stream is None or stream.number not in self._streams:
            return
        if ends:
            self._finish(stream, head)
        elif stream.began:
            raise Violation("sent headers in the middle of an answer")
        elif head.status is not None and head.status < 200:
            stream.interim += 1
            if stream.interim > MAX_INTERIM_HEADS:
                self._break(stream, f"sent more than {MAX_INTERIM_HEADS} interim answers")
        elif head.status != 200:
            self._break(stream, f"answered HTTP status {head.status}, which is no gRPC")
        else:
            stream.began = True

    def _read_reset(self, _flags: int, number: int, payload: bytes) -> None:
        code = frames.read_number(payload, "reset")
        stream = self._streams.get(number)
        if stream is None:
            self._check_known(number)
            return
        self._forget(stream)
        untouched = code == Code.REFUSED_STREAM and not stream.began
        self._owner.broke(self, stream, f"reset the call with code {code}", is_untouched=untouched)

    def _read_settings(self, flags: int, _number: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        found = frames.read_settings(payload)
        self._owe(frames.frame(Type.SETTINGS, frames.ACK, 0, b""))
        self.may_hold = found.get(Setting.MAX_CONCURRENT_STREAMS, self.may_hold)
        size = found.get(Setting.MAX_FRAME_SIZE, self._max_frame)
        if not frames.MAX_FRAME_BYTES <= size < 1 << 24:
            raise Violation(f"wants frames of {size} bytes")
        self._max_frame = size
        window = found.get(Setting.INITIAL_WINDOW_SIZE, self._usual_window)
        if window > frames.MAX_WINDOW:
            raise Violation("opens a window that is too large")
        for stream in self._streams.values():
            stream.window += window - self._usual_window
        self._usual_window = window
        self._pump()
        self._owner.roomier(self)

    def _read_ping(self, flags: int, _number: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self._owe(frames.frame(Type.PING, frames.ACK, 0, payload))

    def _read_goaway(self, _flags: int, _number: int, payload: bytes) -> None:
        last = frames.read_number(payload[:4], "goodbye") & frames.LAST_STREAM
        over = [stream for number, stream in self._streams.items() if number > last]
        for stream in over:
            self._forget(stream)
        self._retire()
        for stream in over:
            self._owner.broke(self, stream, "is going away", is_untouched=True)

    def _read_window(self, _flags: int, number: int, payload: bytes) -> None:
        more = frames.read_number(payload, "window update") & frames.MAX_WINDOW
        if number == 0:
            self._window += more
            if self._window > frames.MAX_WINDOW:
                raise Violation("opens a window that is too large")
        elif (stream := self._streams.get(number)) is not None:
            stream.window += more
            if stream.window > frames.MAX_WINDOW:
                self._break(stream, "opens a window that is too large")
                return
        if self._blocked:
            self._pump()

    def _read_push(self, _flags: int, _number: int, _payload: bytes) -> None:
        raise Violation("pushes what nobody asked for")

    def _check_known(self, number: int) -> None:
        """A frame of a call that is over may still be on its way; one of a call that never was is a mistake."""
        if number == 0 or number % 2 == 0 or number >= self._next:
            raise Violation(f"speaks of call {number}, which there never was")

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

    def _finish(self, stream: Stream, head: Head) -> None:
        was_sent = stream.rest is None
        self._forget(stream)
        if not was_sent:  # it has answered before it had the whole request
            self._write(frames.reset(stream.number, Code.CANCEL))
        if head.grpc_status is None:
            said = f"HTTP status {head.status}" if head.status is not None else "nothing of its status"
            self._owner.broke(self, stream, f"answered {said}, which is no gRPC", is_untouched=False)
            return
        message = b""
        if head.grpc_status == 0:
            whole = stream.parts[0] if len(stream.parts) == 1 else b"".join(stream.parts)
            if len(whole) < PREFIX.size or PREFIX.unpack_from(whole) != (0, len(whole) - PREFIX.size):
                self._owner.broke(self, stream, "sent something else than one plain message", is_untouched=False)
                return
            message = whole[PREFIX.size :]
        self.answers += 1
        self._owner.answered(self, stream, head, message)

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


_Reader = Callable[[Http2Connection, int, int, bytes], None]
_READERS: dict[int, _Reader] = {
    Type.DATA: Http2Connection._read_data,
    Type.HEADERS: Http2Connection._read_headers,
    Type.RST_STREAM: Http2Connection._read_reset,
    Type.SETTINGS: Http2Connection._read_settings,
    Type.PUSH_PROMISE: Http2Connection._read_push,
    Type.PING: Http2Connection._read_ping,
    Type.GOAWAY: Http2Connection._read_goaway,
    Type.WINDOW_UPDATE: Http2Connection._read_window,
    Type.CONTINUATION: Http2Connection._read_continuation,
}
