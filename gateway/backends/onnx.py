"""A version in process on ONNX Runtime: runs inline while they are short, on its own thread when they are long."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import perf_counter

from gateway.backends.base import Call, Reply, State
from gateway.backends.onnx_model import CannotLoad, OnnxModel
from gateway.backends.run_time import RunTime
from gateway.backends.statistics import Statistics
from gateway.errors import BadRequest, error_body
from gateway.protocol.request import InferRequest
from gateway.protocol.shapes import Signature
from gateway.protocol.tensors import Array
from routing.analysis.outcome import Kind

log = logging.getLogger("turnout.backends")

MAX_QUEUED = 1024  # runs that wait for the version's thread
INFERENCE_NICE = 10  # of inference threads; the loop's is 0


def not_before_load() -> Reply:
    """Reply of a version that is not there."""
    return Reply(Kind.UNREACHABLE, 503, error_body("the version is not loaded"))


class OnnxBackend:
    """One model file.

    Args:
        inline: Whether short runs may be on the loop; not those of a shadow.

    Attributes:
        engine: What runs it, for its configuration.
        in_flight: Runs on the thread or waiting for it.
        statistics: What it has done.
    """

    engine = "onnxruntime"

    def __init__(
        self, file: Path, model: str, version: str, *, device: str = "cpu", threads: int = 1, inline: bool = True
    ) -> None:
        self._file = file
        self._names = model, version
        self._inline = inline
        self._device = device
        self._threads = threads
        self._model: OnnxModel | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._run_time = RunTime()
        self.state = State.LOADING
        self.reason = "the model is being loaded"
        self.in_flight = 0
        self.statistics = Statistics()

    @property
    def note(self) -> str:
        """What an operator should know of a version that is ready, such as a device it did not get."""
        return self._model.note if self._model else ""

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs, known once it was loaded."""
        return self._model.signature if self._model else None

    @property
    def public_reason(self) -> str:
        """Why it is not ready, without the folder of the model repository."""
        return self.reason.replace(str(self._file), "/".join(self._file.parts[-3:]))

    async def open(self) -> None:
        """Load the file and warm it up, off the loop."""
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1, f"onnx-{self._file.parent.name}", initializer=give_way_to_the_loop)
        try:
            model = await loop.run_in_executor(executor, self._load)
        except CannotLoad as error:
            executor.shutdown(wait=False)
            self.state, self.reason = State.FAILED, str(error)
            return
        if self.state is State.CLOSED:
            executor.shutdown(wait=False)
            return
        self._model, self._executor = model, executor
        self.state, self.reason = State.READY, ""

    async def close(self) -> None:
        """Let queued runs end and give back the thread and the session."""
        self.state, self.reason = State.CLOSED, "the version was unloaded"
        if self._executor is not None:
            executor, self._executor = self._executor, None
            await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)
        self._model = None

    def submit(self, call: Call, deadline_s: float, on_reply: Callable[[Reply], None]) -> Callable[[], None]:
        """Run the model on the call's tensors; inline when the estimate of the run is short."""
        model = self._model
        if self.state is not State.READY or self._executor is None or model is None:
            on_reply(not_before_load())
            return _nothing
        begin_s = perf_counter()
        try:
            request = call.request()
        except BadRequest as error:
            on_reply(Reply(Kind.MALFORMED, 400, error_body(str(error)), detail=str(error)))
            return _nothing
        try:
            feeds = model.bind(request)
        except BadRequest as error:
            on_reply(Reply(Kind.REJECTED, 400, error_body(str(error)), detail=str(error)))
            return _nothing
        run = _Run(model, feeds, request, begin_s)
        if self._inline and self._run_time.is_short(run.rows):
            run.do()
            self._note(run)
            on_reply(run.reply)
            return _nothing
        if self.in_flight >= MAX_QUEUED:
            sentence = f"{MAX_QUEUED} requests already wait for this version"
            on_reply(Reply(Kind.OVERLOADED, 503, error_body(sentence), detail=sentence))
            return _nothing
        job = _Job(self, run, deadline_s, on_reply)
        self._executor.submit(job.do)
        return job.cancel

    def _load(self) -> OnnxModel:
        model = OnnxModel(self._file, *self._names, device=self._device, threads=self._threads)
        model.warm_up(self._run_time)
        return model

    def _note(self, run: "_Run") -> None:
        """Take in how a run went; on the loop."""
        if run.run_s:
            self._run_time.observe(run.run_s, run.rows)
        whole_s = run.input_s + run.queue_s + run.run_s
        if run.reply.kind is Kind.OK:
            self.statistics.answered(
                whole_s, rows=run.rows, queue_s=run.queue_s, input_s=run.input_s, output_s=run.output_s
            )
        elif run.reply.kind is not Kind.REJECTED:
            self.statistics.failed(whole_s)


class _Run:
    """One run of a model and where its time went, in seconds; ``run_s`` holds ``output_s``."""

    __slots__ = (
        "_feeds",
        "_model",
        "_request",
        "_submitted_s",
        "input_s",
        "output_s",
        "queue_s",
        "reply",
        "rows",
        "run_s",
    )

    def __init__(self, model: OnnxModel, feeds: dict[str, Array], request: InferRequest, begin_s: float) -> None:
        self._model = model
        self._feeds = feeds
        self._request = request
        self._submitted_s = perf_counter()
        self.input_s = self._submitted_s - begin_s
        self.queue_s = self.run_s = self.output_s = 0.0
        self.rows = _rows(feeds)
        self.reply = Reply(Kind.CANCELLED, 499, b"")

    def do(self) -> None:
        begin_s = perf_counter()
        self.queue_s = begin_s - self._submitted_s
        self.reply, self.output_s = self._model.run(self._feeds, self._request)
        self.run_s = perf_counter() - begin_s

    def do_or_break(self) -> None:
        """As ``do``, where nobody above would see an exception."""
        try:
            self.do()
        except Exception as error:  # the top of a thread's work: the request must end, and the bug be seen
            log.exception("a run broke")
            self.reply = Reply(Kind.INTERNAL, 500, error_body("internal error of the gateway"), detail=repr(error))

    def drop(self) -> None:
        """It waited too long."""
        self.queue_s = perf_counter() - self._submitted_s
        self.reply = Reply(Kind.TIMEOUT, 504, error_body("the request waited for the version beyond its deadline"))


class _Job:
    """One run on the version's thread."""

    __slots__ = ("_backend", "_deadline_s", "_loop", "_on_reply", "_run", "cancelled")

    def __init__(self, backend: OnnxBackend, run: _Run, deadline_s: float, on_reply: Callable[[Reply], None]) -> None:
        self._backend = backend
        self._run = run
        self._deadline_s = deadline_s
        self._on_reply = on_reply
        self._loop = asyncio.get_running_loop()
        self.cancelled = False
        backend.in_flight += 1

    def do(self) -> None:
        """On the thread: work that nobody waits for any more is dropped before it is begun."""
        if not self.cancelled:
            if self._loop.time() > self._deadline_s:
                self._run.drop()
            else:
                self._run.do_or_break()
        self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        self._backend.in_flight -= 1
        self._backend._note(self._run)
        if not self.cancelled:
            self._on_reply(self._run.reply)

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


def _rows(feeds: dict[str, Array]) -> int:
    return max((array.shape[0] for array in feeds.values() if array.ndim), default=1)
