"""What goes over the wire, and every way an answer can come or not come."""

import asyncio
import json
import random

import pytest

from gateway.backends.base import State
from gateway.backends.heads import HEAD_BYTES, HEADS_MAX
from routing.analysis.outcome import Kind
from tests.gateway.backends.remote import (
    GOOD,
    Call,
    answers,
    ask,
    backend,
    ok,
    pool_of,
    raw_server,
    read_request,
    request,
    run,
    submit,
    until,
)


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
            assert pool_of(made).open_count == 0

    run(scenario())


def test_a_head_that_was_seen_before_means_the_same_whole_or_in_pieces() -> None:
    other = GOOD.replace(b"[]", b"[1]")
    assert len(other) == len(GOOD) + 1
    pieces = [[ok()], [ok()], [ok()[:70], ok()[70:]], [ok(other)], [ok()[:20], ok()[20:]], [ok() + b"more"]]

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _number: int) -> None:
        for answer in pieces:
            await read_request(reader)
            for piece in answer:
                writer.write(piece)
                await asyncio.sleep(0.01)

    async def scenario() -> None:
        async with raw_server(script) as url, backend(url) as made:
            bodies = [(await ask(made)).body for _ in pieces]
            assert bodies == [GOOD, GOOD, GOOD, other, GOOD, GOOD]
            assert len(pool_of(made).known_heads.by_bytes) == 2
            await until(lambda: pool_of(made).open_count == 0)  # for what came behind the last one

    run(scenario())


@pytest.mark.parametrize(
    "extra", [b"inference-header-content-length: 999\r\n", b"content-encoding: gzip\r\n", b"connection: close\r\n"]
)
def test_a_head_with_something_special_is_read_every_time(extra: bytes) -> None:
    async def scenario() -> None:
        async with raw_server(answers(ok(extra=extra))) as url, backend(url) as made:
            kinds = {(await ask(made)).kind for _ in range(3)}
            assert kinds == {Kind.OK if b"close" in extra else Kind.BROKEN}
            assert pool_of(made).known_heads.by_bytes == {}

    run(scenario())


def test_heads_that_never_come_again_are_forgotten() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _number: int) -> None:
        for count in range(HEADS_MAX + 10):
            await read_request(reader)
            writer.write(ok(extra=b"x-count: %d\r\n" % count))
        await read_request(reader)
        writer.write(ok(extra=b"x-long: " + b"x" * HEAD_BYTES + b"\r\n"))

    async def scenario() -> None:
        async with raw_server(script) as url, backend(url) as made:
            for _ in range(HEADS_MAX + 11):
                assert (await ask(made)).body == GOOD
            known = pool_of(made).known_heads
            assert (len(known.by_bytes), known.forgotten) == (10, 1)

    run(scenario())
