"""How a server is spoken to: where it is, what carries calls to it, and how it is asked about a version."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from gateway.backends.connection import Connect
from gateway.backends.connections import Connections
from gateway.backends.heads import RequestHeads
from gateway.backends.health import HealthRules
from gateway.backends.places import Move
from gateway.backends.probe import inspect
from gateway.backends.replies import Replies
from gateway.backends.sending import Pool
from gateway.protocol.shapes import Signature

DEFAULT_RULES = HealthRules()
PORTS = {"http": 80, "grpc": 8001}

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of what goes to one server.

    Attributes:
        max_connections: Calls in flight: over HTTP each has a connection, over gRPC they share one.
        max_waiting: Requests that wait for a place among them.
        max_answer_bytes: Body of one answer.
        connect_timeout_s: Time for one connection to open.
        probe_interval_s: Pause between two probes of a server that is not ready.
        check_s: The same of one that is.
        health: When a server goes and how it comes back.
    """

    max_connections: int = 64
    max_waiting: int = 256
    max_answer_bytes: int = 64 * 1024 * 1024
    connect_timeout_s: float = 2.0
    probe_interval_s: float = 1.0
    check_s: float = 5.0
    health: HealthRules = DEFAULT_RULES


class Transport(Protocol):
    """One server in its own language."""

    @property
    def pool(self) -> Pool:
        """Carries calls."""

    async def inspect(self) -> Signature:
        """Ask whether the version is ready, and for its metadata.

        Raises:
            NotReady: It is not, or does not say.
        """


@dataclass(frozen=True, slots=True)
class Target:
    """A version on a server.

    Attributes:
        url: Of the server.
        model: The server's name for the model.
        version: The server's name for the version; ``None`` leaves the choice to the server.
        public_model: Name that answers carry.
        public_version: Version that answers carry.
        holds_to_version: An answer that does not name ``version`` as its own breaks the contract.
    """

    url: str
    model: str
    version: str | None
    public_model: str
    public_version: str
    holds_to_version: bool


class HttpTransport:
    """Plain HTTP/1.1."""

    def __init__(
        self,
        target: Target,
        replies: Replies,
        bounds: Bounds,
        loop: asyncio.AbstractEventLoop,
        on_refused: Callable[[str], None],
        move: Move,
    ) -> None:
        host, port, prefix = address_of(target.url)
        self._connect: Connect = partial(connected, host, port)
        self._heads = RequestHeads(host, port, prefix, target.model, target.version)
        self.pool = Connections(
            target.url,
            self._heads,
            replies,
            self._connect,
            on_refused,
            move,
            max_connections=bounds.max_connections,
            max_waiting=bounds.max_waiting,
            max_answer_bytes=bounds.max_answer_bytes,
            connect_timeout_s=bounds.connect_timeout_s,
            loop=loop,
        )

    async def inspect(self) -> Signature:
        """Ask its ready and its metadata endpoint."""
        signature = await inspect(self._connect, self._heads.ready, self._heads.metadata)
        self.pool.expect_strings(bool(signature.strings))
        return signature


async def connected(host: str, port: int, make: Callable[[], ProtocolT]) -> ProtocolT:
    """A new connection; raises what the loop does where there is none."""
    _, connection = await asyncio.get_running_loop().create_connection(make, host, port)
    return connection


def address_of(url: str) -> tuple[str, int, str]:
    """Host, port and path of a server's URL.

    Raises:
        ValueError: It is not of the form.
    """
    parts = urlsplit(url)
    port = PORTS.get(parts.scheme)
    if port is None or not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{url!r} is not of the form http://host[:port][/prefix] or grpc://host[:port]")
    if parts.scheme == "grpc" and parts.path:
        raise ValueError(f"{url!r} has a path, which gRPC does not know")
    return parts.hostname, parts.port or port, parts.path.rstrip("/")
