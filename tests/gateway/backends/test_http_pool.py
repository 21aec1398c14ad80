"""The connections to one server: bounds, reuse, cancelling, closing."""

import asyncio
import json
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from gateway.backends.base import Reply, State
from routing.analysis.outcome import Kind
from tests.faults import FaultBackend, probability_of
from tests.gateway.backends.remote import (
    GOOD,
    WAIT_S,
    Call,
    answers,
    ask,
    backend,
    ok,
    pool_of,
    raw_server,
    read_request,
    request,
    requests_of,
    run,
    submit,
    until,
)


@pytest.mark.parametrize("mode", ["never", "trickle"])
def test_cancelling_closes_the_connection_and_gives_back_its_place(faults: FaultBackend, mode: str) -> None:
    async def scenario() -> None:
        async with backend(faults.url, max_connections=1) as made:
            connections = pool_of(made)
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
            faults.set("ok", delay_ms=50)
            before = requests_of(faults)
            first, _ = submit(made, request())
            second, cancel = submit(made, request())
            cancel()
            assert pool_of(made).waiting_count == 0
            assert (await first).kind is Kind.OK
            assert (await ask(made)).kind is Kind.OK
            assert requests_of(faults) == before + 2
            assert not second.done()

    run(scenario())


def test_all_bounds_hold_and_the_rest_is_overloaded() -> None:
    async def scenario(faults: FaultBackend) -> None:
        async with backend(faults.url, max_connections=3, max_waiting=2) as made:
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
            assert pool_of(made).open_count == pool_of(made).idle_count == 3

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
            await asyncio.sleep(0.05)
            assert pool_of(made).open_count == pool_of(made).idle_count <= 16

    run(scenario(), loop)


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


def test_bytes_on_an_idle_connection_close_it() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _number: int) -> None:
        await read_request(reader)
        writer.write(ok())
        await asyncio.sleep(0.02)
        writer.write(ok(b'{"late":1}'))
        await reader.read(1)

    async def scenario() -> None:
        async with raw_server(script) as url, backend(url) as made:
            connections = pool_of(made)
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
            assert pool_of(made).idle_count == 2
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


def test_a_connection_that_is_not_accepted_in_time_is_a_refusal() -> None:
    async def scenario() -> None:
        async with raw_server(answers(ok())) as url, backend(url, connect_timeout_s=0.05) as made:

            async def never(_make: Any) -> Any:
                await asyncio.sleep(WAIT_S)

            pool_of(made)._connect = never  # type: ignore[method-assign]
            reply = await ask(made)
            assert reply.kind is Kind.UNREACHABLE
            assert "none was accepted within 0.05 s" in reply.detail

    run(scenario())


def test_running_out_of_descriptors_is_our_own_bound_not_the_servers_fault() -> None:
    async def scenario() -> None:
        async with raw_server(answers(ok())) as url, backend(url) as made:

            async def exhausted(_make: Any) -> Any:
                raise OSError(24, "Too many open files")

            pool_of(made)._connect = exhausted  # type: ignore[method-assign]
            assert (await ask(made)).kind is Kind.OVERLOADED
            assert made.state is State.READY

    run(scenario())
