"""Models in process: inline or on a thread, promises checked, NaN said or refused."""

import asyncio
import json
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from gateway.backends.base import Reply, State
from gateway.backends.onnx import OnnxBackend
from gateway.backends.run_time import INLINE_LIMIT_S, WINDOW_RUNS, RunTime
from gateway.protocol.request import InferRequest, read_request
from routing.analysis.outcome import Kind

DEMO = Path(__file__).parents[3] / "configs" / "demo"


class Call:
    """What a backend reads of a request."""

    header_length = None
    request_id = "r"
    via = "1.1 test"
    may_repeat = True

    def __init__(self, plain: dict[str, Any]) -> None:
        self.body = json.dumps(plain).encode()

    def request(self) -> InferRequest:
        return read_request(self.body)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def opened(model: str, version: str, file: Path | None = None) -> OnnxBackend:
    backend = OnnxBackend(file or DEMO / f"models/{model}/{version}/model.onnx", model, version)
    await backend.open()
    assert backend.state is State.READY, backend.reason
    return backend


async def asked(backend: OnnxBackend, plain: dict[str, Any], deadline_s: float = 1e12) -> Reply:
    replies: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    backend.submit(Call(plain), deadline_s, replies.set_result)
    return await replies


def requests(model: str) -> list[dict[str, Any]]:
    with (DEMO / f"requests/{model}.jsonl").open() as lines:
        return [json.loads(line) for line in lines]


def test_answers_are_the_golden_ones() -> None:
    async def scenario() -> None:
        for model, version in (("credit", "1"), ("credit", "2"), ("credit", "3"), ("sentiment", "1")):
            backend = await opened(model, version)
            for row in requests(model)[:100]:
                outputs = {o["name"]: o for o in json.loads((await asked(backend, row["request"])).body)["outputs"]}
                assert abs(outputs["probabilities"]["data"][1] - row["golden"][version]) < 1e-3
            await backend.close()

    run(scenario())


def test_a_short_model_answers_inline_and_a_long_one_on_its_thread() -> None:
    async def scenario() -> None:
        for model, version, is_inline in (("credit", "1", True), ("sentiment", "2", False)):
            backend = await opened(model, version)
            body = requests(model)[0]["request"]
            inline = 0
            for _ in range(40):
                replies: list[Reply] = []
                backend.submit(Call(body), 1e12, replies.append)
                await asyncio.sleep(0)
                inline += bool(replies)
                while not replies:
                    await asyncio.sleep(0.001)
            assert (inline > 20) is is_inline, f"{inline} of 40 ran on the loop"
            await backend.close()

    run(scenario())


def test_where_a_run_goes_is_decided_anew_from_the_moving_p90() -> None:
    moving = RunTime()
    assert not moving.is_short(1), "unknown: not on the loop"
    for _ in range(WINDOW_RUNS):
        moving.observe(INLINE_LIMIT_S / 10, 1)
    assert moving.is_short(1)
    assert not moving.is_short(11), "many rows are expected to take long"
    for _ in range(WINDOW_RUNS // 8):
        moving.observe(INLINE_LIMIT_S * 2, 1)
    assert not moving.is_short(1), "one run in ten is long"
    for _ in range(WINDOW_RUNS):
        moving.observe(INLINE_LIMIT_S / 10, 1)
    assert moving.is_short(1)


def test_queued_runs_that_nobody_waits_for_are_not_begun() -> None:
    async def scenario() -> None:
        backend = await opened("sentiment", "2")
        body = requests("sentiment")[0]["request"]
        replies: list[Reply] = []
        begin = time.perf_counter()
        cancels = [backend.submit(Call(body), 1e12, replies.append) for _ in range(200)]
        for cancel in cancels:
            cancel()
        late = await asked(backend, body, deadline_s=asyncio.get_running_loop().time() - 1)
        assert late.kind is Kind.TIMEOUT
        assert not replies
        assert backend.in_flight == 0
        assert time.perf_counter() - begin < 0.2, "200 runs would take two seconds"
        await backend.close()

    run(scenario())


def test_after_close_nothing_is_answered_and_the_thread_is_gone() -> None:
    async def scenario() -> None:
        backend = await opened("sentiment", "1")
        await backend.close()
        reply = await asked(backend, requests("sentiment")[0]["request"])
        assert (reply.kind, reply.status) == (Kind.UNREACHABLE, 503)

    run(scenario())


def log_model(folder: Path) -> Path:
    """``y = log(x)``: NaN below zero, minus infinity at it."""
    graph = helper.make_graph(
        [helper.make_node("Log", ["x"], ["y"])],
        "log",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    file = folder / "model.onnx"
    onnx.save(model, file)
    return file


def test_nan_is_a_broken_promise_unless_the_request_allows_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened("log", "1", log_model(tmp_path))
        plain: dict[str, Any] = {"inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [-1, 0, 1]}]}
        refused = await asked(backend, plain)
        assert refused.kind is Kind.CONTRACT
        assert "JSON cannot carry" in json.loads(refused.body)["error"]
        allowed = await asked(backend, {**plain, "parameters": {"allow_nan": True}})
        assert allowed.kind is Kind.OK
        assert b'"data":[NaN,-Infinity,0.0]' in allowed.body
        await backend.close()

    run(scenario())


def test_fp32_makes_the_round_trip_exactly(tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = await opened("log", "1", log_model(tmp_path))
        values = np.random.default_rng(1).uniform(0.01, 1e6, 500).astype(np.float32)
        plain = {"inputs": [{"name": "x", "shape": [500], "datatype": "FP32", "data": [float(v) for v in values]}]}
        answer = json.loads((await asked(backend, plain)).body)["outputs"][0]["data"]
        assert np.allclose(np.array(answer, np.float32), np.log(values), rtol=1e-6)
        await backend.close()

    run(scenario())
