"""Heads of requests, made ready, and heads of answers that were read before."""

from typing import NamedTuple
from urllib.parse import quote

from gateway.backends.base import Call

HEADS_MAX = 256  # heads of answers that are remembered of one server
OPENINGS_MAX = 256  # openings of requests that are kept for one version on one server, one for each size of a body
HEAD_BYTES = 1024  # a longer one is read anew every time


class RequestHeads:
    """What goes out before a body, for one version on one server.

    Args:
        host: As it stands in a URL, an IPv6 address without brackets.
        prefix: What stands before the protocol's paths.
        version: ``None`` leaves the choice to the server.

    Attributes:
        ready: A whole request for readiness, on a connection of its own.
        metadata: A whole request for metadata, likewise.
        openings: Heads of JSON bodies by their size, up to the value of ``x-request-id``.
        via: Of the last call, nearly always that of the next one too.
        ending: What stands behind ``x-request-id`` in a head with that.
    """

    __slots__ = ("_binary", "_json", "ending", "metadata", "openings", "ready", "via")

    def __init__(self, host: str, port: int, prefix: str, model: str, version: str | None) -> None:
        path = f"{prefix}/v2/models/{quote(model, safe='')}"
        if version is not None:
            path += f"/versions/{quote(version, safe='')}"
        name = f"[{host}]" if ":" in host else host
        host_line = f"host: {name}:{port}\r\n"
        post = f"POST {path}/infer HTTP/1.1\r\n{host_line}"
        self._json = f"{post}content-type: application/json\r\ncontent-length: "
        self._binary = f"{post}content-type: application/octet-stream\r\ncontent-length: "
        self.openings: dict[int, str] = {}
        self.via = ""
        self.ending = "\r\nvia: \r\n\r\n"
        get_tail = f" HTTP/1.1\r\n{host_line}connection: close\r\n\r\n"
        self.ready = f"GET {path}/ready{get_tail}".encode()
        self.metadata = f"GET {path}{get_tail}".encode()

    def of(self, call: Call) -> bytes:
        """The head of an inference request."""
        via, size = call.via, len(call.body)
        if via is not self.via:
            self.via, self.ending = via, f"\r\nvia: {via}\r\n\r\n"
        if call.header_length is None:
            if len(self.openings) >= OPENINGS_MAX:
                self.openings.clear()
            opening = self.openings[size] = f"{self._json}{size}\r\nx-request-id: "
            head = f"{opening}{call.request_id}{self.ending}"
        else:
            length = f"inference-header-content-length: {call.header_length}"
            head = f"{self._binary}{size}\r\nx-request-id: {call.request_id}\r\nvia: {via}\r\n{length}\r\n\r\n"
        return head.encode("latin-1")


class KnownHead(NamedTuple):
    """What the parser made of a head: the same bytes mean the same.

    Attributes:
        status: HTTP status, 200 or more.
        body_bytes: Content-Length.
        header_length: ``Inference-Header-Content-Length``, at most ``body_bytes``; ``None`` when absent.
    """

    status: int
    body_bytes: int
    header_length: int | None


class KnownHeads:
    """Heads of complete answers after which the connection could be used again, by their exact bytes.

    A head is in here only after the parser has read it, so a hit cannot disagree with the parser.

    Attributes:
        by_bytes: Head, its empty line included, to what it says.
        forgotten: How often all were forgotten because there was no room.
    """

    __slots__ = ("by_bytes", "forgotten")

    def __init__(self) -> None:
        self.by_bytes: dict[bytes, KnownHead] = {}
        self.forgotten = 0

    def remember(self, head: bytes, known: KnownHead) -> None:
        """Keep one; where there is no room all others go."""
        if len(head) > HEAD_BYTES:
            return
        if len(self.by_bytes) >= HEADS_MAX:
            self.by_bytes.clear()
            self.forgotten += 1
        self.by_bytes[head] = known
