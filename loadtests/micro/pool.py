"""``python -m loadtests.micro.pool``: CPU microseconds that a call of a remote version costs the gateway.

A server that does nothing runs in a process of its own. Here a few callers ask it as the pipeline does: by callback,
the next call when the reply is there. What is counted is this process alone, divided by the calls; ``floor`` are the
same bytes over bare protocols, without a parser, a pool or a check: what sockets and the loop cost in any case.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import uvloop

from gateway.backends.base import Reply
from gateway.backends.http import HttpBackend
from gateway.protocol.request import InferRequest
from loadtests.micro.upstream import BODY
from routing.analysis.outcome import Kind

WARM_UP_CALLS = 2_000
SHORT_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """What the pipeline hands over, ready-made: only the pool is measured."""

    body: bytes
    header_length: int | None = None
    request_id: str = "5f0c9a3e7b6d4c21"
    via: str = "1.1 turnout-7f3a9c21"
    may_repeat: bool = True

    def request(self) -> InferRequest:
        """Nobody asks."""
        raise NotImplementedError


def body_of(rows: int) -> bytes:
    """A request of as many rows of 20 values."""
    row = [round(0.1 * n, 3) for n in range(20)]
    tensor = {"name": "x", "shape": [rows, 20], "datatype": "FP32", "data": row * rows}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


class Start:
    """The server's process."""

    def __init__(self, vary: bool, core: int | None) -> None:
        command = [sys.executable, "-m", "loadtests.micro.upstream", *(["--vary"] if vary else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})

    def __enter__(self) -> "Start":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(5)


def cpu_us() -> tuple[float, float]:
    """User and system time of this process so far, in microseconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime * 1e6, used.ru_stime * 1e6


Ask = Callable[[Callable[[object], None]], object]


async def keep_asking(ask: Ask, calls: int, callers: int) -> None:
    """So many callers, each of which asks again when it has its reply."""
    done = asyncio.get_running_loop().create_future()
    left, running = calls, callers

    def replied(_: object) -> None:
        nonlocal left, running
        if left > 0:
            left -= 1
            ask(replied)
            return
        running -= 1
        if running == 0:
            done.set_result(None)

    for _ in range(callers):
        replied(None)
    await asyncio.wait_for(done, SHORT_WAIT_S)


async def pool(port: int, given: argparse.Namespace, measure: Callable[[Ask], Awaitable[None]]) -> None:
    """The remote backend as the gateway uses it."""
    made = HttpBackend(
        [f"http://127.0.0.1:{port}"], "credit", "1", public_model="credit", public_version=given.public_version
    )
    await made.open()
    call, loop = Call(body_of(given.rows)), asyncio.get_running_loop()

    def ask(replied: Callable[[object], None]) -> object:
        def checked(reply: Reply) -> None:
            if reply.kind is not Kind.OK:
                raise SystemExit(f"the reply was {reply.detail}")
            replied(reply)

        return made.submit(call, loop.time() + 30.0, checked)

    await measure(ask)
    await made.close()


class Bare(asyncio.Protocol):
    """The least that can ask."""

    def __init__(self) -> None:
        self.replied: Callable[[object], None] = print

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.replied(data)


async def floor(port: int, given: argparse.Namespace, measure: Callable[[Ask], Awaitable[None]]) -> None:
    """The same bytes over bare protocols."""
    body = body_of(given.rows)
    whole = (
        b"POST /v2/models/credit/versions/1/infer HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\nx-request-id: 5f0c9a3e7b6d4c21\r\nvia: 1.1 turnout-7f3a9c21\r\n\r\n%b"
    ) % (len(body), body)
    loop = asyncio.get_running_loop()
    idle: list[Bare] = []
    for _ in range(given.callers):
        _transport, bare = await loop.create_connection(Bare, "127.0.0.1", port)
        idle.append(bare)

    def ask(replied: Callable[[object], None]) -> None:
        bare = idle.pop()

        def back(data: object) -> None:
            idle.append(bare)
            replied(data)

        bare.replied = back
        bare.transport.write(whole)

    await measure(ask)
    for bare in idle:
        bare.transport.abort()


async def sample(what: Any, port: int, given: argparse.Namespace) -> tuple[float, float]:
    """Microseconds of user and of system time a call."""
    found = (0.0, 0.0)

    async def measure(ask: Ask) -> None:
        nonlocal found
        await keep_asking(ask, WARM_UP_CALLS, given.callers)
        before = cpu_us()
        await keep_asking(ask, given.calls, given.callers)
        after = cpu_us()
        found = ((after[0] - before[0]) / given.calls, (after[1] - before[1]) / given.calls)

    await what(port, given, measure)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print medians; ``--json`` keeps every run."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.micro.pool", description=__doc__)
    parser.add_argument("--calls", type=int, default=40_000, help="of one run")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--public-version", default="1", help="another than 1: every answer is rewritten")
    parser.add_argument("--vary", action="store_true", help="no two answers have the same head")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[0]})
    runs: dict[str, list[tuple[float, float]]] = {"floor": [], "pool": []}
    with Start(given.vary, cores[1] if len(cores) > 1 else None) as upstream:
        for _ in range(given.runs):
            for name, what in (("floor", floor), ("pool", pool)):
                runs[name].append(uvloop.run(sample(what, upstream.port, given)))
    for name, samples in runs.items():
        user, system = (statistics.median(column) for column in zip(*samples, strict=True))
        print(f"{name:6} user {user:6.2f}  sys {system:6.2f}  microseconds a call, medians of {given.runs}")
    if given.json:
        kept = {"arguments": vars(given), "runs": runs, "answer_bytes": len(BODY), "at": time.strftime("%Y-%m-%d")}
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(kept, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
