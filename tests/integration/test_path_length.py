"""How long the path of a proxied request is, in instructions of Python code: a count, the same on every machine."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import gateway
from gateway.backends.connection import Connection
from gateway.backends.connections import Connections
from gateway.settings import Settings
from routing.parse import parse_route
from tests.gateway.backends.remote import answers, raw_server, until
from tests.joined import Joined, Wire, doors

SOURCES = (str(Path(gateway.__file__).parent), str(Path(gateway.__file__).parents[1] / "routing"))
REQUESTS = 8
BODY = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[0.1,0.2,0.3,0.4]}]}'
# Servers of the test call their output y and their input x.
REPLY = b'{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[0.5]}]}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(REPLY), REPLY)

# Instructions and calls of a request, each a little above what was reached: docs/performance.md says what they are.
BUDGETS = {"stable": (1020, 18), "canary": (1960, 60), "new heads": (1660, 35)}


def counted(work: Callable[[], None]) -> tuple[Counter[str], Counter[str]]:
    """Instructions and calls of the project's own code, by function."""
    instructions: Counter[str] = Counter()
    calls: Counter[str] = Counter()

    def step(frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode":
            instructions[frame.f_code.co_qualname] += 1
        return step

    def call(frame: FrameType, _: str, __: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        calls[frame.f_code.co_qualname] += 1
        return step

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(before)
    return instructions, calls


class Rig:
    """A worker with one route over two servers, with clients and connections that have no sockets."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.route = worker.runtime.current.routes["m"]
        self.doors = doors(worker, REQUESTS)
        pools = [instance.connections for arm in self.route.arms for instance in arm.slot.backend.instances]
        self.connections = [connection for pool in pools for connection in self._opened(pool)]

    @staticmethod
    def _opened(pool: Connections) -> list[Connection]:
        made = [Connection(pool, pool.known_heads, 1 << 20) for _ in range(REQUESTS)]
        for connection in made:
            connection.connection_made(Wire())  # type: ignore[arg-type]
            pool._members.add(connection)
            pool._idle.append(connection)
        return made

    def ask(self, customers: list[bytes]) -> None:
        """One request on each connection of a client, and its answer."""
        heads = (
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n"
            b"content-type: application/json\r\nx-customer-id: %b\r\nuser-agent: t\r\naccept: */*\r\n\r\n"
            % (len(BODY), who)
            for who in customers
        )
        for door, head in zip(self.doors, heads, strict=True):
            door.data_received(head + BODY)
        for connection in self.connections:
            if connection.sending is not None:
                connection.data_received(ANSWER)

    def customers(self, number: int, *, of_stable: bool) -> list[bytes]:
        """So many keys that the split gives to stable, or to the canary."""
        found = []
        n = 0
        while len(found) < number:
            n += 1
            if self.route.arms[self.route.plan.choose(b"customer-%d" % n)].is_stable is of_stable:
                found.append(b"customer-%d" % n)
        return found

    def work(self, kind: str) -> Callable[[], None]:
        """The requests of a kind; those before them teach heads and answers."""
        if kind == "new heads":
            several = self.customers(4 * REQUESTS, of_stable=True)
            for n in range(3):
                self.ask(several[n * REQUESTS : (n + 1) * REQUESTS])
            return lambda: self.ask(several[3 * REQUESTS :])
        same = self.customers(1, of_stable=kind == "stable") * REQUESTS
        for _ in range(3):
            self.ask(same)
        return lambda: self.ask(same)


def is_ready(worker: Any) -> bool:
    routes = worker.runtime.current.routes
    return "m" in routes and all(arm.takes_draws for arm in routes["m"].arms)


@pytest.mark.parametrize("kind", BUDGETS)
def test_the_path_of_a_request_is_no_longer_than_its_budget(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(raw_server(answers())) for _ in "12"]
            route = {
                "model": "m",
                "stable": "1",
                "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
                "sticky": {"by": ["header:x-customer-id"], "salt": "s"},
                "slo": {"errors": {"max_rate": 0.01}, "latency": {"p99_ms": 60000}},
                "backends": {str(n): {"kind": "oip", "url": url} for n, url in enumerate(urls, 1)},
            }
            both = Joined(Settings(store={"url": "memory:"}, state_dir=tmp_path), [parse_route(route)])
            await both.host.start()
            try:
                await until(lambda: is_ready(both.worker))
                rig = Rig(both.worker)
                work = rig.work(kind)
                both.worker.pipeline.settle()
                before = [len(door.transport.sent) for door in rig.doors]
                instructions, calls = counted(work)
                assert [len(door.transport.sent) for door in rig.doors] == [n + 1 for n in before]
                assert all(door.transport.sent[-1].startswith(b"HTTP/1.1 200 ") for door in rig.doors)
            finally:
                await both.worker.stop()
                await both.host.stop()
        spent = instructions.total() / REQUESTS, calls.total() / REQUESTS
        most, most_calls = BUDGETS[kind]
        assert spent[0] <= most, (spent, instructions.most_common(12))
        assert spent[1] <= most_calls, (spent, calls.most_common(40))

    asyncio.run(scenario())
