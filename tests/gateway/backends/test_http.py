import asyncio
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop

import gateway.backends
from gateway.backends.base import Reply, State
from gateway.backends.http import OipBackend
from gateway.protocol.answer import check_answer
from routing.analysis.outcome import Kind
from tests.faults import FaultBackend, label_of, probability_of

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
async def backend(url: str, **options: Any) -> AsyncIterator[OipBackend]:
    names = {"model": "credit", "version": "1", "public_model": "credit", "public_version": "v7"} | options
    names.setdefault("probe_interval_s", 0.02)
    made = OipBackend(url, **names)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
        assert made.state is State.CLOSED
        assert made.connections is not None
        assert (made.connections.open_count, made.connections.waiting_count) == (0, 0)
        assert not [task for task in asyncio.all_tasks() if is_of_the_gateway(task)]


def is_of_the_gateway(task: "asyncio.Task[Any]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and Path(code.co_filename).parent == BACKENDS


def submit(
    made: OipBackend, call: Call, timeout_s: float = WAIT_S
) -> tuple["asyncio.Future[Reply]", Callable[[], None]]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Reply] = loop.create_future()
    return future, made.submit(call, loop.time() + timeout_s, future.set_result)


async def ask(made: OipBackend, call: Call | None = None) -> Reply:
    return await asyncio.wait_for(submit(made, call or request())[0], WAIT_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def process() -> Iterator[FaultBackend]:
    with FaultBackend() as started:
        yield started


@pytest.fixture
def faults(process: FaultBackend) -> FaultBackend:
    process.set("ok")
    return process


def requests_of(faults: FaultBackend) -> int:
    return int(faults.counts()["requests"])


# Against the fault server.


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("version", ["1", None])
def test_a_healthy_server_is_asked_and_its_answer_carries_the_public_names(
    faults: FaultBackend, loop: str, version: str | None
) -> None:
    async def scenario() -> None:
        async with backend(faults.url, version=version) as made:
            assert (made.state, made.reason) == (State.READY, "")
            assert made.signature is not None
            assert [spec.name for spec in made.signature.inputs] == ["numeric", "categorical"]
            reply = await ask(made, request(0.3, id="seven"))
            assert (reply.kind, reply.status, reply.header_length) == (Kind.OK, 200, None)
            answer = json.loads(reply.body)
            assert (answer["model_name"], answer["model_version"], answer["id"]) == ("credit", "v7", "seven")
            assert answer["outputs"][0]["data"] == [label_of([0.3] * 7)]
            assert answer["outputs"][1]["data"][1] == probability_of([0.3] * 7)

    run(scenario(), loop)


def test_binary_tensors_go_both_ways(faults: FaultBackend) -> None:
    async def scenario() -> None:
        tail = struct.pack("<7f", *[0.5] * 7)
        numeric = {"name": "numeric", "shape": [1, 7], "datatype": "FP32", "parameters": {"binary_data_size": 28}}
        head = json.dumps({"inputs": [numeric], "parameters": {"binary_data_output": True}}).encode()
        async with backend(faults.url) as made:
            reply = await ask(made, Call(head + tail, len(head)))
            assert reply.kind is Kind.OK
            assert reply.header_length is not None
            assert json.loads(reply.body[: reply.header_length])["model_version"] == "v7"
            assert struct.unpack("<q2f", reply.body[reply.header_length :])[2] == pytest.approx(
                probability_of([0.5] * 7)
            )
            assert made.signature is not None
            assert check_answer(reply.body, reply.header_length, made.signature, requested=None, nan_ok=False) is None

    run(scenario())


@pytest.mark.parametrize(
    ("mode", "kind", "status", "words"),
    [
        ("ok", Kind.OK, 200, ""),
        ("close_idle", Kind.OK, 200, ""),
        ("error_500", Kind.ERROR, 500, "the model raised an exception"),
        ("too_many_429", Kind.ERROR, 429, "too many requests"),
        ("bad_request_400", Kind.REJECTED, 400, "unexpected shape"),
        ("reset_before_head", Kind.BROKEN, 502, "version v7 of model credit broke off its answer"),
        ("reset_after_head", Kind.BROKEN, 502, "broke off its answer"),
        ("truncated_body", Kind.BROKEN, 502, "broke off its answer"),
    ],
)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_each_failure_has_its_kind_and_status(
    faults: FaultBackend, mode: str, kind: Kind, status: int, words: str, loop: str
) -> None:
    async def scenario() -> None:
        faults.set(mode)
        async with backend(faults.url) as made:
            before = requests_of(faults)
            for asked in range(1, 4):
                reply = await ask(made)
                assert (reply.kind, reply.status) == (kind, status), reply.detail
                assert (reply.detail == "") == (kind is Kind.OK)
                if kind is not Kind.OK:
                    assert words in json.loads(reply.body)["error"]
                assert requests_of(faults) == before + asked  # no fault is asked twice
            assert made.state is State.READY

    run(scenario(), loop)


@pytest.mark.parametrize("mode", ["wrong_shape", "wrong_name", "wrong_datatype", "nan", "not_json"])
def test_a_complete_answer_is_passed_on_and_the_contract_catches_it(faults: FaultBackend, mode: str) -> None:
    async def scenario() -> None:
        async with backend(faults.url) as made:
            assert made.signature is not None
            for spoil in ("ok", mode):
                faults.set(spoil)
                reply = await ask(made)
                assert reply.kind is Kind.OK
                problem = check_answer(reply.body, None, made.signature, requested=None, nan_ok=False)
                assert (problem is None) == (spoil == "ok")

    run(scenario())


@pytest.mark.parametrize("mode", ["never", "trickle"])
def test_cancelling_closes_the_connection_and_gives_back_its_place(faults: FaultBackend, mode: str) -> None:
    async def scenario() -> None:
        async with backend(faults.url, max_connections=1) as made:
            connections = made.connections
            assert connections is not None
            faults.set(mode)
            stuck, cancel = submit(made, request())
            queued, _ = submit(made, request())
            await until(lambda: faults.counts()["in_flight"] == 1)
            assert (connections.open_count, connections.waiting_count) == (1, 1)
            faults.set("ok")
            cancel()
            cancel()
            reply = await asyncio.wait_for(queued, WAIT_S)
            assert reply.kind is Kind.OK
            assert not stuck.done()
            await until(lambda: faults.counts()["in_flight"] == 0)
            assert connections.open_count == 1

    run(scenario())


def test_a_cancelled_request_that_was_waiting_is_never_sent(faults: FaultBackend) -> None:
    async def scenario() -> None:
        async with backend(faults.url, max_connections=1) as made:
            assert made.connections is not None
            faults.set("ok", delay_ms=50)
            before = requests_of(faults)
            first, _ = submit(made, request())
            second, cancel = submit(made, request())
            cancel()
            assert made.connections.waiting_count == 0
            assert (await first).kind is Kind.OK
            assert (await ask(made)).kind is Kind.OK
            assert requests_of(faults) == before + 2
            assert not second.done()

    run(scenario())


def test_all_bounds_hold_and_the_rest_is_overloaded() -> None:
    async def scenario(faults: FaultBackend) -> None:
        async with backend(faults.url, max_connections=3, max_waiting=2) as made:
            assert made.connections is not None
            faults.set("ok", delay_ms=100)
            futures = [submit(made, request())[0] for _ in range(7)]
            refused = [future for future in futures if future.done()]
            assert refused == futures[5:]  # at once, and the last ones
            for future in refused:
                reply = future.result()
                assert (reply.kind, reply.status) == (Kind.OVERLOADED, 503)
            replies = await asyncio.gather(*futures[:5])
            assert {reply.kind for reply in replies} == {Kind.OK}
            assert (requests_of(faults), faults.counts()["most_in_flight"]) == (5, 3)
            assert made.connections.open_count == made.connections.idle_count == 3

    with FaultBackend() as fresh:
        run(scenario(fresh))


def test_a_waiting_request_whose_deadline_passed_is_dropped(faults: FaultBackend) -> None:
    async def scenario() -> None:
        async with backend(faults.url, max_connections=1) as made:
            faults.set("ok", delay_ms=80)
            before = requests_of(faults)
            first, _ = submit(made, request())
            late, _ = submit(made, request(), timeout_s=0.02)
            last, _ = submit(made, request())
            assert (await first).kind is Kind.OK
            reply = await late
            assert (reply.kind, reply.status) == (Kind.TIMEOUT, 504)
            assert (await last).kind is Kind.OK
            assert requests_of(faults) == before + 2

    run(scenario())


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_no_answer_reaches_another_request(faults: FaultBackend, loop: str) -> None:
    async def scenario() -> None:
        draws = random.Random(7)
        faults.set("ok", share=0.3, delay_ms=4, seed=7)
        async with backend(faults.url, max_connections=16, max_waiting=1_000) as made:
            loop = asyncio.get_running_loop()
            answered: dict[int, Reply] = {}
            cancelled: set[int] = set()

            def cancel(number: int, give_up: Callable[[], None]) -> None:
                if number not in answered:
                    cancelled.add(number)
                give_up()

            for number in range(1_000):
                call = request(number / 10_000, id=f"request {number}")

                def keep(reply: Reply, number: int = number) -> None:
                    assert number not in answered
                    assert number not in cancelled
                    answered[number] = reply

                give_up = made.submit(call, loop.time() + WAIT_S, keep)
                if draws.random() < 0.3:
                    loop.call_later(draws.random() * 0.1, cancel, number, give_up)
                if number % 20 == 0:
                    await asyncio.sleep(0.001)
            await until(lambda: len(answered) + len(cancelled) == 1_000)
            assert len(cancelled) > 20
            for number, reply in answered.items():
                assert reply.kind is Kind.OK, reply.detail
                answer = json.loads(reply.body)
                assert answer["id"] == f"request {number}"
                assert answer["outputs"][1]["data"][1] == probability_of([number / 10_000] * 7)
            assert made.connections is not None
            await asyncio.sleep(0.05)
            assert made.connections.open_count == made.connections.idle_count <= 16

    run(scenario(), loop)


# Readiness.


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_server_that_refuses_is_not_ready_until_the_probe_finds_it_again(faults: FaultBackend, loop: str) -> None:
    async def scenario() -> None:
        states: list[str] = []
        async with backend(faults.url, on_state=lambda: states.append(made_box[0].state.value)) as made:
            made_box[0] = made
            assert (await ask(made)).kind is Kind.OK
            faults.set("refuse")
            await until(lambda: made.connections is not None and made.connections.open_count == 0)
            for _ in range(2):
                reply = await ask(made)
                assert (reply.kind, reply.status) == (Kind.UNREACHABLE, 503)
                assert "127.0.0.1" not in json.loads(reply.body)["error"]
                assert made.state is State.FAILED
                assert "refused connections" in made.reason
                assert faults.url in made.reason
                assert "127.0.0.1" not in made.public_reason
            faults.set("ok")
            await until(lambda: made.state is State.READY)
            assert (await ask(made)).kind is Kind.OK
        assert states[-3:] == ["failed", "ready", "closed"]

    made_box: list[Any] = [OipBackend(faults.url, "a", None, public_model="a", public_version="a")]
    run(scenario(), loop)


def test_a_server_that_starts_later_is_found(faults: FaultBackend) -> None:
    async def scenario() -> None:
        faults.set("refuse")
        async with backend(faults.url) as made:
            assert made.state is State.FAILED
            assert "refused connections" in made.reason
            assert made.signature is None
            faults.set("not_ready")
            await until(lambda: "503" in made.reason)
            assert (await ask(made)).kind is Kind.UNREACHABLE
            faults.set("ok")
            await until(lambda: made.state is State.READY)
            assert made.signature is not None

    run(scenario())


def test_an_unknown_model_is_not_ready(faults: FaultBackend) -> None:
    async def scenario() -> None:
        async with backend(faults.url, model="nobody/../x") as made:
            assert made.state is State.FAILED
            assert "404" in made.reason

    run(scenario())


def test_a_dead_process_is_unreachable_and_comes_back() -> None:
    async def scenario() -> None:
        with FaultBackend(model="other", version="3") as faults:
            async with backend(faults.url, model="other", version="3") as made:
                faults.set("never")
                stuck, _ = submit(made, request())
                await until(lambda: faults.counts()["in_flight"] == 1)
                faults.kill()
                assert (await asyncio.wait_for(stuck, WAIT_S)).kind is Kind.BROKEN
                assert (await ask(made)).kind is Kind.UNREACHABLE
                faults.start()
                await until(lambda: made.state is State.READY)
                assert (await ask(made)).kind is Kind.OK

    run(scenario())


def test_closing_ends_what_is_in_flight_and_what_waits(faults: FaultBackend) -> None:
    async def scenario() -> None:
        faults.set("never")
        async with backend(faults.url, max_connections=2) as made:
            futures = [submit(made, request())[0] for _ in range(4)]
            await until(lambda: faults.counts()["in_flight"] == 2)
            dialling = submit(made, request())[0]
            await made.close()
            for future in [*futures, dialling]:
                assert future.result().kind is Kind.UNREACHABLE
            assert (await ask(made)).kind is Kind.UNREACHABLE
        await until(lambda: faults.counts()["connections"] == 0)

    run(scenario())


def test_closing_while_connections_open_leaves_none(faults: FaultBackend) -> None:
    async def scenario() -> None:
        async with backend(faults.url, max_connections=8) as made:
            futures = [submit(made, request())[0] for _ in range(8)]
            await asyncio.sleep(0)
            await made.close()
            assert {future.result().kind for future in futures} == {Kind.UNREACHABLE}
        await until(lambda: faults.counts()["connections"] == 0)

    run(scenario())


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


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        ([ok()], Kind.OK),
        ([ok()[i : i + 1] for i in range(60)] + [ok()[60:]], Kind.OK),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + ok()], Kind.OK),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n39\r\n" + GOOD + b"\r\n0\r\nx: y\r\n\r\n"], Kind.OK),
        ([ok(extra=b"connection: close\r\n") + b"more"], Kind.OK),
        ([ok() + ok(b'{"stolen":1}')], Kind.OK),
        ([ok() + b"rubbish"], Kind.OK),
        ([b"HTTP/1.1 302 Found\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n"], Kind.ERROR),
        ([b"HTTP/1.1 408 Slow\r\ncontent-length: 0\r\n\r\n"], Kind.ERROR),
        ([b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nbusy"], Kind.ERROR),
        ([b"HTTP/1.1 422 No\r\ncontent-length: 14\r\n\r\n" + b'{"detail": []}'], Kind.REJECTED),
        ([b"220 smtp.example.org ready\r\n"], Kind.BROKEN),
        ([b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"], Kind.BROKEN),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 9], Kind.BROKEN),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"], Kind.BROKEN),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n"], Kind.BROKEN),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n"], Kind.BROKEN),
        ([ok(extra=b"content-encoding: gzip\r\n")], Kind.BROKEN),
        ([ok(extra=b"inference-header-content-length: 999\r\n")], Kind.BROKEN),
        ([ok(extra=b"inference-header-content-length: -1\r\n")], Kind.BROKEN),
        ([b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 70_000], Kind.BROKEN),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n"], Kind.BROKEN),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000], Kind.BROKEN),
    ],
)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_every_kind_of_framing_has_its_outcome(chunks: list[bytes], kind: Kind, loop: str) -> None:
    async def scenario() -> None:
        async with (
            raw_server(answers(*chunks)) as url,
            backend(url, max_answer_bytes=1_000) as made,
        ):
            reply = await ask(made)
            assert reply.kind is kind, reply.detail
            if kind is Kind.OK:
                assert reply.body == GOOD
            else:
                assert "version v7 of model credit" in json.loads(reply.body)["error"]

    run(scenario(), loop)


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async def scenario() -> None:
        script = answers(b"HTTP/1.0 200 OK\r\n\r\n" + GOOD[:20], GOOD[20:], then_wait=False)
        async with raw_server(script) as url, backend(url) as made:
            reply = await ask(made)
            assert (reply.kind, reply.body) == (Kind.OK, GOOD)

    run(scenario())


