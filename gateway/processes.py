"""The workers' processes: started, watched, replaced, ended."""

import asyncio
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from gateway.control.link import send_first, socket_end
from gateway.control.messages import Begin, Drain
from gateway.control.workers import Member, Workers
from gateway.errors import CannotStart
from gateway.metrics.block import inheritable_block
from gateway.metrics.families import WORKERS_ENDED
from gateway.metrics.totals import Blocks, Samples
from gateway.settings import ENV_PREFIX, Admin, Settings

log = logging.getLogger("turnout.supervisor")

BEAT_S = 0.5
READY_POLL_S = 0.02
START_S = 120.0  # until its loop turns for the first time
STEADY_S = 10.0  # one that lived so long did not end because of how it begins
RESTART_FIRST_S = 0.2  # doubled each time
RESTART_MAX_S = 10.0
START_TRIES = 3  # ends in a row before the gateway has ever been ready; then it says so and ends too
KILL_S = 2.0  # after a second signal
DIED, SILENT, UNBORN = "died", "silent", "unborn"


class Process:
    """A process that waits for its first message, or is a worker."""

    def __init__(self, hash_seed: int) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        # One seed for all, so that the hash of a sticky key is the same in every worker.
        environment |= {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            self._popen = subprocess.Popen(  # noqa: S603  ourselves
                [sys.executable, "-P", "-m", "gateway.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        self.sock = ours
        self.pid = self._popen.pid
        self.began_s = time.monotonic()

    def kill(self) -> None:
        """End it, whatever it does."""
        with suppress(OSError):
            self._popen.kill()

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it. It must have been killed, or be about to end."""
        return self._popen.wait()

    async def ended(self) -> int:
        """As ``wait``, beside the loop."""
        return await asyncio.to_thread(self.wait)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None


class Spawned:
    """The first processes, of one hash seed, so that they can be started before anything else is done."""

    def __init__(self, count: int, hash_seed: int | None = None) -> None:
        self.hash_seed = secrets.randbelow(1 << 32) if hash_seed is None else hash_seed
        self.processes = [Process(self.hash_seed) for _ in range(count)]

    def kill(self) -> None:
        """End those that nobody has waited for, and wait."""
        for process in self.processes:
            if process.is_alive:
                process.kill()
                process.wait()


class Processes:
    """Keeps a worker in every slot, and a spare one that has imported everything.

    Args:
        listening: The data plane's socket for each slot, or one for all.
        on_left: Told of a slot whose worker is gone.
        first: One for each slot.

    Attributes:
        is_ready: Set when every worker has been ready at the same time, or when ``fatal`` is.
        fatal: Why the gateway cannot start.
    """

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        blocks: Blocks,
        listening: Sequence[socket.socket],
        replica_id: str,
        on_left: Callable[[int], None],
        first: Spawned,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._blocks = blocks
        self._listening = listening
        self._replica_id = replica_id
        self._on_left = on_left
        self._count = settings.server.workers
        self._first = first
        self._hash_seed = first.hash_seed
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[int, Process] = {}
        self._failures: dict[int, int] = {}
        self._restarts: Counter[int] = Counter()
        self._ended: Counter[str] = Counter()
        self._why: dict[int, str] = {}
        self._spare: Process | None = None
        self.is_ready = asyncio.Event()
        self.fatal: CannotStart | None = None

    def start(self) -> None:
        """Make workers of the first processes."""
        loop = asyncio.get_running_loop()
        kept = enumerate(self._first.processes)
        self._tasks = [loop.create_task(self._keep(number, process)) for number, process in kept]
        self._tasks.append(loop.create_task(self._watch()))

    def drain(self, *, at_once: bool = False) -> None:
        """Let all finish what is in work and end; nobody takes their place."""
        self._stopping.set()
        self._workers.down(Drain(at_once))
        if at_once:
            asyncio.get_running_loop().call_later(KILL_S, self.kill)

    async def ended(self, limit_s: float) -> None:
        """Wait for all to end; those that have not within the limit are killed."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=limit_s)
            if late:
                log.error("workers did not end in time: they are killed", extra={"workers": sorted(self._running)})
                self.kill()
                await asyncio.wait(self._tasks)

    def kill(self) -> None:
        """End all now."""
        self._stopping.set()
        for process in [*self._running.values(), *filter(None, [self._spare])]:
            process.kill()

    def said(self) -> tuple[Mapping[int, Mapping[str, Any]], Samples]:
        """By slot, what is known of the processes; and as samples."""
        plain = {
            number: {
                "pid": self._running[number].pid if number in self._running else None,
                "restarts": self._restarts[number],
                "failures": self._failures.get(number, 0),
            }
            for number in range(self._count)
        }
        return plain, {WORKERS_ENDED.name: {(why,): self._ended[why] for why in (DIED, SILENT, UNBORN)}}

    # One slot.

    async def _keep(self, number: int, process: Process) -> None:
        """Keep a worker in this slot."""
        while True:
            self._running[number] = process
            reason = await self._live(number, process)
            del self._running[number]
            if self._stopping.is_set():
                return
            wait_s = self._note_end(number, process, reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
            if self._stopping.is_set():
                return
            process = self._next()

    async def _live(self, number: int, process: Process) -> str:
        """Make the process a worker; returns when it has ended, and says how."""
        memory, reader = inheritable_block()
        self._blocks.add(reader)
        sock = self._listening[number % len(self._listening)]
        try:
            send_first(process.sock, self._begin(number), [sock.fileno(), memory])
            process.sock.setblocking(False)
            await self._linked(number, process)
        except OSError:
            process.sock.close()
        finally:
            os.close(memory)
            process.kill()
        code = await process.ended()
        self._blocks.retire(reader)
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def _linked(self, number: int, process: Process) -> None:
        """Until the link is lost."""
        lost = asyncio.Event()
        end = await socket_end(process.sock)
        end.on_lost = lambda _reason: lost.set()
        member = self._workers.join(number, end)
        if self._stopping.is_set():
            member.send(Drain())
        try:
            await lost.wait()
            if self._stopping.is_set():  # it closed the link and is on its way out
                with suppress(TimeoutError):
                    async with asyncio.timeout(KILL_S):
                        await process.ended()
        finally:
            end.close()
            self._workers.leave(member)
            self._on_left(number)

    def _note_end(self, number: int, process: Process, reason: str) -> float:
        """Count and tell; returns how long to wait before the next."""
        lived_s = time.monotonic() - process.began_s
        why = self._why.pop(process.pid, DIED)
        self._ended[why] += 1
        self._restarts[number] += 1
        failures = self._failures[number] = 1 if lived_s > STEADY_S else self._failures.get(number, 0) + 1
        wait_s = min(RESTART_MAX_S, RESTART_FIRST_S * 2 ** (failures - 2)) if failures > 1 else 0.0
        log.error(
            "a worker ended: another takes its place",
            extra={
                "worker": number,
                "pid": process.pid,
                "why": why,
                "reason": reason,
                "lived_s": round(lived_s, 3),
                "failures": failures,
                "wait_s": wait_s,
            },
        )
        if not self.is_ready.is_set() and failures >= START_TRIES:
            self.fatal = CannotStart(f"worker {number} ended {failures} times before it was ready: {reason}")
            self.is_ready.set()
        return wait_s

    def _begin(self, number: int) -> Begin:
        settings = self._settings.model_copy(update={"admin": Admin()})  # a worker needs no token
        return Begin(number, self._count, self._replica_id, settings.model_dump_json().encode())

    def _next(self) -> Process:
        """The spare one, or one that has to import everything first."""
        spare, self._spare = self._spare, None
        return spare if spare is not None and spare.is_alive else Process(self._hash_seed)

    # All.

    async def _watch(self) -> None:
        """Beat, until the end: who is silent is killed."""
        beat_s = 0.0
        while not self._stopping.is_set():
            if time.monotonic() >= beat_s:
                beat_s = time.monotonic() + BEAT_S
                self._workers.beat()
                for member in self._workers.members:
                    self._look(member)
            if not self.is_ready.is_set() and self._are_ready():
                self.is_ready.set()
            self._keep_spare()
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S if self.is_ready.is_set() else READY_POLL_S):
                    await self._stopping.wait()
        if self._spare is not None:
            self._spare.kill()
            self._spare.sock.close()
            await self._spare.ended()

    def _are_ready(self) -> bool:
        return len(self._workers.members) == self._count and all(m.is_ready for m in self._workers.members)

    def _look(self, member: Member) -> None:
        process = self._running.get(member.number)
        if process is None:
            return
        if not member.has_spoken:
            if time.monotonic() - process.began_s > START_S:
                self._put_down(process, UNBORN)
        elif member.missed_beats * BEAT_S > self._settings.server.worker_silent_s:
            self._put_down(process, SILENT)

    def _put_down(self, process: Process, why: str) -> None:
        self._why[process.pid] = why
        process.kill()

    def _keep_spare(self) -> None:
        """One that waits; only once all are ready: starting it must not make them late."""
        if self._spare is not None and not self._spare.is_alive:
            self._spare.sock.close()
            self._spare = None
        if self._settings.server.spare_worker and self.is_ready.is_set() and self._spare is None:
            self._spare = Process(self._hash_seed)
