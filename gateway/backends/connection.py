"""One HTTP/1.1 client connection: a request goes out as given, one answer comes back or the reason why not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEAD_BYTES = 64 * 1024  # status line and headers of one answer, interim answers included
MAX_INTERIM_ANSWERS = 8  # 1xx answers before the real one
JOIN_BYTES = 64 * 1024  # a body up to this size leaves in one write with its head; a larger one is not copied


class RawAnswer:
    """A complete answer.

    Attributes:
        status: HTTP status, 200 or more.
        body: All of it, without transfer coding.
        header_length: ``Inference-Header-Content-Length``, at most ``len(body)``; ``None`` when absent.
    """

    __slots__ = ("body", "header_length", "status")

    def __init__(self, status: int, body: bytes, header_length: int | None) -> None:
        self.status = status
        self.body = body
        self.header_length = header_length


class Owner(Protocol):
    """Who hears how a connection fares. Each ``send`` is ``answered`` or ``broke``, unless aborted."""

    def made(self, connection: "Connection") -> None:
        """The socket is open; ``ended`` will follow."""

    def answered(self, connection: "Connection", answer: RawAnswer, reusable: bool) -> None:
        """The answer is complete; ``reusable`` says whether the connection may carry another request."""

    def broke(self, connection: "Connection", sentence: str) -> None:
        """The answer will not come; the connection is gone. ``sentence`` starts with a verb."""

    def lost(self, connection: "Connection") -> None:
        """The connection is closed or will be at once: never use it again. May be called twice."""

    def ended(self, connection: "Connection") -> None:
        """The socket is closed. Called last, once for each ``made``."""


class _Unacceptable(Exception):
    """Raised inside the parser's callbacks to stop it."""


class Connection(asyncio.Protocol):
    """Carries one request at a time.

    Attributes:
        answers: Complete answers so far; more than 0 means that the connection was reused.
        began: Whether any byte of the current answer has arrived.
    """

    __slots__ = (
        "_body_bytes",
        "_carrying",
        "_complete",
        "_header_length",
        "_in_body",
        "_interim",
        "_keep",
        "_length",
        "_limit",
        "_owner",
        "_parser",
        "_parts",
        "_problem",
        "_received",
        "_sized",
        "_status",
        "_transport",
        "answers",
        "began",
    )

    def __init__(self, owner: Owner, max_answer_bytes: int) -> None:
        self._owner = owner
        self._limit = max_answer_bytes
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._carrying = False
        self.answers = 0
        self._reset()

    def _reset(self) -> None:
        self.began = False
        self._received = 0
        self._interim = 0
        self._complete = False
        self._keep = False
        self._problem = ""
        self._parts: list[bytes] = []
        self._reset_head()

    def _reset_head(self) -> None:
        self._in_body = False
        self._sized = False
        self._status = 0
        self._length: int | None = None
        self._header_length: int | None = None
        self._body_bytes = 0

    # What the owner calls.

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent now."""
        return self._transport is not None and not self._carrying and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> None:
        """Send one request. ``body`` is never changed, and not copied when it is large."""
        transport = self._transport
        assert transport is not None
        assert not self._carrying
        self._reset()
        self._carrying = True
        if len(body) <= JOIN_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    def abort(self) -> None:
        """Close at once; the owner hears no more of the request in flight."""
        self._carrying = False
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast("asyncio.Transport", transport)
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came in; on an idle connection there must be none."""
        if not self._carrying:
            self._discard()
            return
        self.began = True
        self._received += len(data)
        assert self._parser is not None
        try:
            if self._received > self._limit + MAX_HEAD_BYTES:
                self._refuse(f"sent an answer of more than {self._limit} bytes")
            self._parser.feed_data(data)
            if not self._in_body and self._received > MAX_HEAD_BYTES:
                self._refuse(f"sent more than {MAX_HEAD_BYTES} bytes of headers")
        except (HttpParserError, HttpParserUpgrade, _Unacceptable) as problem:
            if not self._complete:
                self._fail(self._problem or f"sent an answer that is not HTTP/1.1: {problem}")
                return
            self._keep = False  # what followed the answer is nobody's
        if self._complete:
            self._finish()

    def eof_received(self) -> bool:
        """The other side is done; an answer without a length is complete now, any other is not."""
        if not self._carrying:
            self._owner.lost(self)
        elif self._in_body and not self._sized:
            self._complete = True
            self._keep = False
            self._finish()
        else:
            self._fail("closed the connection " + self._progress())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if self._carrying:
            self._fail("reset the connection " + self._progress())
        self._parser = None  # it holds a reference back
        self._owner.lost(self)
        self._owner.ended(self)

    # What the parser calls. Names are httptools'.

    def on_message_begin(self) -> None:
        """A second answer in the same bytes: the first one stands, the connection does not."""
        if self._complete:
            self._refuse("sent more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the three headers that matter; trailers change nothing."""
        if self._in_body:
            return
        match name.lower():
            case b"content-length":
                self._length = int(value) if value.isdigit() else None
                self._sized = True
            case b"transfer-encoding":
                self._sized = True
            case b"content-encoding":
                if value.lower() != b"identity":
                    self._refuse("sent an encoded answer that nobody asked for")
            case b"inference-header-content-length":
                if not value.isdigit() or len(value) > 18:
                    self._refuse("sent an Inference-Header-Content-Length that is not a number")
                self._header_length = int(value)

    def on_headers_complete(self) -> None:
        """The head is there: refuse what will be too large before it arrives."""
        assert self._parser is not None
        self._in_body = True
        self._status = self._parser.get_status_code()
        if self._status in {204, 304}:
            self._sized = True
        if self._length is not None and self._length > self._limit:
            self._refuse(f"sent an answer of {self._length} bytes, {self._limit} are allowed")

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body_bytes += len(data)
        if self._body_bytes > self._limit:
            self._refuse(f"sent an answer of more than {self._limit} bytes")
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Interim answers are skipped; the next one ends the exchange, once the parser has returned."""
        assert self._parser is not None
        if self._status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM_ANSWERS:
                self._refuse(f"sent more than {MAX_INTERIM_ANSWERS} interim answers")
            self._reset_head()
            return
        self._complete = True
        self._keep = self._parser.should_keep_alive()

    # How a request ends.

    def _refuse(self, sentence: str) -> None:
        self._problem = sentence
        raise _Unacceptable(sentence)

    def _progress(self) -> str:
        if not self.began:
            return "without an answer"
        return f"in the middle of its answer, after {self._body_bytes} bytes of the body"

    def _discard(self) -> None:
        self.abort()
        self._owner.lost(self)

    def _fail(self, sentence: str) -> None:
        self.abort()
        self._owner.broke(self, sentence)

    def _finish(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if self._header_length is not None and self._header_length > len(body):
            self._fail(f"sent an Inference-Header-Content-Length of {self._header_length} for {len(body)} bytes")
            return
        transport = self._transport
        assert transport is not None
        # An answer that came before the request was out leaves the rest of the request in the way.
        reusable = self._keep and not transport.is_closing() and not transport.get_write_buffer_size()
        self.answers += 1
        self._carrying = False
        if not reusable:
            transport.abort()
        self._owner.answered(self, RawAnswer(self._status, body, self._header_length), reusable)


# Opens a connection; raises OSError or UnicodeError.
Connect = Callable[[Callable[[], Connection]], Awaitable[Connection]]
