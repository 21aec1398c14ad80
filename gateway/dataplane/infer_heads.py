"""Heads of infer requests, for the fast lane: understood to the last byte, or left to somebody else."""

import re
from collections.abc import Callable
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from gateway.dataplane.admission import KEY, PRIORITY, VISIBLE_ASCII, Priorities, header_length, timeout_s, via
from gateway.errors import GatewayError
from gateway.settings import Settings
from routing.split import SplitPlan
from routing.table import NAME_PATTERN

BEGINNING = b"POST /v2/models/"
HEAD_END = b"\r\n\r\n"
MAX_FAST_HEAD_BYTES = 4096  # a longer head is no common one
MEMO_HEADS = 512  # heads, paths, hosts and names that are remembered; all are forgotten when one more comes
_NAME = NAME_PATTERN.strip("^$").encode()
_PATH = re.compile(rb"/v2/models/(%s)(?:/versions/(%s))?/infer" % (_NAME, _NAME))
_HOST = re.compile(rb"[A-Za-z0-9.-]{1,255}(?::[0-9]{1,5})?")
# What changes how a message is framed, or asks for more than an answer.
_ELSEWHERE = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"te", b"trailer"})
# Heads with one of these are not remembered: the others are secrets, the last is never the same again.
_FLEETING = frozenset({b"authorization", b"cookie", b"proxy-authorization", KEY, b"x-request-id"})


class InferHead:
    """The head of one infer request.

    Attributes:
        headers: By lower-case name.
        length: Of the body, in bytes.
        header_length: Of the JSON part when binary tensors follow it, else ``None``.
        version: The version that is pinned, else ``None``.
        patience_s: How long the request may take.
        request_id: The client's, if it may be used.
        is_low: It has low priority.
        plan: The split that gave its key to ``arm``, the index of an arm; another one gives it anew.
        key: That sticky key.
    """

    __slots__ = (
        "arm",
        "header_length",
        "headers",
        "is_low",
        "key",
        "length",
        "model",
        "patience_s",
        "plan",
        "request_id",
        "version",
        "via",
    )

    def __init__(
        self,
        names: tuple[str, str | None],
        headers: dict[bytes, bytes],
        length: int,
        inner_length: int | None,
        patience_s: float,
        hops: str,
        is_low: bool,
    ) -> None:
        self.model, self.version = names
        self.headers = headers
        self.length = length
        self.header_length = inner_length
        self.patience_s = patience_s
        self.via = hops
        self.is_low = is_low
        self.plan: SplitPlan | None = None
        self.key: bytes | None = None
        self.arm = 0
        given = headers.get(b"x-request-id")
        self.request_id = given.decode("ascii") if given and VISIBLE_ASCII.fullmatch(given) else None