def test_what_follows_an_answer_never_answers_the_next_request() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await read_request(reader)
        writer.write(ok() + ok(b'{"stolen":1}') if number == 0 else ok())
        await reader.read(1)

    async def scenario() -> None:
        async with raw_server(script) as url, backend(url, max_connections=1) as made:
            first, _ = submit(made, request())
            second, _ = submit(made, request())
            assert (await first).body == GOOD
            assert (await second).body == GOOD

    run(scenario())


def test_bytes_on_an_idle_connection_close_it() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _number: int) -> None:
        await read_request(reader)
        writer.write(ok())
        await asyncio.sleep(0.02)
        writer.write(ok(b'{"late":1}'))
        await reader.read(1)

    async def scenario() -> None:
        async with raw_server(script) as url, backend(url) as made:
            connections = made.connections
            assert connections is not None
            await ask(made)
            assert connections.idle_count == 1
            await until(lambda: connections.open_count == 0)
            assert (await ask(made)).body == GOOD

    run(scenario())


def test_the_connection_used_last_is_used_first() -> None:
    served: list[tuple[int, bytes]] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        while True:
            text = await read_request(reader)
            served.append((number, text[-5:]))
            await asyncio.sleep(0.05 if text.endswith(b"slow.") else 0)
            writer.write(ok())

    async def scenario() -> None:
        async with raw_server(script) as url, backend(url) as made:
            quick, slow = submit(made, Call(b"quick"))[0], submit(made, Call(b"slow."))[0]
            await asyncio.gather(quick, slow)
            last = next(number for number, text in served if text == b"slow.")
            del served[:]
            for _ in range(5):
                await ask(made)
            assert made.connections is not None
            assert made.connections.idle_count == 2
            assert {number for number, _ in served} == {last}

    run(scenario())


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_stale_connection_is_retried_once_on_a_fresh_one(how: str, loop: str) -> None:
    seen: list[tuple[int, bytes]] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        seen.append((number, await read_request(reader)))
        writer.write(ok())
        seen.append((number, await read_request(reader)))
        if how == "rst":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def scenario() -> None:
        async with raw_server(script) as url, backend(url) as made:
            await ask(made, Call(b"first"))
            reply = await ask(made, Call(b"second"))
            assert (reply.kind, reply.body) == (Kind.OK, GOOD)
            assert [(number, text[-6:]) for number, text in seen[1:]] == [(0, b"second"), (1, b"second")]

    run(scenario(), loop)


