"""What a Redis does, with its own times: the writes of routes, and the words of gateways that serve them."""

import json
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

LINE = re.compile(rb'\+(\d+\.\d+) \[\d+ [^\]]*\] ((?:"(?:[^"\\]|\\.)*" ?)+)')
ARGUMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"')
ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
CHANGES, PRESENCE = b"{turnout}:changes", b"{turnout}:presence"
JOIN_S = 5.0


@dataclass(slots=True)
class Seen:
    """Times in seconds of the server's clock.

    Attributes:
        written: Of each write of a model, by revision.
        words: By gateway, when it said which revision of the model it serves, in order.
    """

    written: dict[int, float] = field(default_factory=dict)
    words: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def served_s(self) -> Mapping[int, float]:
        """By revision, when the last gateway had said that it serves it or a later one."""
        found = {}
        for revision in self.written:
            last = [next((said_s for said_s, known in told if known >= revision), None) for told in self.words.values()]
            if last and None not in last:
                found[revision] = max(said_s for said_s in last if said_s is not None)
        return found

    def steps_back(self) -> list[str]:
        """Gateways that served an older revision after a newer one."""
        return [
            f"{name}: {after} after {before}"
            for name, told in self.words.items()
            for (_, before), (_, after) in pairwise(told)
            if after < before
        ]


class Monitor:
    """Listens to a server on loopback with ``MONITOR``; a context manager."""

    def __init__(self, port: int, model: str) -> None:
        self.seen = Seen()
        self._model = model
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> "Monitor":
        self._socket.sendall(b"MONITOR\r\n")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(JOIN_S)
        self._socket.close()

    def _listen(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                if match := LINE.match(line):
                    self._take(float(match[1]), [_plain(found) for found in ARGUMENT.findall(match[2])])

    def _take(self, at_s: float, command: list[bytes]) -> None:
        if command[:2] == [b"XADD", CHANGES]:
            fields = dict(zip(command[-8::2], command[-7::2], strict=True))
            if fields[b"model"] == self._model.encode():
                self.seen.written[int(fields[b"revision"])] = at_s
        elif command[:2] == [b"HSET", PRESENCE]:
            applied = json.loads(command[3].partition(b" ")[2])["applied"]
            if self._model in applied:
                self.seen.words.setdefault(command[2].decode(), []).append((at_s, applied[self._model]))


def _plain(argument: bytes) -> bytes:
    return ESCAPE.sub(lambda m: bytes([int(m[1][1:], 16)]) if m[1][:1] == b"x" else PLAIN.get(m[1], m[1]), argument)
