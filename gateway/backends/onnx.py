"""A version in process on ONNX Runtime: runs inline while they are short, on its own thread when they are long."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

from gateway.backends.base import Call, Reply, State
from gateway.backends.run_time import RunTime
from gateway.errors import BadRequest, error_body
from gateway.protocol.request import InferRequest
from gateway.protocol.shapes import Signature, TensorSpec
from gateway.protocol.tensors import DTYPES, Array, NotFinite, bind, write_answer
from routing.analysis.outcome import Kind

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
MAX_QUEUED = 1024  # runs that wait for the version's thread
WARM_UP_RUNS = 3
INFERENCE_NICE = 10  # of inference threads; the loop's is 0
LOG_FATAL = 4

ort.set_default_logger_severity(LOG_FATAL)  # its C++ side prints coloured lines for every failing run otherwise


class CannotLoad(Exception):
    """A model file that cannot be served; the text is the version's ``reason``."""


def not_before_load() -> Reply:
    """Reply of a version that is not there."""
    return Reply(Kind.UNREACHABLE, 503, error_body("the version is not loaded"))


class OnnxBackend:
    """One model file.

    Args:
        inline: Whether short runs may be on the loop; not those of a shadow.

    Attributes:
        note: What an operator should know of a version that is ready, such as a device it did not get.
        in_flight: Runs on the thread or waiting for it.
    """

    def __init__(
        self, file: Path, model: str, version: str, *, device: str = "cpu", threads: int = 1, inline: bool = True
    ) -> None:
        self._file = file
        self._inline = inline
        self._device = device
        self._threads = threads
        self._head = orjson.dumps({"model_name": model, "model_version": version})[:-1]
        self._session: Any = None
        self._dims: dict[str, Sequence[str | int]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._run_time = RunTime()
        self.state = State.LOADING
        self.reason = "the model is being loaded"
        self.note = ""
        self.signature: Signature | None = None
        self.in_flight = 0

    async def open(self) -> None:
        """Load the file and warm it up, off the loop."""
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1, f"onnx-{self._file.parent.name}", initializer=give_way_to_the_loop)
        try:
            await loop.run_in_executor(executor, self._load)
        except CannotLoad as error:
            executor.shutdown(wait=False)
            self.state, self.reason = State.FAILED, str(error)
            return
        if self.state is State.CLOSED:
            executor.shutdown(wait=False)
            return
        self._executor = executor
        self.state, self.reason = State.READY, ""

    async def close(self) -> None:
        """Let queued runs end and give back the thread and the session."""
        self.state, self.reason = State.CLOSED, "the version was unloaded"
        if self._executor is not None:
            executor, self._executor = self._executor, None
            await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)
        self._session = None

    def submit(self, call: Call, deadline_s: float, on_reply: Callable[[Reply], None]) -> Callable[[], None]:
        """Run the model on the call's tensors; inline when the estimate of the run is short."""
        if self.state is not State.READY or self._executor is None or self.signature is None:
            on_reply(not_before_load())
            return _nothing
        try:
            request = call.request()
        except BadRequest as error:
            on_reply(Reply(Kind.MALFORMED, 400, error_body(str(error)), detail=str(error)))
            return _nothing
        try:
            feeds = bind(request, self.signature, self._dims)
        except BadRequest as error:
            on_reply(Reply(Kind.REJECTED, 400, error_body(str(error)), detail=str(error)))
            return _nothing
        rows = _rows(feeds)
        if self._inline and self._run_time.is_short(rows):
            reply, run_s = self._run(feeds, request)
            self._run_time.observe(run_s, rows)
            on_reply(reply)
            return _nothing
        if self.in_flight >= MAX_QUEUED:
            sentence = f"{MAX_QUEUED} requests already wait for this version"
            on_reply(Reply(Kind.OVERLOADED, 503, error_body(sentence), detail=sentence))
            return _nothing
        job = _Job(self, feeds, request, rows, deadline_s, on_reply)
        self._executor.submit(job.run)
        return job.cancel

    def _load(self) -> None:
        if not self._file.is_file():
            raise CannotLoad(f"there is no model file at {self._file}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_FATAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = PROVIDERS[self._device]
        try:
            session = ort.InferenceSession(str(self._file), options, providers=providers)
        except Exception as error:  # ONNX Runtime has no base class of its own for what a file can be
            raise CannotLoad(f"{self._file} cannot be loaded: {_first_line(error)}") from error
        if self._device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
            self.note = (
                "asked for cuda and runs on cpu: ONNX Runtime found no usable CUDA (driver, CUDA and cuDNN libraries)"
            )
        inputs = tuple(_spec(node) for node in session.get_inputs())
        outputs = tuple(_spec(node) for node in session.get_outputs())
        self._dims = {node.name: tuple(node.shape) for node in session.get_inputs()}
        self.signature = Signature("onnxruntime_onnx", inputs, outputs)
        self._session = session
        self._warm_up(inputs)

    def _warm_up(self, inputs: Sequence[TensorSpec]) -> None:
        feeds = {spec.name: _blank(spec) for spec in inputs}
        for run in range(WARM_UP_RUNS):
            begin = perf_counter()
            try:
                self._session.run(None, feeds)
            except Exception:  # a model may refuse blank rows; it is judged by real ones
                return
            if run:
                self._run_time.observe(perf_counter() - begin, 1)

    def _run(self, feeds: dict[str, Array], request: InferRequest) -> tuple[Reply, float]:
        """Run and answer; on the loop or on the thread. Gives the reply and the seconds of the run."""
        begin = perf_counter()
        reply = self._answer(feeds, request)
        return reply, perf_counter() - begin

    def _answer(self, feeds: dict[str, Array], request: InferRequest) -> Reply:
        assert self.signature is not None
        specs = self.signature.outputs
        if request.outputs is not None:
            by_name = {spec.name: spec for spec in specs}
            specs = tuple(by_name[name] for name in request.outputs)
        try:
            values = self._session.run([spec.name for spec in specs], feeds)
        except Exception as error:  # whatever a model's operators raise
            return _failed_run(error, feeds)
        outputs = list(zip(specs, values, strict=True))
        if problem := _broken_promise(outputs):
            return Reply(Kind.CONTRACT, 500, error_body(problem), detail=problem)
        try:
            body = write_answer(self._head, request.id, outputs, allow_nan=request.allow_nan)
        except NotFinite as error:
            return Reply(Kind.CONTRACT, 500, error_body(str(error)), detail=str(error))
        return Reply(Kind.OK, 200, body, is_checked=True)


class _Job:
    """One run on the version's thread."""

    __slots__ = ("_backend", "_deadline_s", "_feeds", "_loop", "_on_reply", "_request", "_rows", "_run_s", "cancelled")

    def __init__(
        self,
        backend: OnnxBackend,
        feeds: dict[str, Array],
        request: InferRequest,
        rows: int,
        deadline_s: float,
        on_reply: Callable[[Reply], None],
    ) -> None:
        self._backend = backend
        self._feeds = feeds
        self._request = request
        self._rows = rows
        self._deadline_s = deadline_s
        self._on_reply = on_reply
        self._loop = asyncio.get_running_loop()
        self._run_s: float | None = None
        self.cancelled = False
        backend.in_flight += 1

    def run(self) -> None:
        """On the thread: work that nobody waits for any more is dropped before it is begun."""
        if self.cancelled:
            reply = Reply(Kind.CANCELLED, 499, b"")
        elif self._loop.time() > self._deadline_s:
            reply = Reply(Kind.TIMEOUT, 504, error_body("the request waited for the version beyond its deadline"))
        else:
            reply, self._run_s = self._backend._run(self._feeds, self._request)
        self._loop.call_soon_threadsafe(self._finish, reply)

    def _finish(self, reply: Reply) -> None:
        self._backend.in_flight -= 1
        if self._run_s is not None:
            self._backend._run_time.observe(self._run_s, self._rows)
        if not self.cancelled:
            self._on_reply(reply)

    def cancel(self) -> None:
        """Give the run up; one that has begun runs to its end unheard."""
        self.cancelled = True


def give_way_to_the_loop() -> None:
    """Let the loop's thread run first where cores are short: other work must not delay requests."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), INFERENCE_NICE)


def _nothing() -> None:
    return


def _spec(node: Any) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise CannotLoad(f"tensor {node.name!r} has type {node.type}, which the protocol cannot carry")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, datatype, shape)


def _blank(spec: TensorSpec) -> Array:
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, "", dtype=np.object_)
    return np.zeros(shape, dtype=DTYPES[spec.datatype])


def _rows(feeds: dict[str, Array]) -> int:
    return max((array.shape[0] for array in feeds.values() if array.ndim), default=1)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def _failed_run(error: Exception, feeds: dict[str, Array]) -> Reply:
    if not all(array.size for array in feeds.values()):
        sentence = "this version does not take an empty batch"
        return Reply(Kind.REJECTED, 400, error_body(sentence), detail=sentence)
    sentence = f"the model failed: {_first_line(error)}"
    return Reply(Kind.ERROR, 500, error_body(sentence), detail=sentence)


def _broken_promise(outputs: Sequence[tuple[TensorSpec, Array]]) -> str:
    for spec, value in outputs:
        array = np.asarray(value)
        if not spec.admits(array.shape):
            return f"output {spec.name!r} has shape {list(array.shape)}, {list(spec.shape)} was promised"
        if spec.datatype == "FP16":
            return f"output {spec.name!r} is FP16, which has no JSON form: ask for other outputs"
    return ""
