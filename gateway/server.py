"""Runs a gateway: its listeners in one loop, one signal handler, one drain."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Generator, Sequence

import uvicorn

from gateway.app import App
from gateway.dataplane.frontdoor import FrontDoor
from gateway.errors import CannotStart
from gateway.settings import Settings, split_address
from routing.table import Route

log = logging.getLogger("turnout.server")

BACKLOG = 2048
STARTED_POLL_S = 0.005
DRAIN_MARGIN_S = 2.0  # after drain_s everything is answered by us; uvicorn's own end of patience is never needed
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the process's, not a listener's."""
        yield


def bind(address: str) -> socket.socket:
    """A listening socket.

    Raises:
        CannotStart: The address is taken or not ours.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise CannotStart(f"cannot listen on {address}: {error.strerror}") from None
    sock.setblocking(False)
    return sock


class Gateway:
    """One serving process.

    Attributes:
        data_port: Port of the data plane, once bound.
        admin_port: Port of the admin plane.
        metrics_port: Port of the metrics alone, 0 when they have none.
    """

    def __init__(self, settings: Settings, seeds: Sequence[Route] = ()) -> None:
        self._settings = settings
        self._seeds = seeds
        self._draining = asyncio.Event()
        self._signals = 0
        self._listeners: dict[str, _Listener] = {}
        self.data_port = self.admin_port = self.metrics_port = 0

    async def serve(self, on_ready: Callable[[App], None] | None = None) -> None:
        """Serve until a signal or ``drain``.

        Raises:
            CannotStart: An address is taken, or there is no table to serve from.
        """
        with contextlib.ExitStack() as sockets:
            bound = {
                name: sockets.enter_context(bind(address))
                for name, address in (
                    ("data", self._settings.server.listen),
                    ("admin", self._settings.admin.listen),
                    ("metrics", self._settings.metrics.listen),
                )
                if address is not None
            }
            ports = {name: sock.getsockname()[1] for name, sock in bound.items()}
            self.data_port, self.admin_port, self.metrics_port = ports["data"], ports["admin"], ports.get("metrics", 0)
            app = App(self._settings, self._seeds, own_ports=set(ports.values()))
            apps = {"data": app.data_app, "admin": app.admin_app, "metrics": app.metrics_app}
            self._listeners = {name: self._listener(name, apps[name], app.doors[name]) for name in bound}
            app.connections = self._connections
            self._catch_signals()
            try:
                await app.start()
                async with asyncio.TaskGroup() as group:
                    for name, listener in self._listeners.items():
                        group.create_task(listener.serve(sockets=[bound[name]]))
                    group.create_task(self._drain_on_signal(app))
                    group.create_task(self._announce(app, on_ready))
            finally:
                await app.stop()

    async def _announce(self, app: App, on_ready: Callable[[App], None] | None) -> None:
        """Be ready once stable versions are loaded and all listeners accept, and say so."""
        while not all(listener.started for listener in self._listeners.values()):
            await asyncio.sleep(STARTED_POLL_S)
        await app.settle()
        gc.freeze()  # what is there for good is not looked through again: that stops the loop for up to 0.1 s
        if on_ready is not None:
            on_ready(app)

    def drain(self) -> None:
        """Begin to end: as a signal does."""
        self._draining.set()

    async def _drain_on_signal(self, app: App) -> None:
        """Put all listeners into draining before any waits."""
        await self._draining.wait()
        log.warning("draining", extra={"in_work": len(app.pipeline.in_work), "drain_s": self._settings.drain_s})
        app.drain()
        await asyncio.sleep(self._settings.server.drain_notice_ms / 1000)
        for listener in self._listeners.values():
            listener.should_exit = True
        asyncio.get_running_loop().call_later(self._settings.drain_s, app.pipeline.give_up)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(number, self._signalled)

    def _connections(self) -> dict[str, int]:
        return {name: len(listener.server_state.connections) for name, listener in self._listeners.items()}

    def _signalled(self) -> None:
        """The first signal drains, the second does not wait for requests in work."""
        self._signals += 1
        self._draining.set()
        if self._signals > 1:
            for listener in self._listeners.values():
                listener.should_exit = listener.force_exit = True

    def _listener(self, name: str, app: object, http: type[FrontDoor]) -> _Listener:
        is_logged = name == "data" and self._settings.server.access_log
        return _Listener(
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
                timeout_keep_alive=self._settings.server.keep_alive_s,
                timeout_graceful_shutdown=round(self._settings.drain_s + DRAIN_MARGIN_S),
            )
        )


def run(settings: Settings, seeds: Sequence[Route], on_ready: Callable[[App, Gateway], None] | None = None) -> None:
    """Serve in this process on uvloop, until a signal.

    Raises:
        CannotStart: The sentence says why.
    """
    import uvloop  # noqa: PLC0415  not on every platform

    async def main() -> None:
        gateway = Gateway(settings, seeds)
        await gateway.serve(None if on_ready is None else lambda app: on_ready(app, gateway))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