class HeadReader:
    """Reads heads with httptools; those that come again and again are looked up.

    The key of what is remembered is the whole head, byte for byte, so a hit cannot say anything else than the parser
    did. It is asked for only where a message begins.

    Args:
        name: What this gateway calls itself in ``via``.

    Attributes:
        max_head_bytes: Longest head that is looked at; none of the bounds on a part of a head is below it.
        find: Looks a whole head up among those that are remembered.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._deadline = settings.deadline
        self._patience_s = timeout_s({}, settings.deadline)
        self._via = via({}, name)
        self._priorities = Priorities(settings)
        bounds = settings.server
        self._max_body_bytes = bounds.max_body_bytes
        self._max_lines = bounds.max_headers + 2  # the request's own, and the empty one
        self.max_head_bytes = min(
            MAX_FAST_HEAD_BYTES, bounds.max_head_bytes, bounds.max_line_bytes, bounds.max_url_bytes
        )
        self._name = name
        self._memo: dict[bytes, InferHead] = {}
        self._once: set[int] = set()
        self._names = _Names()
        self._paths: dict[bytes, tuple[str, str | None]] = {}
        self._hosts: set[bytes] = set()
        self.find: Callable[[bytes], InferHead | None] = self._memo.get

    def read(self, raw: bytes) -> InferHead | None:
        """Read a whole head; ``None`` unless it is one of a plain infer request that is fully understood."""
        lines = raw.count(b"\n")
        if lines > self._max_lines:
            return None
        sink = _Sink()
        parser = HttpRequestParser(sink)
        try:
            parser.feed_data(raw)
        except (HttpParserError, HttpParserUpgrade):
            return None
        plain = sink.is_whole and parser.should_keep_alive() and not parser.should_upgrade()
        if not plain or parser.get_http_version() != "1.1" or parser.get_method() != b"POST" or len(sink.urls) != 1:
            return None
        names = self._names
        headers = {names[name]: value for name, value in sink.headers.items()}
        # A line for each, beside the request's own and the empty one: none was folded into another or came twice.
        if len(headers) != lines - 2 or b"" in headers:
            return None
        head = self._understood(sink.urls[0], headers)
        if head is not None and _FLEETING.isdisjoint(head.headers):
            self._remember(raw, head)
        return head

    def _remember(self, raw: bytes, head: InferHead) -> None:
        """Keep a head that came before; most of those that never come again are not kept at all."""
        mark = hash(raw)
        if mark not in self._once:
            _room(self._once, MEMO_HEADS)
            self._once.add(mark)
            return
        _room(self._memo, MEMO_HEADS)
        self._memo[raw] = head

    def _understood(self, url: bytes, headers: dict[bytes, bytes]) -> InferHead | None:
        host, length = headers.get(b"host"), headers.get(b"content-length")
        if host is None or length is None or not length.isdigit() or len(length) > 18:
            return None
        names = self._paths.get(url) or self._new_path(url)
        if names is None or (host not in self._hosts and not self._is_host(host)):
            return None
        body_bytes = int(length)
        if body_bytes > self._max_body_bytes:
            return None
        try:
            return InferHead(
                names,
                headers,
                body_bytes,
                header_length(headers, body_bytes) if b"inference-header-content-length" in headers else None,
                timeout_s(headers, self._deadline) if b"x-request-timeout-ms" in headers else self._patience_s,
                via(headers, self._name) if b"via" in headers else self._via,
                self._priorities.is_low(headers) if PRIORITY in headers else False,
            )
        except GatewayError:  # refused where all are refused
            return None

    def _new_path(self, url: bytes) -> tuple[str, str | None] | None:
        path = _PATH.fullmatch(url)
        if path is None:
            return None
        model, version = path.groups()
        names = model.decode(), None if version is None else version.decode()
        _room(self._paths, MEMO_HEADS)
        self._paths[url] = names
        return names

    def _is_host(self, host: bytes) -> bool:
        if _HOST.fullmatch(host) is None:
            return False
        _room(self._hosts, MEMO_HEADS)
        self._hosts.add(host)
        return True


class _Names(dict[bytes, bytes]):
    """Header names as they come to how they are compared; empty for those that this lane leaves to the other."""

    def __missing__(self, name: bytes) -> bytes:
        low = name.lower()
        known = b"" if low in _ELSEWHERE or b"_" in low else low
        _room(self, MEMO_HEADS)
        self[name] = known
        return known


def _room(kept: dict[Any, Any] | set[Any], limit: int) -> None:
    """Forget all where one more would be too many."""
    if len(kept) >= limit:
        kept.clear()


class _Sink:
    """What httptools calls; names are httptools'. What comes most often goes into a list and a dictionary by itself.

    Attributes:
        is_whole: The head has ended.
    """

    __slots__ = ("headers", "is_whole", "on_header", "on_url", "urls")

    def __init__(self) -> None:
        self.urls: list[bytes] = []
        self.headers: dict[bytes, bytes] = {}
        self.on_url = self.urls.append
        self.on_header = self.headers.__setitem__
        self.is_whole = False

    def on_headers_complete(self) -> None:
        self.is_whole = True
