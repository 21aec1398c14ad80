"""``python -m loadtests.micro.triton_call``: CPU microseconds of the caller's process for a call of a real Triton.

Starts the tests' Triton and itself once for each kind. ``--peers PYTHON`` names an interpreter with
``tritonclient[grpc]`` and uvloop for those that need it: they send ready-made tensors, our own kinds read a client's
body and write one.
"""

import argparse
import asyncio
import json
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROW = (0.1, 2.0, 3.0, 4.0)
PEERS = ("grpc.aio, raw bytes", "grpc.aio, stubs", "tritonclient.grpc.aio")
OWN = ("own, http", "own, http binary", "own, grpc", "own, grpc binary")
CALLS, CALLERS, RUNS, WARM_UP = 1600, 16, 3, 20

One = Callable[[], Awaitable[Any]]


def message() -> Any:
    from tritonclient.grpc import service_pb2  # type: ignore[import-not-found,unused-ignore]

    made = service_pb2.ModelInferRequest(model_name="scale", model_version="3")
    tensor = made.inputs.add()
    tensor.name, tensor.datatype = "x", "FP32"
    tensor.shape.extend([1, 4])
    made.raw_input_contents.append(struct.pack("<4f", *ROW))
    return made


def peer(kind: str, target: str) -> One:
    if kind == PEERS[2]:
        import numpy as np
        import tritonclient.grpc.aio as triton  # type: ignore[import-not-found,unused-ignore]

        client, row = triton.InferenceServerClient(target), np.array([ROW], np.float32)

        async def one() -> Any:
            tensor = triton.InferInput("x", [1, 4], "FP32")
            tensor.set_data_from_numpy(row)
            return (await client.infer("scale", [tensor], model_version="3")).as_numpy("y")

        return one
    import grpc  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from tritonclient.grpc import service_pb2_grpc  # type: ignore[import-not-found,unused-ignore]

    channel = grpc.aio.insecure_channel(target)
    if kind == PEERS[0]:
        body, call = message().SerializeToString(), channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        return lambda: call(body, timeout=10)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def stubbed() -> Any:
        return (await stub.ModelInfer(message(), timeout=10)).raw_output_contents[0]

    return stubbed


async def own(kind: str, target: str) -> One:
    from gateway.backends.http import HttpBackend
    from gateway.protocol.request import InferRequest, read_request

    tensor: dict[str, Any] = {"name": "x", "shape": [1, 4], "datatype": "FP32"}
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": 16}}], "parameters": {"binary_data_output": True}}
    text, length = json.dumps({"inputs": [{**tensor, "data": ROW}]}).encode(), None
    if kind.endswith("binary"):
        text, length = json.dumps(head).encode(), len(json.dumps(head))
        text += struct.pack("<4f", *ROW)

    class Call:
        request_id, via, may_repeat, header_length = "5f0c9a3e7b6d4c21", "1.1 turnout-7f3a9c21", True, length
        body = text

        def __init__(self) -> None:
            self._request: InferRequest | None = None

        def request(self) -> InferRequest:
            if self._request is None:
                self._request = read_request(text, length)
            return self._request

    made = HttpBackend([target], "scale", "3", public_model="m", public_version="v", holds_to_version=True)
    await made.open()
    loop = asyncio.get_running_loop()

    async def one() -> Any:
        answered: asyncio.Future[Any] = loop.create_future()
        made.submit(Call(), loop.time() + 10, answered.set_result)
        reply = await answered
        assert reply.status == 200, reply.body
        return reply

    return one


async def measure(kind: str, target: str) -> None:
    one = await own(kind, target) if kind in OWN else peer(kind, target)

    async def caller(calls: int) -> None:
        for _ in range(calls):
            await one()

    async def run(calls: int) -> float:
        begin = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.gather(*(caller(calls) for _ in range(CALLERS)))
        end = resource.getrusage(resource.RUSAGE_SELF)
        return (end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime) / (calls * CALLERS) * 1e6

    await run(WARM_UP)
    begin_s = time.monotonic()
    found = [await run(CALLS // CALLERS) for _ in range(RUNS)]
    rate = RUNS * CALLS / (time.monotonic() - begin_s)
    said = f"{statistics.median(found):6.0f} us ({min(found):.0f} to {max(found):.0f})"
    print(f"{kind:24} {said}, {rate:.0f} calls/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", nargs="?")
    parser.add_argument("target", nargs="?")
    parser.add_argument("--peers")
    wanted = parser.parse_args()
    if wanted.kind:
        import uvloop

        uvloop.run(measure(wanted.kind, wanted.target))
        return
    from tests.triton_server import TritonServer

    folder = Path(tempfile.mkdtemp(prefix="turnout-triton-"))
    with TritonServer(folder / "triton", "scale", (3,), instances=2) as triton:
        for kind in PEERS if wanted.peers else ():
            subprocess.run([wanted.peers, __file__, kind, triton.grpc_url.removeprefix("grpc://")], check=False)
        for kind in OWN:
            target = triton.grpc_url if "grpc" in kind else triton.url
            subprocess.run([sys.executable, "-m", "loadtests.micro.triton_call", kind, target], check=False)


if __name__ == "__main__":
    main()
