"""Answers held to the version that was asked for, as Triton's are."""

import asyncio
import json

from routing.analysis.outcome import Kind
from tests.gateway.backends.remote import Script, ask, backend, ok, raw_server, read_request, run


def triton_like(*named: bytes) -> Script:
    """Answers with these versions, one after the other."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _number: int) -> None:
        for version in named:
            await read_request(reader)
            writer.write(ok(b'{"model_name":"credit","model_version":%b,"outputs":[]}' % version))

    return script


def test_an_answer_of_another_version_breaks_the_contract() -> None:
    async def scenario() -> None:
        script = triton_like(b'"3"', b'"3"', b'"4"', b'"3"', b"null", b"3", b'"4","model_version":"3"')
        async with raw_server(script) as url, backend(url, version="3", holds_to_version=True) as made:
            replies = [await ask(made) for _ in range(7)]
            good = [reply.kind is Kind.OK for reply in replies]
            assert good == [True, True, False, True, False, True, False]
            wrong = replies[2]
            assert (wrong.kind, wrong.status) == (Kind.CONTRACT, 502)
            assert "named version '4' in its answer, '3' was asked" in wrong.detail
            assert "answered as another version" in json.loads(wrong.body)["error"]
            assert json.loads(replies[0].body)["model_version"] == "v7"
            assert made.statistics.fail == 3

    run(scenario())


def test_other_servers_may_name_what_they_like() -> None:
    async def scenario() -> None:
        async with raw_server(triton_like(b'"4"', b"null")) as url, backend(url, version="3") as made:
            assert [(await ask(made)).kind for _ in range(2)] == [Kind.OK, Kind.OK]

    run(scenario())
