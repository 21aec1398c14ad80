"""What comes over an HTTP/2 connection: frames, and the answers in them."""

from collections.abc import Callable

from gateway.backends.http2 import frames
from gateway.backends.http2.connection import MAX_BLOCK_BYTES, PREFIX, Http2Connection, Owner, Stream
from gateway.backends.http2.frames import Code, Setting, Type, Violation
from gateway.backends.http2.heads import Head, KnownBlocks

MAX_INTERIM_HEADS = 8  # 1xx heads before the real one
REFILL_BYTES = 1 << 30  # of its window that the other side may use before it is filled up


class ReadingConnection(Http2Connection):
    """The whole connection: calls go out, and frames are read.

    Args:
        owner: Who hears how calls fare.
        known: What header blocks of this server meant before.
        max_answer_bytes: Bound on the message of one answer.
    """

    __slots__ = ("_block", "_known", "_rest", "_taken", "_was_greeted")

    def __init__(self, owner: Owner, known: KnownBlocks, max_answer_bytes: int) -> None:
        super().__init__(owner, max_answer_bytes)
        self._known = known
        self._rest = b""  # of a frame, what has come
        self._block: tuple[Stream | None, bool, bytearray] | None = None  # a header block that goes on
        self._taken = 0
        self._was_greeted = False

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


_Reader = Callable[[ReadingConnection, int, int, bytes], None]
_READERS: dict[int, _Reader] = {
    Type.DATA: ReadingConnection._read_data,
    Type.HEADERS: ReadingConnection._read_headers,
    Type.RST_STREAM: ReadingConnection._read_reset,
    Type.SETTINGS: ReadingConnection._read_settings,
    Type.PUSH_PROMISE: ReadingConnection._read_push,
    Type.PING: ReadingConnection._read_ping,
    Type.GOAWAY: ReadingConnection._read_goaway,
    Type.WINDOW_UPDATE: ReadingConnection._read_window,
    Type.CONTINUATION: ReadingConnection._read_continuation,
}
