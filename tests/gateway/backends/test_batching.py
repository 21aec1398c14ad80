"""Requests of one turn of the loop share a run, and nobody can tell from the answers."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.backends.base import Reply
from gateway.backends.batching import MAX_QUEUED
from gateway.backends.onnx import OnnxBackend
from gateway.backends.onnx_model import PROOF_EVERY, PROOF_RUNS
from routing.analysis.outcome import Kind
from tests.gateway.backends.onnx_models import (
    DEMO,
    Call,
    added_up,
    answered,
    centred,
    doubled,
    looked_up,
    opened,
    output,
    scaled_by_the_largest,
    summed,
    tensor,
)

FAST = [("credit", "1"), ("credit", "2"), ("credit", "3"), ("sentiment", "1")]
ALL = [*FAST, ("sentiment", "2")]


def requests(model: str, count: int) -> list[dict[str, Any]]:
    with (DEMO / f"requests/{model}.jsonl").open() as lines:
        return [json.loads(line)["request"] for line, _ in zip(lines, range(count), strict=False)]


def demo(model: str, version: str) -> Path:
    return DEMO / f"models/{model}/{version}/model.onnx"


@pytest.mark.parametrize(("model", "version"), ALL)
def test_each_answer_is_that_of_its_own_run(model: str, version: str) -> None:
    async def scenario() -> None:
        apart, together = await opened(demo(model, version), batching=False), await opened(demo(model, version))
        plain = requests(model, 24 if (model, version) in FAST else 4)
        calls = [Call(row) for row in plain]
        for _ in range(3):
            together._run_time.turn_rows = together._run_time.inline_rows = together._run_time.batch_rows = 64
            batched = await answered(together, *calls)
        for call, reply in zip(calls, batched, strict=True):
            (alone,) = await answered(apart, call)
            (again,) = await answered(together, call)
            assert again.body == alone.body, "alone it is bit for bit the same"
            mine, others = json.loads(reply.body), json.loads(alone.body)
            assert mine["id"] == others["id"]
            for a, b in zip(mine["outputs"], others["outputs"], strict=True):
                assert (a["name"], a["shape"], a["datatype"]) == (b["name"], b["shape"], b["datatype"])
                if a["datatype"] == "FP32":
                    assert np.allclose(a["data"], b["data"], rtol=0, atol=1e-6)
                else:
                    assert a["data"] == b["data"]
        assert together.statistics.executions < together.statistics.requests - len(calls), "they did share runs"
        await apart.close()
        await together.close()

    asyncio.run(scenario())


rows = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(rows, st.sampled_from(["json", "binary", "named"]), st.integers(1, 2)), min_size=1))
def test_any_mix_of_requests_is_answered_as_each_would_be(
    tmp_path: Path, mix: list[tuple[list[list[float]], str, int]]
) -> None:
    """Of several rows, of two widths, as JSON, in binary form, or with outputs named."""

    def call(data: list[list[float]], form: str, width: int) -> Call:
        array = np.array(data, np.float32)[:, :width]
        plain = tensor(array)
        if form == "named":
            return Call({**plain, "id": "n", "outputs": [{"name": "y"}]})
        if form == "json":
            return Call(plain)
        parameters = {"binary_data_size": array.nbytes}
        item = {"name": "x", "shape": list(array.shape), "datatype": "FP32", "parameters": parameters}
        head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
        return Call(head + array.tobytes(), len(head))

    async def scenario() -> None:
        file = doubled(tmp_path, ["n", "m"])
        together, apart = await opened(file), await opened(file, batching=False)
        calls = [call(*item) for item in mix]
        for reply, wanted in zip(await answered(together, *calls), await answered(apart, *calls), strict=True):
            assert (reply.status, reply.body, reply.header_length) == (200, wanted.body, wanted.header_length)
        await together.close()
        await apart.close()

    asyncio.run(scenario())


def test_requests_of_one_turn_are_one_execution_and_count_each_as_a_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(doubled(tmp_path))
        order: list[int] = []
        for n in range(8):
            backend.submit(Call(tensor([[n, 1.0], [n, 2.0]])), 1e12, lambda _, n=n: order.append(n))  # type: ignore[misc]
        assert not order, "nothing runs before the turn is over"
        while len(order) < 8:
            await asyncio.sleep(0)
        assert order == list(range(8))
        before = backend.statistics.executions
        backend._run_time.turn_rows = backend._run_time.inline_rows = 64
        await answered(backend, *(Call(tensor([[n, 1.0]])) for n in range(4)))
        assert backend.statistics.executions == before + 1
        plain = backend.statistics.as_json()
        assert plain["inference_count"] == 8 * 2 + 4
        assert plain["execution_count"] == backend.statistics.executions
        assert plain["inference_stats"]["success"]["count"] == 12
        assert plain["inference_stats"]["compute_infer"]["count"] == 12
        await backend.close()

    asyncio.run(scenario())


def test_one_poisonous_request_fails_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(looked_up(tmp_path))
        for poison in (0, 3, 7):
            for _ in range(4):
                backend._run_time.turn_rows = backend._run_time.inline_rows = 64
                calls = [Call(tensor([99 if n == poison else n], "INT64")) for n in range(8)]
                for n, reply in enumerate(await answered(backend, *calls)):
                    if n == poison:
                        assert (reply.kind, reply.status) == (Kind.ERROR, 500)
                    else:
                        assert output(reply) == [2.0 * n, 2.0 * n + 1]
        before = backend.statistics.executions
        backend._run_time.turn_rows = backend._run_time.inline_rows = 64
        await answered(backend, *(Call(tensor([n], "INT64")) for n in range(4)))
        assert backend.statistics.executions == before + 1, "poison does not end the sharing of runs"
        assert backend.statistics.fail == 12
        await backend.close()

    asyncio.run(scenario())


def test_a_reply_that_breaks_whoever_asked_does_not_take_the_others_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(doubled(tmp_path))
        got: list[Reply] = []

        def break_(_: Reply) -> None:
            raise RuntimeError("a bug")

        for on_reply in (got.append, break_, got.append):
            backend.submit(Call(tensor([[1.0, 2.0]])), 1e12, on_reply)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [output(reply) for reply in got] == [[2.0, 4.0]] * 2
        await backend.close()

    asyncio.run(scenario())


def test_what_was_given_up_or_is_late_is_not_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(doubled(tmp_path))
        got: dict[str, Reply] = {}
        now_s = asyncio.get_running_loop().time()
        deadlines = {"first": 1e12, "late": now_s - 1, "given up": 1e12, "last": 1e12}
        cancels = {
            name: backend.submit(Call(tensor([[1.0, 2.0]])), deadline_s, lambda reply, n=name: got.setdefault(n, reply))  # type: ignore[misc]
            for name, deadline_s in deadlines.items()
        }
        cancels["given up"]()
        cancels["given up"]()
        assert backend.in_flight == 3
        await asyncio.sleep(0)
        assert {name: reply.status for name, reply in got.items()} == {"first": 200, "late": 504, "last": 200}
        assert backend.in_flight == 0
        assert (backend.statistics.rows, backend.statistics.fail) == (2, 1)
        await backend.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (lambda folder: doubled(folder, [1, 2]), [[1.0, 2.0]]),
        (lambda folder: doubled(folder, [2]), [1.0, 2.0]),
        (summed, [1.0, 2.0]),
    ],
    ids=["one row", "no rows", "a scalar"],
)
def test_a_model_whose_rows_are_not_free_runs_each_request_alone(tmp_path: Path, make: Any, data: Any) -> None:
    async def scenario() -> None:
        backend = await opened(make(tmp_path))
        replies = await answered(backend, *[Call(tensor(data))] * 5)
        assert len({reply.body for reply in replies}) == 1
        assert replies[0].status == 200
        assert backend.statistics.executions == 5
        await backend.close()

    asyncio.run(scenario())


def test_a_model_that_mixes_rows_for_some_values_only_is_found_out_while_it_serves(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(scaled_by_the_largest(tmp_path))
        for n in range(PROOF_RUNS + 1):
            await answered(backend, *(Call(tensor([[n + 1.0, k]])) for k in range(4)))
        assert not backend.note, "below the limit its rows keep to themselves"
        for n in range(
            12 * PROOF_EVERY
        ):  # all but the largest of five are wrong, and one of them is looked at now and then
            if backend.note:
                break
            await answered(backend, *(Call(tensor([[1000.0 * k + n, k]])) for k in range(1, 6)))
        assert "change one another" in backend.note
        (small, _) = await answered(backend, Call(tensor([[3.0, 4.0]])), Call(tensor([[1000.0, 4.0]])))
        assert output(small) == pytest.approx([0.03, 0.04])
        await backend.close()

    asyncio.run(scenario())


def test_requests_without_rows_are_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(doubled(tmp_path))
        empty = Call({"inputs": [{"name": "x", "shape": [0, 2], "datatype": "FP32", "data": []}]})
        replies = await answered(backend, Call(tensor([[1.0, 2.0]])), empty, Call(tensor([[3.0, 4.0]])))
        assert [output(reply) for reply in replies] == [[2.0, 4.0], [], [6.0, 8.0]]
        assert backend.statistics.executions == 2
        await backend.close()

    asyncio.run(scenario())


def test_a_model_that_mixes_rows_is_found_out_when_it_is_loaded(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(centred(tmp_path))
        replies = await answered(backend, *(Call(tensor([[n, 1.0], [n + 2, 3.0]])) for n in range(5)))
        assert [output(reply) for reply in replies] == [[-1.0, -1.0, 1.0, 1.0]] * 5
        assert "change one another" in backend.note
        await backend.close()

    asyncio.run(scenario())


def test_a_model_that_mixes_rows_and_takes_no_made_up_ones_is_found_out_by_the_first_real_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(added_up(tmp_path))
        assert not backend.note
        (first,) = await answered(backend, Call(tensor([100], "INT64")))
        assert output(first) == [1.0]
        for _ in range(3):
            replies = await answered(backend, *(Call(tensor([100 + n, 101], "INT64")) for n in range(5)))
            assert [output(reply) for reply in replies] == [[n + 1.0, n + 3.0] for n in range(5)]
        assert "change one another" in backend.note
        await backend.close()

    asyncio.run(scenario())


def test_switched_off_each_request_is_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(doubled(tmp_path), batching=False)
        await answered(backend, *[Call(tensor([[1.0, 2.0]]))] * 5)
        assert backend.statistics.executions == 5
        await backend.close()

    asyncio.run(scenario())


def own_threads(backend: OnnxBackend) -> int:
    return sum(thread.name.startswith(f"onnx-{backend._file.parent.name}") for thread in threading.enumerate())


@pytest.mark.parametrize("inline", [True, False])
def test_short_runs_need_no_thread_and_a_shadows_never_are_on_the_loop(tmp_path: Path, *, inline: bool) -> None:
    async def scenario() -> None:
        backend = await opened(doubled(tmp_path / f"quick-{inline}"), inline=inline)
        assert own_threads(backend) == 0, "loading left none behind"
        on: list[str] = []
        model = backend._model
        assert model is not None
        run = model.run_together
        model.run_together = lambda *args: (on.append(threading.current_thread().name), run(*args))[1]  # type: ignore[method-assign]
        await answered(backend, *[Call(tensor([[1.0, 2.0]]))] * 3)
        assert [name.startswith("onnx-") for name in on] == [not inline] * len(on)
        assert own_threads(backend) == (0 if inline else 1)
        await backend.close()
        assert own_threads(backend) == 0

    asyncio.run(scenario())


def test_more_than_may_wait_are_refused_and_those_given_up_make_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened(doubled(tmp_path), inline=False)
        call, got = Call(tensor([[1.0, 2.0]])), []
        cancels = [backend.submit(call, 1e12, got.append) for _ in range(MAX_QUEUED)]
        assert not got
        backend.submit(call, 1e12, got.append)
        assert [reply.kind for reply in got] == [Kind.OVERLOADED]
        for cancel in cancels:
            cancel()
        for _ in range(3 * MAX_QUEUED):
            backend.submit(call, 1e12, got.append)()
        assert backend._batcher is not None
        assert backend._batcher._long.queue.count <= 2 * MAX_QUEUED, "what was given up does not pile up"
        (reply,) = await answered(backend, call)
        assert output(reply) == [2.0, 4.0]
        assert len(got) == 1
        await backend.close()

    asyncio.run(scenario())


def test_closing_lets_what_waits_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        for inline in (True, False):
            backend = await opened(doubled(tmp_path), inline=inline)
            got: list[Reply] = []
            for _ in range(20):
                backend.submit(Call(tensor([[1.0, 2.0]])), 1e12, got.append)
            await backend.close()
            assert [reply.status for reply in got] == [200] * 20

    asyncio.run(scenario())


def test_a_reply_says_what_was_the_versions_own_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        quick = await opened(doubled(tmp_path))
        slow = await opened(demo("sentiment", "2"), batching=False)
        got: list[Reply] = []
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        loop.call_soon(
            lambda: [None for _ in iter(lambda: loop.time() < begin_s + 0.05, False)]
        )  # others hold the loop
        quick.submit(Call(tensor([[1.0, 2.0]])), 1e12, got.append)
        while not got:
            await asyncio.sleep(0)
        assert loop.time() - begin_s > 0.05
        assert got[0].own_s is not None
        assert got[0].own_s < 0.04, "the loop's time for others is not the version's"
        replies = await answered(slow, *(Call(row) for row in requests("sentiment", 3)))
        waits = [reply.own_s or 0.0 for reply in replies]
        assert waits == sorted(waits), "the wait for the version's own thread is"
        assert waits[0] > 0
        await quick.close()
        await slow.close()

    asyncio.run(scenario())
