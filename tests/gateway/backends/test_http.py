import asyncio
import json
import struct
from typing import Any

import pytest

from gateway.backends.base import State
from gateway.backends.http import HttpBackend
from gateway.protocol.answer import check_answer
from routing.analysis.outcome import Kind
from tests.faults import FaultBackend, label_of, probability_of
from tests.gateway.backends.remote import (
    WAIT_S,
    Call,
    ask,
    backend,
    pool_of,
    request,
    requests_of,
    run,
    submit,
    until,
)


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


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_server_that_refuses_is_not_ready_until_the_probe_finds_it_again(faults: FaultBackend, loop: str) -> None:
    async def scenario() -> None:
        states: list[str] = []
        async with backend(faults.url, on_state=lambda: states.append(made_box[0].state.value)) as made:
            made_box[0] = made
            assert (await ask(made)).kind is Kind.OK
            faults.set("refuse")
            await until(lambda: pool_of(made).open_count == 0)
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

    made_box: list[Any] = [HttpBackend([faults.url], "a", None, public_model="a", public_version="a")]
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


@pytest.mark.parametrize("url", ["https://h", "h:80", "http://", "http://u@h", "http://h?x", "http://h:99999"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        HttpBackend([url], "m", None, public_model="m", public_version="v")
