"""Listeners: sockets, uvicorn servers, and the protocol classes that are given to them."""

import contextlib
import socket
from collections.abc import Generator

import uvicorn

from gateway.dataplane.frontdoor import FrontDoor
from gateway.errors import CannotStart
from gateway.settings import Settings, split_address

BACKLOG = 2048
STARTED_POLL_S = 0.005
DRAIN_MARGIN_S = 2.0  # after drain_s everything is answered by us; uvicorn's own end of patience is never needed


class Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the process's, not a listener's."""
        yield

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server_state.connections)

    def end(self, *, at_once: bool = False) -> None:
        """Take no more connections; finish what is in work, or not even that."""
        self.should_exit = True
        self.force_exit = self.force_exit or at_once


def bind(address: str, *, reuse_port: bool = False) -> socket.socket:
    """A bound socket.

    Raises:
        CannotStart: The address is taken or not ours.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise CannotStart(f"cannot listen on {address}: {error.strerror}") from None
    sock.setblocking(False)
    return sock


def listener(settings: Settings, app: object, http: type[FrontDoor], *, is_logged: bool = False) -> Listener:
    """A server for one application; ``serve`` it with a bound socket."""
    return Listener(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            http=http,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=is_logged,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.server.keep_alive_s,
            timeout_graceful_shutdown=round(settings.drain_s + DRAIN_MARGIN_S),
        )
    )
