"""Both lanes of the data plane on real sockets in one loop, fed in segments of known bounds."""

import asyncio
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.app import Worker
from gateway.dataplane.doorkeeper import BODY, LINGER
from gateway.dataplane.fastlane import FastLane
from gateway.settings import Settings
from routing.parse import parse_route
from tests.gateway_process import DEMO
from tests.joined import Joined

TURNS = 5_000  # of the loop that an answer may take
SPIN_TURNS = 500  # of them without a pause
QUIET_TURNS = 6  # without work until it counts as done: parts of a body wake a task that reads them
OURS = re.compile(rb"x-request-id: [0-9a-f]{32}\r\n")
ROUTE = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
    "sticky": {"by": ["header:x-customer-id"]},
    "enforce": False,
}


class Conversation:
    """What one connection was sent and what it said."""

    def __init__(self, answer: bytes, *, is_closed: bool, fast: int) -> None:
        self.answer = OURS.sub(b"x-request-id: ours\r\n", answer)
        self.is_closed = is_closed
        self.fast = fast

    @property
    def said(self) -> tuple[bytes, bool]:
        return self.answer, self.is_closed


class LaneServer:
    """One gateway's data listener."""

    def __init__(self, worker: Worker, *, is_fast: bool) -> None:
        self._worker = worker
        self._state = ServerState()
        self._state.default_headers = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")]
        self._config = Config(worker.data_app, ws="none", lifespan="off", log_config=None, access_log=False)
        self._config.load()
        self.doors: list[Any] = []
        self.received: list[int] = []
        self.fast: list[int] = []
        server = self
        base: Any = worker.data_door
        assert issubclass(base, FastLane) == is_fast

        class Watched(base):  # type: ignore[misc]
            """Counts what it was given."""

            def connection_made(self, transport: asyncio.Transport) -> None:
                server.doors.append(self)
                super().connection_made(transport)

            def data_received(self, data: bytes) -> None:
                server.received.append(len(data))
                super().data_received(data)

            def _begin(self, *given: Any) -> None:
                server.fast.append(1)
                super()._begin(*given)

        self._protocol = Watched
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()

        def make() -> asyncio.Protocol:
            protocol: asyncio.Protocol = self._protocol(
                config=self._config, server_state=self._state, app_state={}, _loop=loop
            )
            return protocol

        self._server = await loop.create_server(make, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def converse(self, segments: Sequence[bytes], *, is_patient: bool = False) -> Conversation:
        """Send segments, each once the one before was received; all that comes back until nothing is in work.

        Args:
            segments: Each becomes one read.
            is_patient: Wait for the answer before the next segment, too.
        """
        assert self._server is not None
        self.doors.clear()
        self.received.clear()
        self.fast.clear()
        with socket.create_connection(self._server.sockets[0].getsockname(), timeout=5) as client:
            await self._until(lambda: bool(self.doors))
            sent = 0
            for segment in filter(None, segments):
                client.sendall(segment)
                sent += len(segment)
                await self._until(lambda sent=sent: sum(self.received) >= sent or self._is_gone())
                if self._is_gone():
                    break
                if is_patient:
                    await self._settled()
            await self._settled()
            is_closed = self._is_gone()
            self.doors[0].transport.close()
            await self._until(lambda: not self._state.connections)
            return Conversation(_all_of(client), is_closed=is_closed, fast=len(self.fast))

    def _is_gone(self) -> bool:
        return bool(self.doors) and (self.doors[0].transport.is_closing() or self.doors[0].phase >= LINGER)

    async def _settled(self) -> None:
        """Wait until nothing of the connection is in work; a request whose body has not come is not."""
        quiet = 0
        for turn in range(TURNS):
            waits = not self._state.tasks or self.doors[0].phase == BODY
            quiet = quiet + 1 if waits and not self._worker.pipeline.in_work else 0
            if quiet > QUIET_TURNS:
                return
            await asyncio.sleep(0 if turn < SPIN_TURNS else 0.001)
        raise AssertionError("the request was not answered")

    async def _until(self, condition: Any) -> None:
        for turn in range(TURNS):
            if condition():
                return
            await asyncio.sleep(0 if turn < SPIN_TURNS else 0.001)
        raise AssertionError("a segment was not received")


def _all_of(client: socket.socket) -> bytes:
    parts = []
    with suppress(ConnectionResetError):  # what it has not read, the other side throws away with a reset
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


@asynccontextmanager
async def two_lanes() -> AsyncIterator[tuple[LaneServer, LaneServer]]:
    """The same gateway with and without its fast lane."""
    joined, servers = [], []
    with tempfile.TemporaryDirectory() as folder:
        for is_fast in (True, False):
            settings = Settings(
                store={"url": "memory:"},
                models={"dir": DEMO / "models"},
                state_dir=Path(folder) / str(is_fast),
                server={"fast_lane": is_fast},
            )
            both = Joined(settings, [parse_route(ROUTE)])
            await both.host.start()
            while not both.worker.runtime.current.routes:
                await asyncio.sleep(0)
            await both.worker.stable_loaded()
            await both.worker.settle()
            server = LaneServer(both.worker, is_fast=is_fast)
            await server.start()
            joined.append(both)
            servers.append(server)
        try:
            yield servers[0], servers[1]
        finally:
            for server in servers:
                await server.stop()
            for both in joined:
                await both.worker.stop()
                await both.host.stop()
