"""One keep-alive connection of the client: a request out, a whole answer in."""

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping

HEAD_END = b"\r\n\r\n"
OnEnd = Callable[["Wire", int, Mapping[str, str], bytes | None], None]  # ``None``: it ended before the answer


class Wire(asyncio.Protocol):
    """Tells its owner of the end of each request, and of its own.

    Attributes:
        port: Ours.
        is_open: It can carry a request when nothing is in flight on it.
    """

    def __init__(self, on_lost: Callable[["Wire"], None]) -> None:
        self._on_lost = on_lost
        self._on_end: OnEnd | None = None
        self._unread = b""
        self.port = 0
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]
        self.is_open = True

    def send(self, data: bytes, on_end: OnEnd) -> None:
        """Nothing is in flight."""
        self._on_end = on_end
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, found, rest = self._unread.partition(HEAD_END)
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        if len(rest) < length:
            return
        self._unread = b""
        if headers.get("connection") == "close" or len(rest) > length:
            self.is_open = False
            self._transport.close()
        self._end(int(first.split(" ")[1]), headers, rest[:length])

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_open = False
        self._end(0, {}, None)
        self._on_lost(self)

    def close(self, *, reset: bool = False) -> None:
        """FIN, or RST."""
        if reset:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _end(self, status: int, headers: Mapping[str, str], body: bytes | None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, status, headers, body)
