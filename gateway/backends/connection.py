"""One HTTP/1.1 client connection: a request goes out as given, one answer comes back or the reason why not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from gateway.backends.heads import KnownHeads
from gateway.backends.reader import AnswerReader, Unreadable

END_OF_HEAD = b"\r\n\r\n"
JOIN_BYTES = 64 * 1024  # a body up to this size leaves in one write with its head; a larger one is not copied


class Owner(Protocol):
    """Who hears how a connection fares. Each ``send`` is ``answered`` or ``broke``, unless aborted."""

    def made(self, connection: "Connection") -> None:
        """The socket is open; ``ended`` will follow."""

    def answered(
        self,
        connection: "Connection",
        sending: Any,
        status: int,
        body: bytes,
        header_length: int | None,
        reusable: bool,
    ) -> None:
        """The answer is complete.

        Args:
            connection: It carries nothing any more.
            sending: What it carried.
            status: HTTP status, 200 or more.
            body: All of it, without transfer coding.
            header_length: ``Inference-Header-Content-Length``, at most ``len(body)``; ``None`` when absent.
            reusable: Whether the connection may carry another request.
        """

    def broke(self, connection: "Connection", sending: Any, sentence: str) -> None:
        """The answer will not come; the connection is gone. ``sentence`` starts with a verb."""

    def lost(self, connection: "Connection") -> None:
        """The connection is closed or will be at once: never use it again. May be called twice."""

    def ended(self, connection: "Connection") -> None:
        """The socket is closed. Called last, once for each ``made``."""


class Connection(asyncio.Protocol):
    """Carries one request at a time.

    Args:
        owner: Who hears how it fares.
        heads: What was learned of heads on this and other connections to the same server.
        max_answer_bytes: Bound on the body of one answer.

    Attributes:
        has_answered: Whether a complete answer has come over it.
        began: Whether a part of the current answer has arrived, and not all of it.
        sending: Its owner's: what it carries now; ``None``: nothing.
    """

    __slots__ = (
        "_find",
        "_heads",
        "_owner",
        "_reader",
        "_transport",
        "began",
        "has_answered",
        "sending",
    )

    def __init__(self, owner: Owner, heads: KnownHeads, max_answer_bytes: int) -> None:
        self._owner = owner
        self._heads = heads
        self._find = heads.by_bytes.get
        self._transport: Any = None  # an asyncio.Transport, once there is one
        self._reader = AnswerReader(max_answer_bytes)
        self.has_answered = False
        self.began = False
        self.sending: Any = None

    # What the owner calls.

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent now."""
        return self._transport is not None and self.sending is None and not self._transport.is_closing()

    def send(self, sending: Any, head: bytes, body: bytes) -> bool:
        """Send one request, unless the connection is not usable. A large ``body`` is not copied."""
        transport = self._transport
        if transport is None or self.sending is not None or transport.is_closing():
            return False
        self.sending = sending
        if len(body) <= JOIN_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        return True

    def abort(self) -> None:
        """Close at once; the owner hears no more of the request in flight."""
        self.sending = None
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = transport
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came in; on an idle connection there must be none."""
        sending = self.sending
        if sending is None:
            self._discard()
            return
        if self.began:
            self._read(data)
            return
        end = data.find(END_OF_HEAD) + 4
        known = self._find(data[:end])
        if known is not None:
            status, body_bytes, header_length = known
            if body_bytes == len(data) - end and self._transport.get_write_buffer_size() == 0:
                # Nothing of it need be read.
                self.sending = None
                self.has_answered = True
                self._owner.answered(self, sending, status, data[end:], header_length, True)
                return
        self.began = True
        self._reader.begin()
        self._read(data, end)

    def eof_received(self) -> bool:
        """The other side is done; an answer without a length is complete now, any other is not."""
        if self.sending is None:
            self._owner.lost(self)
        elif self.began and self._reader.ends_with_connection:
            self._finish()
        else:
            self._fail("closed the connection " + self._progress())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if self.sending is not None:
            self._fail("reset the connection " + self._progress())
        self._reader.close()
        self._owner.lost(self)
        self._owner.ended(self)

    # How a request ends.

    def _read(self, data: bytes, head_bytes: int | None = None) -> None:
        """``head_bytes`` is given with the first piece: where its head seems to end."""
        reader = self._reader
        try:
            if not reader.feed(data):
                return
        except Unreadable as problem:
            self._fail(str(problem))
            return
        if head_bytes is not None and (known := reader.known(head_bytes)) is not None:
            self._heads.remember(data[:head_bytes], known)
        self._finish()

    def _progress(self) -> str:
        if not self.began:
            return "without an answer"
        return f"in the middle of its answer, after {self._reader.body_bytes} bytes of the body"

    def _discard(self) -> None:
        self.abort()
        self._owner.lost(self)

    def _fail(self, sentence: str) -> None:
        sending = self.sending
        self.abort()
        self._owner.broke(self, sending, sentence)

    def _finish(self) -> None:
        reader = self._reader
        try:
            body = reader.body()
        except Unreadable as problem:
            self._fail(str(problem))
            return
        transport, sending = self._transport, self.sending
        # An answer that came before the request was out leaves the rest of the request in the way.
        reusable = reader.keep and not transport.is_closing() and not transport.get_write_buffer_size()
        self.sending = None
        self.began = False
        self.has_answered = True
        if not reusable:
            transport.abort()
        self._owner.answered(self, sending, reader.status, body, reader.header_length, reusable)


# Opens a connection; raises OSError or UnicodeError.
Connect = Callable[[Callable[[], Connection]], Awaitable[Connection]]
