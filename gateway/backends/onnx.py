"""A version in process on ONNX Runtime: loads it, reads requests for it, and hands them to its batcher."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import perf_counter

from gateway.backends.base import Call, Reply, State
from gateway.backends.batching import MAX_QUEUED, Batcher
from gateway.backends.jobs import Job
from gateway.backends.onnx_model import OnnxModel
from gateway.backends.onnx_session import CannotLoad, OnnxSession
from gateway.backends.run_time import RunTime
from gateway.backends.statistics import Statistics
from gateway.errors import BadRequest, error_body
from gateway.protocol.shapes import Signature
from routing.analysis.outcome import Kind

INFERENCE_NICE = 10  # of inference and loading threads; the loop's is 0
_READY = State.READY  # a member of an enum is looked up by Python code each time
LOADERS = 2  # versions that are loaded at a time


def not_before_load() -> Reply:
    """Reply of a version that is not there."""
    return Reply(Kind.UNREACHABLE, 503, error_body("the version is not loaded"))


class OnnxBackend:
    """One model file.

    Args:
        batching: Whether requests may share a run.
        inline: Whether short runs may be on the loop; not those of a shadow.
        loaders: Threads that load versions; ``None`` for one of its own while it loads.
        bound: Whether runs use IO binding; ``None``: where the session has got CUDA.

    Attributes:
        engine: What runs it, for its configuration.
        statistics: What it has done.
    """

    engine = "onnxruntime"

    def __init__(
        self,
        file: Path,
        model: str,
        version: str,
        *,
        device: str = "cpu",
        threads: int = 1,
        batching: bool = True,
        inline: bool = True,
        loaders: Executor | None = None,
        bound: bool | None = None,
    ) -> None:
        self._file = file
        self._names = model, version
        self._batching = batching
        self._inline = inline
        self._device = device
        self._threads = threads
        self._bound = bound
        self._loaders = loaders
        self._model: OnnxModel | None = None
        self._batcher: Batcher | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._run_time = RunTime()
        self.state = State.LOADING
        self.reason = "the model is being loaded"
        self.statistics = Statistics()

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return self._batcher.in_flight if self._batcher else 0

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
        loaders = self._loaders or loading_threads(1)
        try:
            session, model = await loop.run_in_executor(loaders, self._load)
        except CannotLoad as error:
            self.state, self.reason = State.FAILED, str(error)
            return
        finally:
            if self._loaders is None:
                loaders.shutdown(wait=False)
        if self.state is State.CLOSED:
            return
        inline = self._inline and not session.on_cuda
        self._model = model
        self._batcher = Batcher(model, self._run_time, self.statistics, inline=inline, thread=self._thread)
        self.state, self.reason = State.READY, ""

    async def close(self) -> None:
        """Let queued runs end and give back the thread and the session."""
        self.state, self.reason = State.CLOSED, "the version was unloaded"
        if self._batcher is not None:
            await self._batcher.close()
        if self._executor is not None:
            executor, self._executor = self._executor, None
            await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)
        self._batcher = self._model = None

    def submit(self, call: Call, deadline_s: float, on_reply: Callable[[Reply], None]) -> Callable[[], None]:
        """Run the model on the call's tensors, with others that come at the same time where the model allows it."""
        model, batcher = self._model, self._batcher
        if self.state is not _READY or batcher is None or model is None:
            on_reply(not_before_load())
            return _nothing
        begin_s = perf_counter()
        try:
            request = call.request()
        except BadRequest as error:
            on_reply(Reply(Kind.MALFORMED, 400, error_body(str(error)), detail=str(error)))
            return _nothing
        try:
            fit, values = model.bind(request)
        except BadRequest as error:
            on_reply(Reply(Kind.REJECTED, 400, error_body(str(error)), detail=str(error)))
            return _nothing
        job = Job(request, fit, values, fit.company if model.takes_batches else None, begin_s, deadline_s, on_reply)
        if batcher.submit(job):
            return job.cancel
        sentence = f"{MAX_QUEUED} requests already wait for this version"
        on_reply(Reply(Kind.OVERLOADED, 503, error_body(sentence), detail=sentence))
        return _nothing

    def _load(self) -> tuple[OnnxSession, OnnxModel]:
        session = OnnxSession(self._file, device=self._device, threads=self._threads, bound=self._bound)
        model = OnnxModel(session, *self._names, batching=self._batching)
        model.warm_up(self._run_time)
        return session, model

    def _thread(self) -> Executor:
        """The version's thread, made when its first long run comes."""
        if self._executor is None:
            name = f"onnx-{self._file.parent.name}"
            self._executor = ThreadPoolExecutor(1, name, initializer=give_way_to_the_loop)
        return self._executor


def loading_threads(threads: int = LOADERS) -> ThreadPoolExecutor:
    """Threads that load versions, shared by all of a worker."""
    return ThreadPoolExecutor(threads, "onnx-load", initializer=give_way_to_the_loop)


def give_way_to_the_loop() -> None:
    """Let the loop's thread run first where cores are short: other work must not delay requests."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), INFERENCE_NICE)


def _nothing() -> None:
    return
