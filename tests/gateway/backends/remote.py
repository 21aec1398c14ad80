"""Remote versions in tests: one that is closed behind the test, calls, and servers of raw bytes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

import gateway.backends
from gateway.backends.base import Reply, State
from gateway.backends.connections import Connections
from gateway.backends.http import HttpBackend
from gateway.backends.transport import Bounds
from tests.faults import FaultBackend

BACKENDS = Path(gateway.backends.__file__).parent


WAIT_S = 10.0  # nothing here takes that long unless it is broken


@dataclass(frozen=True)
class Call:
    body: bytes
    header_length: int | None = None
    request_id: str = "r-1"
    via: str = "1.1 test"
    may_repeat: bool = True


def request(seed: float = 0.1, **more: Any) -> Call:
    numeric = {"name": "numeric", "shape": [1, 7], "datatype": "FP32", "data": [seed] * 7}
    categorical = {"name": "categorical", "shape": [1, 11], "datatype": "BYTES", "data": ["A"] * 11}
    return Call(json.dumps({**more, "inputs": [numeric, categorical]}).encode())


def run(scenario: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(scenario, 2 * WAIT_S))


@asynccontextmanager
async def backend(
    *urls: str,
    on_state: Callable[[], None] | None = None,
    on_ejected: Callable[[], None] | None = None,
    **options: Any,
) -> AsyncIterator[HttpBackend]:
    """Open while the test uses it; names and bounds are options."""
    names = {"model": "credit", "version": "1", "public_model": "credit", "public_version": "v7"}
    names |= {name: options.pop(name) for name in (*names, "holds_to_version") if name in options}
    bounds = Bounds(**{"probe_interval_s": 0.02} | options)
    made = HttpBackend(urls, **names, bounds=bounds, on_state=on_state, on_ejected=on_ejected)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
        assert made.state is State.CLOSED
        for instance in made.instances:
            pool = instance.connections
            assert (pool.open_count, pool.waiting_count, pool.in_flight) == (0, 0, 0)
        assert not [task for task in asyncio.all_tasks() if is_of_the_gateway(task)]


def pool_of(made: HttpBackend, index: int = 0) -> Connections:
    return made.instances[index].connections


def is_of_the_gateway(task: "asyncio.Task[Any]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and Path(code.co_filename).parent == BACKENDS


def submit(
    made: HttpBackend, call: Call, timeout_s: float = WAIT_S
) -> tuple["asyncio.Future[Reply]", Callable[[], None]]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Reply] = loop.create_future()
    return future, made.submit(call, loop.time() + timeout_s, future.set_result)


async def ask(made: HttpBackend, call: Call | None = None) -> Reply:
    return await asyncio.wait_for(submit(made, call or request())[0], WAIT_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def requests_of(faults: FaultBackend) -> int:
    return int(faults.counts()["requests"])


# Against raw sockets: what the fault server is too polite for.

READY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


METADATA = json.dumps(
    {
        "name": "m",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1]}],
    }
).encode()


GOOD = b'{"model_name":"credit","model_version":"v7","outputs":[]}'


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


def ok(body: bytes = GOOD, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n%b" % (len(body), extra, body)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"POST"):  # which the server read to tell a probe
        head = b"POST" + head
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def raw_server(script: Script) -> AsyncIterator[str]:
    """Probes are answered; every other connection runs the script, with its number from 0."""
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        try:
            if await reader.readexactly(4) == b"GET ":
                line = await reader.readuntil(b"\r\n\r\n")
                writer.write(READY if b"/ready " in line else ok(METADATA))
                return
            mine, number = number, number + 1
            await script(reader, writer, mine)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def answers(*chunks: bytes, then_wait: bool = True) -> Script:
    """RawAnswer the first request of each connection with these bytes, in as many writes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _number: int) -> None:
        await read_request(reader)
        for chunk in chunks:
            writer.write(chunk)
            await asyncio.sleep(0.005)
        if then_wait:
            await reader.read(1)

    return script
