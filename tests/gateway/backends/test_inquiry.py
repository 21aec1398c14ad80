"""Servers are asked one thing at a time, seldom, and nobody waits for one that is silent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from gateway.backends.inquiry import ASK_S, NOT_IN_TIME, Inquiry, Question
from tests.gateway.backends.remote import run

INDEX = json.dumps([{"name": "scale", "version": "3", "state": "READY"}]).encode()
STATISTICS = json.dumps({"model_stats": [{"name": "scale", "version": "3", "inference_count": 7}]}).encode()
Answer = Callable[[bytes], Coroutine[Any, Any, bytes]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await answer(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def test_one_thing_at_a_time_and_an_answer_is_kept() -> None:
    heads: list[bytes] = []
    at_once = most = 0

    async def answer(head: bytes) -> bytes:
        nonlocal at_once, most
        heads.append(head)
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return INDEX if b"/index" in head else STATISTICS

    async def scenario() -> None:
        async with server(answer) as url:
            inquiry = Inquiry()
            index, statistics = Question(url, "index"), Question(url, "statistics", "scale")
            found = await asyncio.gather(*(inquiry.words([index, statistics]) for _ in range(5)))
            assert len(heads) == 2
            assert most == 1
            for words in found:
                assert words[index].index == {("scale", "3"): ("READY", "")}
                assert words[statistics].statistics["scale", "3"]["inference_count"] == 7
            await inquiry.words([index])
            assert len(heads) == 2
            await inquiry.close()

    run(scenario())


def test_nobody_waits_for_a_server_that_says_nothing() -> None:
    silent = asyncio.Event()

    async def answer(_head: bytes) -> bytes:
        await silent.wait()
        return b""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with server(answer) as url:
            inquiry = Inquiry()
            index, statistics = Question(url, "index"), Question(url, "statistics")
            begin_s = loop.time()
            words = await inquiry.words([index, statistics])
            assert loop.time() - begin_s < 4 * ASK_S
            assert {one.problem for one in words.values()} == {NOT_IN_TIME}
            inquiry.refresh([Question(url, "statistics", "other")])
            await inquiry.close()
            silent.set()

    run(scenario())


def test_a_server_that_is_gone_or_says_something_else_is_named() -> None:
    async def answer(_head: bytes) -> bytes:
        return b"[]"

    async def scenario() -> None:
        inquiry = Inquiry()
        async with server(answer) as url:
            odd = Question(url, "statistics")
            assert (await inquiry.words([odd]))[odd].problem == "sent no statistics"
        gone = Question(url, "index")
        assert (await inquiry.words([gone]))[gone].problem.startswith("refused connections")
        await inquiry.close()

    run(scenario())
