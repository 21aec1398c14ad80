"""A TCP proxy that is slow, resets what is open, or refuses, while it is told to."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence

from tests.chaos.background import Background

CHUNK_BYTES = 1 << 16
MUTED_POLL_S = 0.01


class Proxy:
    """Forwards to ``port``; made and steered from any thread.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, background: Background, port: int) -> None:
        self._background = background
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._delay_s = 0.0
        self._refuses = False
        self._muted = b""
        self._server = background.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def slow(self, delay_s: float) -> None:
        """Hold every piece back for so long, both ways."""
        self._background.do(lambda: setattr(self, "_delay_s", delay_s))

    def reset(self, *, refuse: bool = False) -> None:
        """RST to both sides of every connection there is; ``refuse``: and to each new one."""

        def strike() -> None:
            self._refuses = refuse
            for writer in list(self._writers):
                _reset(writer)

        self._background.do(strike)

    def mute(self, word: bytes) -> None:
        """Hold back replies on connections on which this was asked, until ``heal``."""
        self._background.do(lambda: setattr(self, "_muted", word))

    def heal(self) -> None:
        """Forward as if it were not there."""

        def calm() -> None:
            self._delay_s, self._refuses, self._muted = 0.0, False, b""

        self._background.do(calm)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        up = None
        try:
            if self._refuses:
                _reset(writer)
                return
            up_reader, up = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(up)
            asked: list[bytes] = []
            await asyncio.gather(self._pump(reader, up, asked.append), self._pump(up_reader, writer, asked=asked))
        except OSError:
            _reset(writer)
        except asyncio.CancelledError:  # the end: whoever made the stream would log it
            return
        finally:
            for one in filter(None, (writer, up)):
                self._writers.discard(one)
                one.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        note: Callable[[bytes], None] | None = None,
        asked: Sequence[bytes] = (),
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if note is not None and self._muted:
                note(data)
            while self._muted and any(self._muted in one for one in asked):
                await asyncio.sleep(MUTED_POLL_S)
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
