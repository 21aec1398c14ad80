"""A TCP proxy between a client and Redis that can lose a reply or hold a request back."""

import asyncio
import contextlib
from enum import Enum, auto


class Fault(Enum):
    """What happens to the next request."""

    NONE = auto()
    DROP_REPLY = auto()  # the server runs it, the client's connection breaks without a reply
    HOLD_REQUEST = auto()  # it stays in the proxy until ``release``, though the client has left


class CutProxy:
    """Forwards to ``port``. The fault strikes one write script, then the proxy is transparent again."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._released = asyncio.Event()
        self.fault = Fault.NONE
        self.refuses = False
        self._generation = 0
        self.delivered = asyncio.Event()

    async def __aenter__(self) -> "CutProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def release(self) -> None:
        """Let the held request go on to the server."""
        self._released.set()

    def silence(self) -> None:
        """Swallow what comes on the connections there are; new ones work. A firewall forgets like this."""
        self._generation += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self.refuses:
                await self._forward(reader, writer)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        generation = self._generation
        try:
            while request := await reader.read(1 << 20):
                if generation != self._generation:
                    continue
                fault = Fault.NONE
                if b"HINCRBY" in request:
                    fault, self.fault = self.fault, Fault.NONE
                if fault is Fault.HOLD_REQUEST:
                    await self._released.wait()
                up_writer.write(request)
                reply = await up_reader.read(1 << 20)
                if fault is not Fault.NONE:
                    self.delivered.set()
                    return
                writer.write(reply)
        finally:
            up_writer.close()
