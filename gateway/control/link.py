"""The link between supervisor and worker: two ends, in one process or at the ends of a socket pair."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from gateway.control.messages import SIZES, BadMessage, Message, decode, encode, sizes_of

log = logging.getLogger("turnout.link")

MAX_QUEUED_BYTES = 64 << 20  # that the other side has not read; then it is given up
DRAINED_BYTES = 1 << 20  # below it, who sends a lot goes on


class End(Protocol):
    """One end. Messages arrive in order, on the loop, never inside the sender's call, and none before ``start``.

    Attributes:
        on_message: Receives what the other end sends.
        on_lost: Told once, with a reason, when the other end is gone.
    """

    on_message: Callable[[Any], None]
    on_lost: Callable[[str], None]

    def start(self) -> None:
        """The handlers are there: deliver what has come and what comes."""

    def send(self, message: Message) -> None:
        """Send; never waits. A message to an end that is gone is nobody's.

        Raises:
            BadMessage: It is too large.
        """

    async def drained(self) -> None:
        """Wait until the other end has read most of what was sent, or is gone."""

    def close(self) -> None:
        """Leave; what was sent still arrives."""


class LocalEnd:
    """An end whose other end is in the same process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._other: LocalEnd | None = None
        self._held: list[Callable[[], None]] | None = []
        self.on_message: Callable[[Any], None] = _unheard
        self.on_lost: Callable[[str], None] = _unheard

    def start(self) -> None:
        """Deliver."""
        held, self._held = self._held, None
        for work in held or ():
            self._loop.call_soon(work)

    def send(self, message: Message) -> None:
        """Deliver in a later turn of the loop."""
        if self._other is not None:
            other = self._other
            other._take(lambda: other.on_message(message))

    async def drained(self) -> None:
        """Let the other end have its turn."""
        await asyncio.sleep(0)

    def close(self) -> None:
        """Leave."""
        other, self._other = self._other, None
        if other is not None and other._other is self:
            other._other = None
            other._take(lambda: other.on_lost("the other end was closed"))

    def join(self, other: "LocalEnd") -> None:
        """Make two ends one link."""
        self._other, other._other = other, self

    def _take(self, work: Callable[[], None]) -> None:
        if self._held is None:
            self._loop.call_soon(work)
        else:
            self._held.append(work)


def local_link(loop: asyncio.AbstractEventLoop) -> tuple[LocalEnd, LocalEnd]:
    """Both ends of a link within one process."""
    one, other = LocalEnd(loop), LocalEnd(loop)
    one.join(other)
    return one, other


class SocketEnd(asyncio.Protocol):
    """An end whose other end is in another process.

    The other side gets ``MAX_QUEUED_BYTES`` of patience: one that does not read is given up, and the link with it.
    """

    def __init__(self, max_queued_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._max_queued_bytes = max_queued_bytes
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._reason = "the other end was closed"
        self._is_started = self._is_lost = False
        self.on_message: Callable[[Any], None] = _unheard
        self.on_lost: Callable[[str], None] = _unheard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is the loop's now."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by type
        self._transport.set_write_buffer_limits(high=DRAINED_BYTES)

    def pause_writing(self) -> None:
        """Much is queued."""
        self._may_send.clear()

    def resume_writing(self) -> None:
        """Most of it was read."""
        self._may_send.set()

    def start(self) -> None:
        """Deliver."""
        self._is_started = True
        self._take()
        if self._is_lost:
            self.on_lost(self._reason)

    def data_received(self, data: bytes) -> None:
        """More bytes have come."""
        self._received += data
        if self._is_started:
            self._take()

    def _take(self) -> None:
        """Deliver every message that is complete."""
        try:
            while (message := self._next()) is not None:
                self._deliver(message)
        except BadMessage as error:
            self._give_up(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone, or was given up."""
        self._transport, self._is_lost = None, True
        self._reason = str(exc) if exc else self._reason
        self._may_send.set()
        if self._is_started:
            self.on_lost(self._reason)

    def send(self, message: Message) -> None:
        """Queue the message's bytes."""
        if self._transport is None or self._transport.is_closing():
            return
        frame = encode(message)
        if self._transport.get_write_buffer_size() + len(frame) > self._max_queued_bytes:
            self._give_up(f"it left more than {self._max_queued_bytes} bytes unread")
        else:
            self._transport.write(frame)

    async def drained(self) -> None:
        """Wait until little is queued."""
        await self._may_send.wait()

    def close(self) -> None:
        """Leave, after what is queued."""
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> Message | None:
        if len(self._received) < SIZES.size:
            return None
        head, data = sizes_of(bytes(self._received[: SIZES.size]))
        end = SIZES.size + head + data
        if len(self._received) < end:
            return None
        whole = bytes(self._received[SIZES.size : end])
        del self._received[:end]
        return decode(whole[:head], whole[head:])

    def _deliver(self, message: Message) -> None:
        try:
            self.on_message(message)
        except Exception:  # the top of a handler: one message that breaks must not take the others along
            log.exception("a message could not be handled", extra={"message_kind": type(message).__name__})

    def _give_up(self, reason: str) -> None:
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()


async def socket_end(sock: socket.socket, max_queued_bytes: int = MAX_QUEUED_BYTES) -> SocketEnd:
    """An end on a connected socket, which is the loop's from now on; ``start`` it when its handlers are there."""
    loop = asyncio.get_running_loop()
    _, end = await loop.create_unix_connection(lambda: SocketEnd(max_queued_bytes), sock=sock)
    return end


def send_first(sock: socket.socket, message: Message, descriptors: Sequence[int]) -> None:
    """Send the first message on a blocking socket, and descriptors along with it."""
    frame = encode(message)
    sent = socket.send_fds(sock, [frame], descriptors)
    sock.sendall(frame[sent:])


def receive_first(sock: socket.socket, descriptors: int) -> tuple[Message, list[int]]:
    """Wait for the first message and its descriptors, and read nothing beyond it.

    Raises:
        BadMessage: It is none.
        EOFError: The other end was closed.
    """
    header, received, _, _ = socket.recv_fds(sock, SIZES.size, descriptors)
    head, data = sizes_of(header + _exactly(sock, SIZES.size - len(header), header))
    return decode(_exactly(sock, head), _exactly(sock, data)), received


def _exactly(sock: socket.socket, size: int, before: bytes = b"-") -> bytes:
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 16)) if before else b""
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _unheard(_message: object) -> None:
    return
