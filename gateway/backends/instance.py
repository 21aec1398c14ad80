"""One server that runs a version: its connections, whether it is ready, and the probe that finds out."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gateway.backends.base import State
from gateway.backends.connection import Connection
from gateway.backends.connections import Connections
from gateway.backends.heads import RequestHeads
from gateway.backends.probe import NotReady, inspect
from gateway.backends.replies import Replies
from gateway.backends.sending import Sending
from gateway.protocol.shapes import Signature

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of what goes to one server.

    Attributes:
        max_connections: Connections; each carries one request at a time.
        max_waiting: Requests that wait for a connection.
        max_answer_bytes: Body of one answer.
        connect_timeout_s: Time for one connection to open.
        probe_interval_s: Pause between two probes of a server that is not ready.
    """

    max_connections: int = 64
    max_waiting: int = 256
    max_answer_bytes: int = 64 * 1024 * 1024
    connect_timeout_s: float = 2.0
    probe_interval_s: float = 1.0


class Instance:
    """One of the servers of a version.

    Args:
        url: ``http://host[:port][/prefix]``.
        model: The server's name for the model.
        version: The server's name for the version; ``None`` leaves the choice to the server.
        replies: Makes the version's replies.
        bounds: Of what goes there.
        on_change: Called after each change of ``state``.
        move: Finds another server for a sending that reached none here.
        differs: Given what the server says of its tensors; says why that cannot be, or nothing.

    Attributes:
        connections: To this server.
        signature: Inputs and outputs, as the server last described them.

    Raises:
        ValueError: ``url`` is something else.
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: str | None,
        replies: Replies,
        bounds: Bounds,
        loop: asyncio.AbstractEventLoop,
        *,
        on_change: Callable[[], None],
        move: Callable[[Sending, "Instance"], bool],
        differs: Callable[["Instance", Signature], str],
    ) -> None:
        self.url = url
        self._host, self._port, prefix = address_of(url)
        self._heads = RequestHeads(self._host, self._port, prefix, model, version)
        self._bounds = bounds
        self._loop = loop
        self._on_change = on_change
        self._differs = differs
        self._state = State.LOADING
        self._reason = "is being asked"
        self._prober: asyncio.Task[None] | None = None
        self._down = asyncio.Event()
        self.signature: Signature | None = None
        self.connections = Connections(
            url,
            self._heads,
            replies,
            self._connect,
            self._refused,
            lambda sending: move(sending, self),
            max_connections=bounds.max_connections,
            max_waiting=bounds.max_waiting,
            max_answer_bytes=bounds.max_answer_bytes,
            connect_timeout_s=bounds.connect_timeout_s,
            loop=loop,
        )

    @property
    def state(self) -> State:
        """Whether it can be asked."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is not ready, as a sentence; empty when it is."""
        return "" if self._state is State.READY else f"{self.url} {self._reason}"

    def start(self) -> None:
        """Ask it, and again for as long as it is not ready."""
        self._prober = self._loop.create_task(self._probe())

    def close(self) -> None:
        """Ask and take nothing any more; what was sent there ends as ``UNREACHABLE``."""
        self._enter(State.CLOSED, "is closed")
        if self._prober is not None:
            self._prober.cancel()
        self.connections.close()

    async def closed(self) -> None:
        """Wait until the probe has ended and every connection is gone."""
        if self._prober is not None:
            with suppress(asyncio.CancelledError):
                await self._prober
        await self.connections.closed()

    def status(self) -> dict[str, Any]:
        """What it does now, as plain data."""
        pool = self.connections
        return {
            "url": self.url,
            "state": self._state.value,
            "reason": self.reason,
            "in_flight": pool.in_flight,
            "waiting": pool.waiting_count,
            "connections": pool.open_count,
            "idle": pool.idle_count,
            "retried": pool.retried,
            "moved": pool.moved,
            "heads_forgotten": pool.known_heads.forgotten,
        }

    async def _connect(self, make: Callable[[], Connection]) -> Connection:
        _, connection = await self._loop.create_connection(make, self._host, self._port)
        return connection

    def _enter(self, state: State, reason: str = "") -> None:
        if self._state is State.CLOSED:
            return
        changed = state is not self._state
        self._state = state
        self._reason = reason
        if state is State.FAILED:
            self._down.set()
        else:
            self._down.clear()
        if changed:
            self._on_change()

    def _refused(self, sentence: str) -> None:
        self._enter(State.FAILED, sentence)

    async def _probe(self) -> None:
        while True:
            try:
                await self._inspect()
            except Exception:
                log.exception("the probe of %s failed", self.url)
                self._enter(State.FAILED, "could not be probed")
            await self._down.wait()
            await asyncio.sleep(self._bounds.probe_interval_s)

    async def _inspect(self) -> None:
        try:
            signature = await inspect(self._connect, self._heads.ready, self._heads.metadata)
        except NotReady as problem:
            self._enter(State.FAILED, str(problem))
            return
        if difference := self._differs(self, signature):
            self._enter(State.FAILED, difference)
            return
        self.signature = signature
        self._enter(State.READY)


def address_of(url: str) -> tuple[str, int, str]:
    """Host, port and path of a server's URL.

    Raises:
        ValueError: It is not of the form.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{url!r} is not of the form http://host[:port][/prefix]")
    return parts.hostname, parts.port or 80, parts.path.rstrip("/")
