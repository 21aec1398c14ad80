"""What a version has done since it was opened, in the terms of the protocol's statistics extension."""

import time
from time import perf_counter
from typing import Any

NS = 1_000_000_000


class Statistics:
    """Counts and times of one version. Written by one loop, only ever grows.

    Attributes:
        rows: Instances answered; a request whose rows are not known counts as one.
        requests: Requests answered.
        executions: Runs of the model for them; one run may answer several requests.
        others: Requests answered elsewhere, each by a run that is known by its time alone; ``others_s`` is their sum.
        last_s: When the last answer came, by ``perf_counter``; 0 before the first.
    """

    __slots__ = (
        "executions",
        "fail",
        "fail_s",
        "input_s",
        "last_s",
        "others",
        "others_s",
        "output_s",
        "queue_s",
        "requests",
        "rows",
        "run_s",
        "whole_s",
    )

    def __init__(self) -> None:
        self.rows = self.requests = self.executions = self.fail = 0
        self.others, self.others_s, self.last_s = 0, 0.0, 0.0
        self.whole_s = self.fail_s = self.queue_s = self.input_s = self.run_s = self.output_s = 0.0

    def answered(
        self,
        whole_s: float,
        *,
        requests: int = 1,
        rows: int = 1,
        queue_s: float = 0.0,
        input_s: float = 0.0,
        output_s: float = 0.0,
    ) -> None:
        """One run of the model answered ``requests`` requests.

        Times are sums over the requests, as each of them saw them; what is left of ``whole_s`` is the run's.
        """
        self.rows += rows
        self.requests += requests
        self.executions += 1
        self.whole_s += whole_s
        self.queue_s += queue_s
        self.input_s += input_s
        self.output_s += output_s
        self.run_s += whole_s - queue_s - input_s - output_s
        self.last_s = perf_counter()

    def failed(self, whole_s: float) -> None:
        """One attempt failed, or was given up."""
        self.fail += 1
        self.fail_s += whole_s

    def as_json(self) -> dict[str, Any]:
        """The extension's form."""
        others, others_s = self.others, self.others_s
        done = self.requests + others
        age_s = perf_counter() - self.last_s
        return {
            "last_inference": round((time.time() - age_s) * 1000) if self.last_s else 0,
            "inference_count": self.rows + others,
            "execution_count": self.executions + others,
            "inference_stats": {
                "success": _duration(done, self.whole_s + others_s),
                "fail": _duration(self.fail, self.fail_s),
                "queue": _duration(done, self.queue_s),
                "compute_input": _duration(done, self.input_s),
                "compute_infer": _duration(done, self.run_s + others_s),
                "compute_output": _duration(done, self.output_s),
                "cache_hit": _duration(0, 0.0),
                "cache_miss": _duration(0, 0.0),
            },
            "response_stats": {},
            "batch_stats": [],
            "memory_usage": [],
        }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": max(0, round(seconds * NS))}
