"""Requests of one version that run together: those of one turn of the loop, or those that wait for its thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from time import monotonic, perf_counter

from gateway.backends.base import Reply
from gateway.backends.jobs import Batch, Job, Lane
from gateway.backends.onnx_model import OnnxModel
from gateway.backends.run_time import INLINE_LIMIT_S, RunTime
from gateway.backends.statistics import Statistics
from gateway.errors import error_body
from routing.analysis.outcome import Kind

MAX_QUEUED = 1024  # requests that wait for one version's turn, or for its thread; as many may have been given up

_OK = Kind.OK  # a member of an enum is looked up by Python code each time


class Batcher:
    """Runs one version's requests; belongs to one loop.

    The first request of a turn of the loop schedules one flush, which finds all that the same turn has brought. Runs
    that are too long for the loop go one after another to the version's thread, where requests queue meanwhile. Nothing
    waits for company: a request that is alone runs alone.

    Args:
        model: What runs them.
        run_time: How long that took lately.
        statistics: What it has done.
        inline: Whether short runs may be on the loop.
        thread: Gives the version's thread, made when it is first needed.
    """

    def __init__(
        self,
        model: OnnxModel,
        run_time: RunTime,
        statistics: Statistics,
        *,
        inline: bool,
        thread: Callable[[], Executor],
    ) -> None:
        self._model = model
        self._run_time = run_time
        self._statistics = statistics
        self._inline = inline
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._turn = Lane()
        self._long = Lane()
        self._idle: asyncio.Future[None] | None = None

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return self._turn.live + self._long.live

    def submit(self, job: Job) -> bool:
        """Take a request on; false when too many wait already."""
        is_short = self._inline and job.rows <= self._run_time.inline_rows
        lane = self._turn if is_short else self._long
        if lane.live >= MAX_QUEUED:
            return False
        if lane.queue.count >= 2 * MAX_QUEUED:
            lane.queue.forget_over()
        job.enter(lane)
        if not lane.is_scheduled:
            lane.is_scheduled = True
            self._loop.call_soon(self._flush if is_short else self._feed)
        return True

    async def close(self) -> None:
        """Return when nothing waits or runs any more."""
        if self._turn.is_scheduled or self._long.is_scheduled:
            self._idle = self._loop.create_future()
            await self._idle

    def _flush(self) -> None:
        """Run what this turn of the loop has brought; what takes too long goes on in the next."""
        lane, begin_s = self._turn, perf_counter()
        while lane.queue.count and self._run_time.inline_rows:
            batch = self._take(lane, self._run_time.next_turn_rows())
            if batch is None:
                break
            batch.run(self._model)
            lane.busy_s += batch.run_s
            self._ended(batch)
            if perf_counter() - begin_s > INLINE_LIMIT_S and lane.queue.count:
                self._loop.call_soon(self._flush)
                return
        lane.is_scheduled = False
        if lane.queue.count:  # runs have become long: what still waits for the loop waits for the thread instead
            for job in lane.queue.drain():
                job.enter(self._long)
            self._feed()
        self._tell_idle()

    def _feed(self) -> None:
        """Give the thread its next batch, if it has none."""
        lane = self._long
        if lane.begun_s is not None:
            return
        batch = self._take(lane, self._run_time.next_batch_rows())
        lane.is_scheduled = batch is not None  # the end of this batch will look into the queue
        if batch is None:
            self._tell_idle()
            return
        lane.begun_s = perf_counter()
        self._thread().submit(self._on_thread, batch)

    def _on_thread(self, batch: Batch) -> None:
        batch.run(self._model)
        self._loop.call_soon_threadsafe(self._thread_ended, batch)

    def _thread_ended(self, batch: Batch) -> None:
        self._long.begun_s = None
        self._long.busy_s += batch.run_s
        if batch.replies:
            self._feed()  # before the answers go out: the thread need not wait for that
            self._ended(batch)
        else:
            self._ended(batch)
            self._feed()

    def _take(self, lane: Lane, rows: int) -> Batch | None:
        jobs, late = lane.queue.take(rows, monotonic())
        for job in late:
            self._statistics.failed(job.input_s + perf_counter() - job.submitted_s)
            sentence = "the request waited for the version beyond its deadline"
            job.end(Reply(Kind.TIMEOUT, 504, error_body(sentence), detail=sentence))
        return Batch(jobs, lane.busy_s) if jobs else None

    def _ended(self, batch: Batch) -> None:
        """Take in how a batch went, and answer; where it failed as a whole, each goes back to be run alone."""
        if not batch.replies:
            self._model.doubt_batches()
            for job in batch.jobs:
                if not job.is_over:
                    job.company, job.failed_together = None, True
                    assert job.lane is not None
                    job.lane.queue.add(job)
            return
        if not batch.is_proof:
            self._run_time.observe(batch.run_s, batch.rows)
        self._count(batch)
        for job, reply in zip(batch.jobs, batch.replies, strict=True):
            if not job.is_over:
                job.end(reply)

    def _count(self, batch: Batch) -> None:
        """Into the statistics; and tell each reply what of its time was the version's own."""
        run_s, begin_s, busy_s, good, rows = batch.run_s, batch.begin_s, batch.busy_s, 0, 0
        whole_s = queue_s = input_s = 0.0
        for job, reply in zip(batch.jobs, batch.replies, strict=True):
            waited_s = begin_s - job.submitted_s
            reply.own_s = job.input_s + run_s
            if busy_s > job.busy_s:
                reply.own_s += busy_s - job.busy_s
            if reply.kind is _OK:
                good += 1
                rows += job.rows
                queue_s += waited_s
                input_s += job.input_s
            elif reply.kind is not Kind.REJECTED:
                self._statistics.failed(job.input_s + waited_s + run_s)
                if job.failed_together:
                    self._model.trust_batches()
        if good:
            whole_s = input_s + queue_s + run_s * good
            output_s = batch.output_s * good
            self._statistics.answered(
                whole_s, requests=good, rows=rows, queue_s=queue_s, input_s=input_s, output_s=output_s
            )

    def _tell_idle(self) -> None:
        is_idle = not self._turn.is_scheduled and not self._long.is_scheduled
        if is_idle and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
