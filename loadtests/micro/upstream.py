"""A model server that does nothing: it reads a request and writes the same answer. For measuring what a client costs.

``python -m loadtests.micro.upstream [--vary]`` prints its port and ends with standard input.
"""

import argparse
import asyncio
import os
import re
import sys
import threading
from typing import cast

import uvloop

BODY = (
    b'{"model_name":"credit","model_version":"1","outputs":['
    b'{"name":"label","datatype":"INT64","shape":[1],"data":[0]},'
    b'{"name":"probabilities","datatype":"FP32","shape":[1,2],"data":[0.75,0.25]}]}'
)
METADATA = (
    b'{"name":"credit","inputs":[{"name":"x","datatype":"FP32","shape":[-1,20]}],'
    b'"outputs":[{"name":"label","datatype":"INT64","shape":[-1]},'
    b'{"name":"probabilities","datatype":"FP32","shape":[-1,2]}]}'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
LENGTH = re.compile(rb"(?i)content-length: (\d+)\r\n")


class Upstream(asyncio.Protocol):
    """One connection.

    Args:
        vary: No two answers have the same head.
    """

    def __init__(self, vary: bool) -> None:
        self._vary = vary
        self._count = 0
        self._wanted = 0
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer when the whole request is there; requests are never pipelined here."""
        self._held += data
        if not self._wanted:
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                return
            found = LENGTH.search(self._held, 0, end + 2)
            self._wanted = end + 4 + (int(found[1]) if found else 0)
        if len(self._held) < self._wanted:
            return
        held, self._held, self._wanted = self._held, b"", 0
        self._transport.write(self._answer(held))
        if held.startswith(b"GET"):
            self._transport.close()

    def _answer(self, request: bytes) -> bytes:
        if request.startswith(b"GET"):
            body = b"" if b"/ready " in request[:200] else METADATA
            return HEAD % len(body) + b"\r\n" + body
        self._count += 1
        extra = b"x-request-id: %d-%d\r\n" % (id(self), self._count) if self._vary else b""
        return HEAD % len(BODY) + extra + b"\r\n" + BODY


async def serve(vary: bool) -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(vary), "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    await ended.wait()
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=sys.modules[__name__].__doc__)
    parser.add_argument("--vary", action="store_true")
    uvloop.run(serve(parser.parse_args().vary))
