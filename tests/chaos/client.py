"""An open-loop client of several replicas that checks every answer and keeps a ledger."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.chaos.background import Background
from tests.chaos.ledger import Entry, Fate, Ledger
from tests.chaos.subject import Asked, Subject
from tests.chaos.wire import Wire

CONNECTIONS = 12  # to each replica, in turn; more only while these are busy
TIMEOUT_MS = 8_000
SETTLE_S = 12.0  # after the last request: every one in flight is answered, or its connection ends
CUSTOMERS = 400
TURN_S = 0.005
READY_POLL_S = 0.1


class Client:
    """Sends when a request is due, whether or not earlier ones have been answered; replicas take turns.

    As a balancer would, it passes by a replica that takes no connection, until that one says that it is ready.
    A replica that took a request keeps it.

    Args:
        ports: Of the replicas' data planes.
        rate: Requests a second, over all.
    """

    def __init__(self, background: Background, ports: Sequence[int], subject: Subject, rate: float) -> None:
        self.ledger = Ledger()
        self._background = background
        self._ports = ports
        self._subject = subject
        self._rate = rate
        self._idle: list[deque[Wire]] = [deque() for _ in ports]
        self._busy: dict[Wire, tuple[Entry, Asked, str]] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._away: dict[int, asyncio.Task[None]] = {}
        self._count = 0

    def __enter__(self) -> Self:
        self._background.call(self._begin())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        self._background.call(self._end(SETTLE_S if kind is None else 0.0))

    def reset_some(self, count: int) -> int:
        """RST on connections with a request in flight; how many there were."""

        def strike() -> int:
            struck = list(self._busy.items())[:count]
            for wire, (entry, *_) in struck:
                entry.fate = Fate.GIVEN_UP
                wire.close(reset=True)
            return len(struck)

        return self._background.do(strike)

    async def _begin(self) -> None:
        for replica, port in enumerate(self._ports):
            for _ in range(CONNECTIONS):
                self._idle[replica].append(await self._open(replica, port))
        self._sender = asyncio.get_running_loop().create_task(self._send_all())

    async def _end(self, settle_s: float) -> None:
        for task in (self._sender, *self._away.values()):
            task.cancel()
        end_s = time.monotonic() + settle_s
        while (self._busy or self._opening) and time.monotonic() < end_s:
            await asyncio.sleep(0.01)
        for task in self._opening:
            task.cancel()
        for entry, *_ in self._busy.values():
            entry.done_s = time.monotonic()
        for wire in [*self._busy, *(wire for idle in self._idle for wire in idle)]:
            self._busy.pop(wire, None)
            wire.close()

    async def _send_all(self) -> None:
        begin_s = time.monotonic()
        while True:
            due = int((time.monotonic() - begin_s) * self._rate)
            while self._count < due:
                self._send(self._count)
                self._count += 1
            await asyncio.sleep(TURN_S)

    def _send(self, number: int) -> None:
        first = number % len(self._ports)
        idle = self._idle[first]
        while idle:
            wire = idle.popleft()
            if wire.is_open:
                self._put(wire, first, number)
                return
        task = asyncio.get_running_loop().create_task(self._send_anew(first, number))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _send_anew(self, first: int, number: int) -> None:
        for turn in range(len(self._ports)):
            replica = (first + turn) % len(self._ports)
            if replica in self._away:
                continue
            try:
                wire = await self._open(replica, self._ports[replica])
            except OSError:
                self.ledger.turned_away += 1
                self._leave(replica)
                continue
            self._put(wire, replica, number)
            return
        self.ledger.nowhere += 1

    def _leave(self, replica: int) -> None:
        """Send it nothing until it is ready again."""
        if replica not in self._away:
            self._away[replica] = asyncio.get_running_loop().create_task(self._await_ready(replica))

    async def _await_ready(self, replica: int) -> None:
        while not await self._is_ready(replica):
            await asyncio.sleep(READY_POLL_S)
        del self._away[replica]

    async def _is_ready(self, replica: int) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[replica])
            writer.write(b"GET /v2/health/ready HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")
            said = await reader.readline()
            writer.close()
        except OSError:
            return False
        return b" 200 " in said

    async def _open(self, replica: int, port: int) -> Wire:
        def lost(wire: Wire) -> None:
            if wire in self._idle[replica]:
                self._idle[replica].remove(wire)

        _, wire = await asyncio.get_running_loop().create_connection(lambda: Wire(lost), "127.0.0.1", port)
        return wire

    def _put(self, wire: Wire, replica: int, number: int) -> None:
        asked, request_id = self._subject.request(number), f"chaos-{number}"
        entry = Entry(number, replica, wire.port, time.monotonic())
        self.ledger.entries.append(entry)
        self._busy[wire] = (entry, asked, request_id)
        head = (
            f"POST {asked.path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
            f"content-length: {len(asked.body)}\r\nx-customer-id: customer-{number % CUSTOMERS}\r\n"
            f"x-request-id: {request_id}\r\nx-request-timeout-ms: {TIMEOUT_MS}\r\n\r\n"
        )
        wire.send(head.encode() + asked.body, self._ended)

    def _ended(self, wire: Wire, status: int, headers: Mapping[str, str], body: bytes | None) -> None:
        if (busy := self._busy.pop(wire, None)) is None:
            return
        entry, asked, request_id = busy
        entry.done_s = time.monotonic()
        if entry.fate is Fate.GIVEN_UP:
            return
        if body is None:
            entry.fate, entry.sentence = Fate.BROKEN, f"the connection ended after {entry.took_s:.3f} s"
            return
        self._subject.judge(entry, asked, request_id, status, headers, body)
        if wire.is_open:
            self._idle[entry.replica].append(wire)
