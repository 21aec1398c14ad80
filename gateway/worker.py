"""The process of one worker: ``python -m gateway.worker DESCRIPTOR``, started by the supervisor and by nobody else.

It imports what it needs and waits on the link for the first message. So a spare one is ready at once.
"""

import asyncio
import ctypes
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

import uvloop

from gateway.app import SETTLE_S, Worker
from gateway.control.link import receive_first, socket_end
from gateway.control.messages import Begin, Ready, Serving
from gateway.logs import configure
from gateway.metrics.block import Block, mapped
from gateway.server import DRAIN_MARGIN_S, STARTED_POLL_S, Listener, listener
from gateway.settings import Settings

log = logging.getLogger("turnout.worker")

SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
)  # the supervisor decides; a terminal sends them to the whole group
ORPHANED = 70  # exit code
PR_SET_PDEATHSIG = 1  # of prctl(2)


class WorkerProcess:
    """One worker and its listener."""

    def __init__(
        self, begin: Begin, settings: Settings, sock: socket.socket, link: socket.socket, block: Block
    ) -> None:
        self._begin = begin
        self._settings = settings
        self._sock = sock
        self._link = link
        self._block = block
        self._table_is_complete = asyncio.Event()
        self._ending = asyncio.Event()
        self._listener: Listener | None = None

    async def serve(self) -> None:
        """Serve until the supervisor says so, or is gone."""
        end = await socket_end(self._link)
        worker = Worker(
            self._settings,
            end,
            self._block,
            replica_id=self._begin.replica_id,
            workers=self._begin.workers,
        )
        worker.on_serve, worker.on_drain, end.on_lost = self._on_serve, self._on_drain, self._orphaned
        served = self._listener = listener(
            self._settings, worker.data_app, worker.data_door, is_logged=self._settings.server.access_log
        )
        worker.connections = lambda: served.connections
        worker.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._drain(worker))
                if await self._may_serve(worker):
                    group.create_task(served.serve(sockets=[self._sock]))
                    while not (served.started or served.should_exit):
                        await asyncio.sleep(STARTED_POLL_S)
                    end.send(Serving())
                    await worker.stable_loaded()
                    await worker.settle()
                    gc.freeze()  # what is there for good is not looked through again: that stops the loop for 0.1 s
                    end.send(Ready())
        finally:
            await worker.stop()
            end.close()

    async def _may_serve(self, worker: Worker) -> bool:
        """Wait for the table, and load what is stable before any connection is taken, as far as ``SETTLE_S`` allows."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._table_is_complete, self._ending)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self._ending.is_set():
            await worker.stable_loaded(SETTLE_S)
        return not self._ending.is_set()

    async def _drain(self, worker: Worker) -> None:
        await self._ending.wait()
        worker.drain()
        await asyncio.sleep(self._settings.server.drain_notice_ms / 1000)
        assert self._listener is not None
        self._listener.end()
        asyncio.get_running_loop().call_later(self._settings.drain_s, worker.pipeline.give_up)

    def _on_serve(self) -> None:
        self._table_is_complete.set()

    def _on_drain(self, at_once: bool) -> None:
        self._ending.set()
        if at_once and self._listener is not None:
            self._listener.end(at_once=True)

    def _orphaned(self, reason: str) -> None:
        if not self._ending.is_set():
            log.error("the supervisor is gone: finishing what is in work", extra={"reason": reason})
            self._ending.set()


def main() -> None:
    """Wait for the first message, then be a worker."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _go_on_when_orphaned()
    link = socket.socket(fileno=int(sys.argv[1]))
    try:
        begin, (listening, memory) = receive_first(link, 2)
    except EOFError:
        return  # a spare worker that nobody needed
    assert isinstance(begin, Begin)
    settings = Settings.model_validate_json(begin.data)
    configure(settings.log_level, worker=begin.worker)
    threading.Thread(target=_outlive, args=(os.dup(link.fileno()), settings), daemon=True).start()
    sock = socket.socket(fileno=listening)
    sock.setblocking(False)
    link.setblocking(False)
    block = Block(mapped(memory))
    os.close(memory)
    process = None

    async def serve() -> None:
        nonlocal process
        process = WorkerProcess(begin, settings, sock, link, block)
        await process.serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _go_on_when_orphaned() -> None:
    """Where the kernel can, let it continue a stopped worker whose supervisor dies, so that it notices and ends."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)


def _outlive(descriptor: int, settings: Settings) -> None:
    """End a process whose supervisor is gone and whose loop does not turn any more."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)
    poll.poll()
    time.sleep(settings.server.drain_notice_ms / 1000 + max(settings.drain_s, 1) + 2 * DRAIN_MARGIN_S)
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
