"""Requests that wait for a run, and the run that answers several of them."""

import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from time import perf_counter

from gateway.backends.base import Reply
from gateway.backends.onnx_model import CannotRunTogether, OnnxModel, Values
from gateway.errors import error_body
from gateway.protocol.form import Form, InferRequest
from gateway.protocol.tensors import Fit
from routing.analysis.outcome import Kind

log = logging.getLogger("turnout.backends")


class Lane:
    """Where jobs wait: for the loop's turn, or for the version's thread.

    Attributes:
        queue: Those that wait.
        live: How many wait or run and were not given up.
        busy_s: How long runs of this lane have taken, all of them together.
        begun_s: When the run in progress began; ``None`` while there is none.
        is_scheduled: Somebody will look into the queue.
    """

    __slots__ = ("begun_s", "busy_s", "is_scheduled", "live", "queue")

    def __init__(self) -> None:
        self.queue = JobQueue()
        self.live = 0
        self.busy_s = 0.0
        self.begun_s: float | None = None
        self.is_scheduled = False


class Job:
    """One request on its way through a run.

    Attributes:
        fit: How it fits the version.
        values: Of its inputs.
        company: Jobs with equal values may share a run; ``None`` must be alone.
        input_s: How long it took to read it.
        submitted_s: When it was read.
        busy_s: The lane's ``busy_s`` at that time, with the part that was done of the run in progress.
        failed_together: It was in a run that failed for all.
        is_over: It was answered or given up.
    """

    __slots__ = (
        "busy_s",
        "company",
        "deadline_s",
        "failed_together",
        "fit",
        "input_s",
        "is_over",
        "lane",
        "on_reply",
        "request",
        "rows",
        "submitted_s",
        "values",
    )

    def __init__(
        self,
        request: InferRequest,
        fit: Fit,
        values: Values,
        company: Hashable,
        begin_s: float,
        deadline_s: float,
        on_reply: Callable[[Reply], None],
    ) -> None:
        self.request = request
        self.fit = fit
        self.values = values
        self.rows = fit.rows
        self.company = company
        self.deadline_s = deadline_s
        self.on_reply = on_reply
        self.submitted_s = perf_counter()
        self.input_s = self.submitted_s - begin_s
        self.busy_s = 0.0
        self.failed_together = False
        self.is_over = False
        self.lane: Lane | None = None

    def enter(self, lane: Lane) -> None:
        """Begin to wait."""
        if self.lane is not None:
            self.lane.live -= 1
        self.lane = lane
        self.busy_s = lane.busy_s if lane.begun_s is None else lane.busy_s + self.submitted_s - lane.begun_s
        lane.live += 1
        lane.queue.add(self)

    def end(self, reply: Reply) -> None:
        """Answer, unless it was given up."""
        if self.is_over:
            return
        self.is_over = True
        if self.lane is not None:
            self.lane.live -= 1
        try:
            self.on_reply(reply)
        except Exception:  # the top of this request's part of a shared run: the others must get theirs
            log.exception("an answer could not be given out")

    def cancel(self) -> None:
        """Give the job up, and what it holds; a run that has begun goes on unheard."""
        if not self.is_over:
            self.is_over = True
            if self.lane is not None:
                self.lane.live -= 1
            self.values, self.request, self.on_reply = [], NOTHING, _unheard


class JobQueue:
    """Jobs by company, the longest waiting first.

    Attributes:
        count: Jobs in it, those that were given up included.
    """

    __slots__ = ("_by_company", "count")

    def __init__(self) -> None:
        self._by_company: dict[Hashable, deque[Job]] = {}
        self.count = 0

    def add(self, job: Job) -> None:
        """Put a job at the end."""
        waiting = self._by_company.get(job.company)
        if waiting is None:
            waiting = self._by_company[job.company] = deque()
        waiting.append(job)
        self.count += 1

    def take(self, rows: int, now_s: float) -> tuple[list[Job], list[Job]]:
        """Take the job that has waited longest, and its company up to ``rows`` rows together.

        Returns:
            Jobs to run together, and those found on the way whose deadline has passed.
        """
        jobs: list[Job] = []
        late: list[Job] = []
        taken = 0
        while self._by_company and not jobs:
            company, waiting = self._longest_waiting()
            while waiting:
                job = waiting[0]
                if job.is_over:
                    pass
                elif now_s > job.deadline_s:
                    late.append(job)
                elif jobs and (company is None or taken + job.rows > rows):
                    break
                else:
                    jobs.append(job)
                    taken += job.rows
                waiting.popleft()
                self.count -= 1
            if not waiting:
                del self._by_company[company]
        return jobs, late

    def drain(self) -> list[Job]:
        """Take all that were not given up."""
        jobs = [job for waiting in self._by_company.values() for job in waiting if not job.is_over]
        self._by_company.clear()
        self.count = 0
        return jobs

    def forget_over(self) -> None:
        """Keep only what was not given up."""
        for job in self.drain():
            self.add(job)

    def _longest_waiting(self) -> tuple[Hashable, deque[Job]]:
        if len(self._by_company) == 1:
            return next(iter(self._by_company.items()))
        return min(self._by_company.items(), key=_waiting_since)


class Batch:
    """Jobs of one run. Made on the loop and run anywhere: it keeps what it runs on, whoever gives a job up meanwhile.

    Attributes:
        busy_s: The lane's ``busy_s`` when the batch left the queue.
        replies: One for each job once it was run; empty when each has to be run alone.
        run_s: How long it took, answers written.
        output_s: How long that writing took.
        is_proof: Some requests were run alone as well, so that ``run_s`` says little.
    """

    __slots__ = (
        "_each",
        "_fits",
        "_requests",
        "begin_s",
        "busy_s",
        "is_proof",
        "jobs",
        "output_s",
        "replies",
        "rows",
        "run_s",
    )

    def __init__(self, jobs: list[Job], busy_s: float) -> None:
        self.jobs = jobs
        self.busy_s = busy_s
        self._fits = [job.fit for job in jobs]
        self._each = [job.values for job in jobs]
        self._requests = [job.request for job in jobs]
        self.rows = sum([job.rows for job in jobs])
        self.is_proof = False
        self.begin_s = self.run_s = self.output_s = 0.0
        self.replies: Sequence[Reply] = ()

    def run(self, model: OnnxModel) -> None:
        """Run and write the answers."""
        self.begin_s = perf_counter()
        try:
            if len(self.jobs) == 1:
                reply, self.output_s = model.run(self._fits[0], self._each[0], self._requests[0])
                self.replies = (reply,)
            else:
                rows = [job.rows for job in self.jobs]
                self.replies, self.output_s, self.is_proof = model.run_together(
                    self._fits, self._each, self._requests, rows
                )
        except CannotRunTogether:
            self.replies = ()
        except Exception as error:  # the top of a thread's work: the requests must end, and the bug be seen
            log.exception("a run broke")
            body = error_body("internal error of the gateway")
            self.replies = [Reply(Kind.INTERNAL, 500, body, detail=repr(error)) for _ in self.jobs]
        self.run_s = perf_counter() - self.begin_s


NOTHING = InferRequest(Form({}, {}, None), None)  # the request of a job that was given up


def _waiting_since(item: tuple[Hashable, deque[Job]]) -> float:
    return item[1][0].submitted_s


def _unheard(_: Reply) -> None:
    return