def test_a_fresh_connection_is_not_retried_and_a_begun_answer_neither() -> None:
    requests = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        if number == 0:
            return
        writer.write(ok())
        await read_request(reader)
        requests += 1
        writer.write(b"HTTP/1.1")
        await writer.drain()

    async def scenario() -> None:
        async with raw_server(script) as url, backend(url) as made:
            assert (await ask(made)).kind is Kind.BROKEN
            assert (await ask(made)).kind is Kind.OK
            reply = await ask(made)
            assert reply.kind is Kind.BROKEN
            assert "in the middle" in reply.detail
            assert requests == 3

    run(scenario())


def test_the_head_says_what_the_body_is_and_large_bodies_arrive_whole() -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _number: int) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(ok())

    async def scenario() -> None:
        large = random.Random(1).randbytes(3_000_000)
        async with raw_server(script) as url, backend(url + "/prefix/", model="m 1", version="v/2") as made:
            assert made.state is State.READY
            await ask(made, Call(b"{}", None, "id-1"))
            await ask(made, Call(large, 12, "id-2"))
        host = url.removeprefix("http://").encode()
        assert seen[0] == (
            b"POST /prefix/v2/models/m%201/versions/v%2F2/infer HTTP/1.1\r\nhost: " + host + b"\r\n"
            b"content-type: application/json\r\ncontent-length: 2\r\nx-request-id: id-1\r\n"
            b"via: 1.1 test\r\n\r\n{}"
        )
        assert b"content-type: application/octet-stream\r\n" in seen[1]
        assert b"x-request-id: id-2\r\nvia: 1.1 test\r\ninference-header-content-length: 12\r\n\r\n" in seen[1]
        assert seen[1].endswith(large)

    run(scenario())


