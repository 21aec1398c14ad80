"""A client that sends exactly the bytes it is given, and reads whole answers until the server closes."""

import contextlib
import json
import socket
import time
from collections.abc import Iterable
from typing import Any


class RawAnswer:
    """One answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class RawClient:
    """One connection; a context manager."""

    def __init__(self, port: int, *, timeout_s: float = 10.0, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(timeout_s)
        self.socket.connect(("127.0.0.1", port))
        self._unread = b""

    def send(self, *parts: bytes) -> "RawClient":
        for part in parts:
            self.socket.sendall(part)
        return self

    def trickle(self, parts: Iterable[bytes], every_s: float) -> float:
        """Send a part every so often until the server answers or closes; how long that took."""
        begin = time.monotonic()
        self.socket.settimeout(every_s)
        for part in parts:
            try:
                self.socket.sendall(part)
                self._unread += self.socket.recv(1 << 16)
                break
            except TimeoutError:
                continue
            except OSError:
                break
        self.socket.settimeout(10.0)
        return time.monotonic() - begin

    def half_close(self) -> "RawClient":
        with contextlib.suppress(OSError):  # the server was faster
            self.socket.shutdown(socket.SHUT_WR)
        return self

    def answer(self) -> RawAnswer | None:
        """The next answer; ``None``: the server closed."""
        while b"\r\n\r\n" not in self._unread:
            if not self._more():
                assert not self._unread, self._unread[:200]
                return None
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(first.split(" ")[1])
        length = 0 if status < 200 else int(headers["content-length"])
        while len(self._unread) < length:
            assert self._more(), "the answer is cut off"
        body, self._unread = self._unread[:length], self._unread[length:]
        return RawAnswer(status, headers, body)

    def answers(self) -> list[RawAnswer]:
        """All answers until the server closes."""
        found = []
        while (answer := self.answer()) is not None:
            found.append(answer)
        return found

    def _more(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._unread += data
        return bool(data)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
