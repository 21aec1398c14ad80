"""One contract for both forms of the link, and what only the form over sockets has: bounds."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.control.link import End, local_link, receive_first, send_first, socket_end
from gateway.control.messages import (
    MAX_MESSAGE_BYTES,
    SIZES,
    Applied,
    Ask,
    BadMessage,
    Begin,
    Count,
    Counted,
    Drain,
    Forget,
    Lower,
    Lowered,
    Message,
    Ping,
    Pong,
    Ready,
    Refused,
    Serve,
    Serving,
    StoreAway,
    StoredDocument,
    Told,
)
from routing.errors import Problem

EVERY: tuple[Message, ...] = (
    Lowered("credit", "2", 7, "errors: bad", {"objective": "errors", "odds": 1e9}),
    Applied("credit", 3),
    Refused("credit", 4, (Problem("/schema", "newer_schema", "too new"),)),
    Counted((Count("credit", "2", 7, False, True, {"errors": (12, [1, None, -(2**63)])}, ((5, 2, [1]),)),)),
    Told(5, b'{"a": 1}'),
    Pong(),
    Serving(),
    Ready(),
    Begin(1, 4, "host-1", b"{}"),
    StoredDocument("credit", 3, bytes(range(256))),
    Forget("credit"),
    Lower("credit", "2", 7),
    StoreAway(is_away=True),
    Serve(),
    Ask(9, "routes", ("a", "b")),
    Ping(),
    Drain(at_once=True),
)


async def local() -> tuple[End, End]:
    return local_link(asyncio.get_running_loop())


async def sockets() -> tuple[End, End]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return await socket_end(one), await socket_end(other)


Pair = Callable[[], Awaitable[tuple[End, End]]]
both = pytest.mark.parametrize("pair", [local, sockets])


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@both
def test_every_message_arrives_as_it_was_and_in_order(pair: Pair) -> None:
    async def scenario() -> None:
        one, other = await pair()
        heard: list[Message] = []
        other.on_message = heard.append
        one.start()
        other.start()
        for message in EVERY * 3:
            one.send(message)
        assert not heard, "never inside the sender's call"
        await until(lambda: len(heard) == 3 * len(EVERY))
        assert tuple(heard) == EVERY * 3
        await one.drained()
        one.close()
        other.close()

    asyncio.run(scenario())


@both
def test_nothing_is_lost_before_the_handlers_are_there(pair: Pair) -> None:
    async def scenario() -> None:
        one, other = await pair()
        one.start()
        one.send(Ping())
        one.close()
        await asyncio.sleep(0.05)
        heard: list[Any] = []
        other.on_message, other.on_lost = heard.append, heard.append
        other.start()
        await until(lambda: len(heard) == 2)
        assert heard == [Ping(), "the other end was closed"]
        other.send(Pong())  # to nobody

    asyncio.run(scenario())


@both
def test_a_closed_end_is_noticed_once(pair: Pair) -> None:
    async def scenario() -> None:
        one, other = await pair()
        lost: list[str] = []
        other.on_lost = lost.append
        one.start()
        other.start()
        one.close()
        await until(lambda: lost)
        await asyncio.sleep(0.01)
        assert len(lost) == 1

    asyncio.run(scenario())


def test_one_that_does_not_read_is_given_up_within_the_bound() -> None:
    async def scenario() -> None:
        one, other = socket.socketpair()
        one.setblocking(False)
        end = await socket_end(one, max_queued_bytes=1 << 20)
        lost: list[str] = []
        end.on_lost = lost.append
        end.start()
        for _ in range(40):
            end.send(StoredDocument("credit", 1, b"x" * 50_000))
            await asyncio.sleep(0)
        await until(lambda: lost)
        assert "1048576 bytes unread" in lost[0]
        other.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "garbage",
    [SIZES.pack(MAX_MESSAGE_BYTES, 1), SIZES.pack(2, 0) + b"[]", SIZES.pack(9, 0) + b'["No",{}]', b"\xff" * 64],
)
def test_bytes_that_are_no_message_end_the_link(garbage: bytes) -> None:
    async def scenario() -> None:
        one, other = socket.socketpair()
        one.setblocking(False)
        end = await socket_end(one)
        lost: list[str] = []
        end.on_lost = lost.append
        end.start()
        other.sendall(garbage)
        await until(lambda: lost)
        assert "message" in lost[0]
        other.close()

    asyncio.run(scenario())


def test_a_message_that_is_too_large_is_refused_where_it_is_sent() -> None:
    async def scenario() -> None:
        one, other = await sockets()
        with pytest.raises(BadMessage, match="too large"):
            one.send(StoredDocument("credit", 1, bytes(MAX_MESSAGE_BYTES)))
        one.close()
        other.close()

    asyncio.run(scenario())


def test_the_first_message_brings_descriptors_and_nothing_behind_it_is_read() -> None:
    one, other = socket.socketpair()
    reading, writing = os.pipe()
    first = Begin(0, 1, "host", b"s" * 5000)
    send_first(one, first, [writing])
    send_first(one, replace(first, worker=1), [])
    message, (received,) = receive_first(other, 1)
    assert message == first
    os.write(received, b"through")
    assert os.read(reading, 7) == b"through"
    assert receive_first(other, 1) == (replace(first, worker=1), [])
    one.close()
    with pytest.raises(EOFError):
        receive_first(other, 1)
    for descriptor in (reading, writing, received):
        os.close(descriptor)
    other.close()
