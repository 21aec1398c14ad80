"""Heads of infer requests, for the fast lane: understood to the last byte, or left to somebody else."""

import re
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.dataplane.admission import VISIBLE_ASCII, header_length, timeout_s, via
from gateway.errors import GatewayError
from gateway.settings import Settings
from routing.table import NAME_PATTERN

BEGINNING = b"POST /v2/models/"
HEAD_END = b"\r\n\r\n"
MAX_FAST_HEAD_BYTES = 4096  # a longer head is no common one
MAX_FAST_HEADERS = 32
MEMO_HEADS = 512  # heads that are remembered; all are forgotten when one more comes
_NAME = NAME_PATTERN.strip("^$").encode()
_PATH = re.compile(rb"/v2/models/(%s)(?:/versions/(%s))?/infer" % (_NAME, _NAME))
_HOST = re.compile(rb"[A-Za-z0-9.-]{1,255}(?::[0-9]{1,5})?")
# What changes how a message is framed, or asks for more than an answer.
_ELSEWHERE = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"te", b"trailer"})
_ONCE = frozenset({b"host", b"content-length"})
# Heads with one of these are not remembered: the first two are secrets, the third is never the same again.
_FLEETING = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"x-request-id"})


class InferHead:
    """The head of one infer request.

    Attributes:
        headers: By lower-case name.
        length: Of the body, in bytes.
        header_length: Of the JSON part when binary tensors follow it, else ``None``.
        version: The version that is pinned, else ``None``.
        patience_s: How long the request may take.
        request_id: The client's, if it may be used.
    """

    __slots__ = ("header_length", "headers", "length", "model", "patience_s", "request_id", "version", "via")

    def __init__(
        self,
        names: tuple[bytes, bytes | None],
        headers: dict[bytes, bytes],
        length: int,
        inner_length: int | None,
        patience_s: float,
        hops: str,
    ) -> None:
        model, version = names
        self.model = model.decode()
        self.version = None if version is None else version.decode()
        self.headers = headers
        self.length = length
        self.header_length = inner_length
        self.patience_s = patience_s
        self.via = hops
        given = headers.get(b"x-request-id")
        self.request_id = given.decode("ascii") if given and VISIBLE_ASCII.fullmatch(given) else None


class HeadReader:
    """Reads heads with httptools; those that come again and again are looked up.

    The key of what is remembered is the whole head, byte for byte, so a hit cannot say anything else than the parser
    did. It is asked for only where a message begins.

    Args:
        name: What this gateway calls itself in ``via``.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._deadline = settings.deadline
        self._max_body_bytes = settings.server.max_body_bytes
        self._name = name
        self._memo: dict[bytes, InferHead] = {}

    @property
    def find(self) -> Callable[[bytes], InferHead | None]:
        """Looks a whole head up among those that are remembered."""
        return self._memo.get

    def read(self, raw: bytes) -> InferHead | None:
        """Read a whole head; ``None`` unless it is one of a plain infer request that is fully understood."""
        sink = _Sink()
        parser = HttpRequestParser(sink)
        try:
            parser.feed_data(raw)
        except (HttpParserError, HttpParserUpgrade):
            return None
        plain = sink.is_whole and parser.get_http_version() == "1.1" and parser.should_keep_alive()
        if not plain or parser.get_method() != b"POST" or parser.should_upgrade():
            return None
        head = self._understood(sink)
        if head is not None and _FLEETING.isdisjoint(head.headers):
            if len(self._memo) >= MEMO_HEADS:
                self._memo.clear()
            self._memo[raw] = head
        return head

    def _understood(self, sink: "_Sink") -> InferHead | None:
        path = _PATH.fullmatch(sink.url)
        headers = sink.headers
        host, length = headers.get(b"host"), headers.get(b"content-length")
        if path is None or sink.is_odd or host is None or length is None:
            return None
        if _HOST.fullmatch(host) is None or not length.isdigit() or len(length) > 18:
            return None
        body_bytes = int(length)
        if body_bytes > self._max_body_bytes:
            return None
        model, version = path.groups()
        try:
            return InferHead(
                (model, version),
                headers,
                body_bytes,
                header_length(headers, body_bytes),
                timeout_s(headers, self._deadline),
                via(headers, self._name),
            )
        except GatewayError:  # refused where all are refused
            return None


class _Sink:
    """What httptools calls. Names are httptools'.

    Attributes:
        is_whole: The head has ended.
        is_odd: It holds something that this lane leaves to the other.
    """

    __slots__ = ("count", "headers", "is_odd", "is_whole", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.count = 0
        self.is_whole = self.is_odd = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.count += 1
        again = name in _ONCE and name in self.headers
        if again or name in _ELSEWHERE or b"_" in name or self.count > MAX_FAST_HEADERS:
            self.is_odd = True
        self.headers[name] = value

    def on_headers_complete(self) -> None:
        self.is_whole = True
