"""How calls share a gRPC connection: windows, places, resets, pings, and a connection that ends under them."""

import asyncio
import struct

import pytest

from routing.analysis.outcome import Kind
from tests.gateway.backends.grpc_calls import Call, call, replies_to
from tests.gateway.backends.grpc_server import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    PING,
    RESET,
    SETTINGS,
    WINDOW,
    Peer,
    answer,
    frame,
    grpc_server,
)
from tests.gateway.backends.remote import ask, backend, run, submit, until


def test_a_body_larger_than_every_window_goes_out_as_they_open() -> None:
    seen: list[int] = []

    async def script(peer: Peer) -> None:
        stream, _ = await peer.call()
        peer.send(answer(stream))
        got = b""
        while not peer.seen[-1].flags & END_STREAM or len(got) == 0:
            data = await peer.until(DATA)
            got += data.payload
            seen.append(len(data.payload))
            more = struct.pack(">I", len(data.payload))
            peer.send(frame(WINDOW, 0, data.stream, more), frame(WINDOW, 0, 0, more))
        assert got[-4:] == struct.pack("<f", 0.5)
        assert len(got) == 5 + int.from_bytes(got[1:5], "big")
        peer.send(answer(3))
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script, struct.pack(">HI", 4, 1000)) as url, backend(url) as made:
            assert (await ask(made, call())).kind is Kind.OK  # its settings are known by now
            assert (await ask(made, call(50_000))).kind is Kind.OK
        assert (max(seen), sum(seen) > 200_000) == (1000, True)

    run(scenario())


def test_small_calls_are_not_held_up_by_a_large_one_that_waits_for_a_window() -> None:
    async def script(peer: Peer) -> None:
        for stream in (1, 5):
            while (await peer.call())[0] != stream:
                pass
            peer.send(answer(stream))
        await peer.until(RESET)
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script, struct.pack(">HI", 4, 500)) as url, backend(url) as made:
            assert (await ask(made, call())).kind is Kind.OK  # its settings are known by now
            large, cancel = submit(made, call(50_000))
            assert (await ask(made, call())).kind is Kind.OK
            assert not large.done()
            cancel()

    run(scenario())


def test_a_call_that_is_given_up_is_reset_and_its_late_answer_is_nobodys() -> None:
    async def script(peer: Peer) -> None:
        await peer.call()
        assert (await peer.until(RESET)).stream == 1
        peer.send(answer(1))
        await peer.call()
        peer.send(answer(3))
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script) as url, backend(url) as made:
            future, cancel = submit(made, call())
            await asyncio.sleep(0.05)
            cancel()
            assert made.instance_status()[0]["in_flight"] == 0
            assert (await ask(made, call())).kind is Kind.OK
            assert not future.done()

    run(scenario())


def test_what_a_server_that_goes_away_has_not_begun_goes_out_again_elsewhere() -> None:
    async def script(peer: Peer) -> None:
        first, _ = await peer.call()
        if peer.number == 0:
            await peer.call()
            peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", first, 0)), answer(first))
        else:
            peer.send(answer(first))
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script) as url, backend(url) as made:
            both = [submit(made, call())[0] for _ in range(2)]
            assert [(await each).kind for each in both] == [Kind.OK, Kind.OK]
            status = made.instance_status()[0]
            assert (status["retried"], status["in_flight"]) == (1, 0)
            await until(lambda: made.instance_status()[0]["connections"] == 1)

    run(scenario())


@pytest.mark.parametrize(("may_repeat", "kind"), [(True, Kind.OK), (False, Kind.BROKEN)])
def test_a_connection_that_died_with_a_call_is_tried_once_more_where_that_may_be(may_repeat: bool, kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        stream, _ = await peer.call()
        peer.send(answer(stream))
        await peer.call()
        if peer.number == 0:
            return  # closes
        peer.send(answer(3))

    async def scenario() -> None:
        async with grpc_server(script) as url, backend(url) as made:
            assert (await ask(made, call())).kind is Kind.OK
            again = Call(call().body, may_repeat=may_repeat)
            assert (await ask(made, again)).kind is kind

    run(scenario())


def test_calls_beyond_what_the_server_takes_wait_for_a_place() -> None:
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal most
        held: list[int] = []
        for _ in range(6):
            stream, _ = await peer.call()
            held.append(stream)
            most = max(most, len(held))
            if len(held) == 2:
                await asyncio.sleep(0.02)
                peer.send(*map(answer, held))
                held.clear()
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script, struct.pack(">HI", 3, 2)) as url, backend(url) as made:
            first = [submit(made, call())[0] for _ in range(2)]
            await asyncio.gather(*first)  # its settings are known by now
            rest = [submit(made, call())[0] for _ in range(4)]
            assert made.instance_status()[0]["waiting"] == 2
            assert {(await each).kind for each in rest} == {Kind.OK}
        assert most == 2

    run(scenario())


def test_a_queue_that_is_full_refuses_and_one_that_waits_too_long_times_out() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script) as url, backend(url, max_connections=1, max_waiting=1) as made:
            submit(made, call())
            waiting, _ = submit(made, call(), 0.05)
            await asyncio.sleep(0.1)
            third, _ = submit(made, call())
            assert (await waiting).kind is Kind.TIMEOUT
            assert (await ask(made, call())).kind is Kind.OVERLOADED
            assert not third.done()

    run(scenario())


def test_pings_and_settings_are_answered_and_who_never_reads_them_is_dropped() -> None:
    async def script(peer: Peer) -> None:
        await peer.call()
        peer.send(frame(PING, 0, 0, b"abcdefgh"), frame(SETTINGS, 0, 0))
        await peer.until(PING)
        assert peer.seen[-1].payload == b"abcdefgh"
        assert peer.seen[-1].flags == ACK
        assert (await peer.until(SETTINGS)).flags == ACK
        while True:
            peer.send(frame(PING, 0, 0, b"abcdefgh") * 1000)
            await peer.writer.drain()

    (reply,) = replies_to(script)
    assert (reply.kind, "does not read" in reply.detail) == (Kind.BROKEN, True)