def test_an_answer_before_the_request_is_out_ends_the_connection() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _number: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        sentence = b'{"error":"too large"}'
        writer.write(b"HTTP/1.1 413 No\r\ncontent-length: %d\r\n\r\n%b" % (len(sentence), sentence))
        await asyncio.sleep(0.5)

    async def scenario() -> None:
        async with raw_server(script) as url, backend(url) as made:
            reply = await ask(made, Call(bytes(64 * 1024 * 1024)))
            assert (reply.kind, reply.status, reply.body) == (Kind.REJECTED, 413, b'{"error":"too large"}')
            assert made.connections is not None
            assert made.connections.open_count == 0

    run(scenario())


def test_a_connection_that_is_not_accepted_in_time_is_a_refusal() -> None:
    async def scenario() -> None:
        async with raw_server(answers(ok())) as url, backend(url, connect_timeout_s=0.05) as made:

            async def never(_make: Any) -> Any:
                await asyncio.sleep(WAIT_S)

            made.connections._connect = never  # type: ignore[union-attr]
            reply = await ask(made)
            assert reply.kind is Kind.UNREACHABLE
            assert "none was accepted within 0.05 s" in reply.detail

    run(scenario())


def test_running_out_of_descriptors_is_our_own_bound_not_the_servers_fault() -> None:
    async def scenario() -> None:
        async with raw_server(answers(ok())) as url, backend(url) as made:

            async def exhausted(_make: Any) -> Any:
                raise OSError(24, "Too many open files")

            made.connections._connect = exhausted  # type: ignore[union-attr]
            assert (await ask(made)).kind is Kind.OVERLOADED
            assert made.state is State.READY

    run(scenario())


@pytest.mark.parametrize("url", ["https://h", "h:80", "http://", "http://u@h", "http://h?x", "http://h:99999"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        OipBackend(url, "m", None, public_model="m", public_version="v")
