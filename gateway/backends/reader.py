"""Answers of a server read from its bytes: httptools does the framing, this adds the bounds."""

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.backends.heads import KnownHead

MAX_HEAD_BYTES = 64 * 1024  # status line and headers of one answer, interim answers included
MAX_INTERIM_ANSWERS = 8  # 1xx answers before the real one
WATCHED = frozenset({b"content-length", b"transfer-encoding", b"content-encoding", b"inference-header-content-length"})


class Unreadable(Exception):
    """What came is no answer that we take. The message is a sentence that starts with a verb."""


class _Refused(Exception):
    """Raised inside the parser's callbacks to stop it."""


class AnswerReader:
    """Reads one answer, then the next one over the same connection.

    Args:
        max_answer_bytes: Bound on the body of one answer.

    Attributes:
        status: HTTP status.
        header_length: ``Inference-Header-Content-Length``; ``None`` when absent.
        body_bytes: Bytes of the body so far.
        keep: The server lets the connection be used again, and nothing came behind the answer.
    """

    __slots__ = (
        "_complete",
        "_in_body",
        "_interim",
        "_length",
        "_limit",
        "_parser",
        "_parts",
        "_problem",
        "_received",
        "_sized",
        "body_bytes",
        "header_length",
        "keep",
        "status",
    )

    def __init__(self, max_answer_bytes: int) -> None:
        self._limit = max_answer_bytes
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """Forget the last answer; the parser stands behind it already."""
        self._received = 0
        self._interim = 0
        self._complete = False
        self._problem = ""
        self._parts: list[bytes] = []
        self.keep = False
        self._begin_head()

    def _begin_head(self) -> None:
        self._in_body = False
        self._sized = False
        self._length: int | None = None
        self.status = 0
        self.header_length: int | None = None
        self.body_bytes = 0

    def close(self) -> None:
        """Nothing is read any more."""
        self._parser = None  # it holds a reference back

    @property
    def ends_with_connection(self) -> bool:
        """Whether the answer has no length of its own, so that the end of the connection completes it."""
        return self._in_body and not self._sized

    def feed(self, data: bytes) -> bool:
        """Read more; returns whether the answer is complete.

        Raises:
            Unreadable: It never will be.
        """
        self._received += len(data)
        assert self._parser is not None
        try:
            if self._received > self._limit + MAX_HEAD_BYTES:
                self._refuse(f"sent an answer of more than {self._limit} bytes")
            self._parser.feed_data(data)
            if not self._in_body and self._received > MAX_HEAD_BYTES:
                self._refuse(f"sent more than {MAX_HEAD_BYTES} bytes of headers")
        except (HttpParserError, HttpParserUpgrade, _Refused) as problem:
            if not self._complete:
                raise Unreadable(self._problem or f"sent an answer that is not HTTP/1.1: {problem}") from None
            self.keep = False  # what followed the answer is nobody's
        return self._complete

    def body(self) -> bytes:
        """All of it, without transfer coding.

        Raises:
            Unreadable: It is shorter than its JSON part was said to be.
        """
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if self.header_length is not None and self.header_length > len(body):
            raise Unreadable(f"sent an Inference-Header-Content-Length of {self.header_length} for {len(body)} bytes")
        return body

    def known(self, head_bytes: int) -> KnownHead | None:
        """What the head means, if it was as long as that and a whole answer came with it and nothing else."""
        length, header_length = self._length, self.header_length
        if length is None or not self.keep or self._interim or head_bytes + length != self._received:
            return None
        if header_length is not None and header_length > length:
            return None
        return KnownHead(self.status, length, header_length)

    def _refuse(self, sentence: str) -> None:
        self._problem = sentence
        raise _Refused(sentence)

    # What the parser calls. Names are httptools'.

    def on_message_begin(self) -> None:
        """A second answer in the same bytes: the first one stands, the connection does not."""
        if self._complete:
            self._refuse("sent more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that matter; trailers change nothing."""
        name = name.lower()
        if name not in WATCHED or self._in_body:
            return
        match name:
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
                self.header_length = int(value)

    def on_headers_complete(self) -> None:
        """The head is there: refuse what will be too large before it arrives."""
        assert self._parser is not None
        self._in_body = True
        self.status = self._parser.get_status_code()
        if self.status in {204, 304}:
            self._sized = True
        if self._length is not None and self._length > self._limit:
            self._refuse(f"sent an answer of {self._length} bytes, {self._limit} are allowed")

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self.body_bytes += len(data)
        if self.body_bytes > self._limit:
            self._refuse(f"sent an answer of more than {self._limit} bytes")
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Interim answers are skipped; the next one ends the exchange, once the parser has returned."""
        assert self._parser is not None
        if self.status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM_ANSWERS:
                self._refuse(f"sent more than {MAX_INTERIM_ANSWERS} interim answers")
            self._begin_head()
            return
        self._complete = True
        self.keep = self._parser.should_keep_alive()
