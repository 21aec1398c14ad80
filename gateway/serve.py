"""Runs a gateway: one supervisor, which is this process, and its workers; one signal handler, one drain."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Sequence

from gateway.host import Host
from gateway.processes import Processes, Spawned
from gateway.server import DRAIN_MARGIN_S, STARTED_POLL_S, Listener, bind, listener
from gateway.settings import Settings, split_address
from routing.table import Route

log = logging.getLogger("turnout.server")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Gateway:
    """The supervisor's process.

    Attributes:
        data_port: Port of the data plane, once bound.
        admin_port: Port of the admin plane.
        metrics_port: Port of the metrics alone, 0 when they have none.
    """

    def __init__(self, settings: Settings, seeds: Sequence[Route], first: Spawned) -> None:
        self._settings = settings
        self._first = first
        self._seeds = seeds
        self._draining = asyncio.Event()
        self._signals = 0
        self._listeners: dict[str, Listener] = {}
        self._processes: Processes | None = None
        self.data_port = self.admin_port = self.metrics_port = 0

    async def serve(self, on_ready: Callable[[Host], None] | None = None) -> None:
        """Serve until a signal or ``drain``.

        Raises:
            CannotStart: An address is taken, or there is no table to serve from, or no worker comes up.
        """
        with contextlib.ExitStack() as sockets:
            data = [sockets.enter_context(sock) for sock in self._bind_data()]
            bound = {
                name: sockets.enter_context(bind(address))
                for name, address in (
                    ("admin", self._settings.admin.listen),
                    ("metrics", self._settings.metrics.listen),
                )
                if address is not None
            }
            ports = {name: sock.getsockname()[1] for name, sock in {"data": data[0], **bound}.items()}
            self.data_port, self.admin_port, self.metrics_port = ports["data"], ports["admin"], ports.get("metrics", 0)
            host = Host(self._settings, self._seeds, own_ports=set(ports.values()))
            processes = self._processes = Processes(
                self._settings,
                host.workers,
                host.blocks,
                data,
                host.replica_id,
                host.supervisor.judge.left,
                self._first,
            )
            host.of_processes, host.connections = processes.said, self._connections
            self._listeners = {
                "admin": listener(self._settings, host.admin_app, host.door),
                "metrics": listener(self._settings, host.metrics_app, host.door),
            }
            self._listeners = {name: self._listeners[name] for name in bound}
            self._catch_signals()
            processes.start()
            try:
                await host.start()
                async with asyncio.TaskGroup() as group:
                    for name, served in self._listeners.items():
                        group.create_task(served.serve(sockets=[bound[name]]))
                    group.create_task(self._drain_on_signal(host, processes, sockets))
                    group.create_task(self._announce(host, processes, on_ready))
            finally:
                processes.kill()
                await processes.ended(DRAIN_MARGIN_S)
                await host.stop()
            if processes.fatal is not None:
                raise processes.fatal

    def _bind_data(self) -> list[socket.socket]:
        """One socket for all workers, or with ``server.reuse_port`` one for each."""
        server = self._settings.server
        if not server.reuse_port:
            return [bind(server.listen)]
        first = bind(server.listen, reuse_port=True)
        host = split_address(server.listen)[0]
        host = f"[{host}]" if ":" in host else host
        others = f"{host}:{first.getsockname()[1]}"
        return [first, *(bind(others, reuse_port=True) for _ in range(server.workers - 1))]

    async def _announce(self, host: Host, processes: Processes, on_ready: Callable[[Host], None] | None) -> None:
        """Say that the gateway is ready, once all workers have loaded what they could and all listeners accept."""
        while not all(served.started for served in self._listeners.values()):
            await asyncio.sleep(STARTED_POLL_S)
        await processes.is_ready.wait()
        if processes.fatal is not None:
            self._draining.set()
            return
        gc.freeze()
        if on_ready is not None:
            on_ready(host)

    def drain(self) -> None:
        """Begin to end: as a signal does."""
        self._draining.set()

    async def _drain_on_signal(self, host: Host, processes: Processes, sockets: contextlib.ExitStack) -> None:
        """Put everything into draining before any waits."""
        await self._draining.wait()
        server = self._settings.server
        log.warning("draining", extra={"workers": len(host.workers.members), "drain_s": self._settings.drain_s})
        host.draining.set()
        processes.drain(at_once=self._signals > 1)
        await asyncio.sleep(server.drain_notice_ms / 1000)
        sockets.close()  # of the data plane, ours too: connections that nobody will take are refused
        for served in self._listeners.values():
            served.end()
        await processes.ended(max(self._settings.drain_s, 1.0) + 2 * DRAIN_MARGIN_S)
        processes.is_ready.set()  # nobody waits for that any more

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(number, self._signalled)

    def _connections(self) -> dict[str, int]:
        return {name: served.connections for name, served in self._listeners.items()}

    def _signalled(self) -> None:
        """The first signal drains, the second does not wait for requests in work."""
        self._signals += 1
        self._draining.set()
        if self._signals > 1:
            for served in self._listeners.values():
                served.end(at_once=True)
            if self._processes is not None:
                self._processes.drain(at_once=True)


def run(
    settings: Settings,
    seeds: Sequence[Route],
    first: Spawned,
    on_ready: Callable[[Host, Gateway], None] | None = None,
) -> None:
    """Serve on uvloop, until a signal.

    Args:
        first: A process for each worker.

    Raises:
        CannotStart: The sentence says why.
    """
    import uvloop  # noqa: PLC0415  not on every platform

    async def main() -> None:
        gateway = Gateway(settings, seeds, first)
        await gateway.serve(None if on_ready is None else lambda host: on_ready(host, gateway))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
