"""What clients saw, request by request, and its summary by version."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

FAILED_OVER = "2"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request and its answer. Times are seconds since the start of the traffic.

    Attributes:
        scheduled_s: When it was due. For a closed user, when it was sent.
        sent_s: When it was sent.
        done_s: When the last byte of the answer had come.
        gateway: Index of the gateway that was asked.
        key: The customer.
        status: HTTP status; 0 when there was no answer.
        version: ``x-turnout-version``, empty when it was missing; ``role``, ``attempts`` and ``revision`` alike.
        problem: What was wrong with the answer; empty when nothing was.
    """

    model: str
    scheduled_s: float
    sent_s: float
    done_s: float
    gateway: int
    key: str
    status: int
    version: str
    role: str
    attempts: str
    revision: str
    problem: str

    @property
    def latency_s(self) -> float:
        """From the time it was due: a sender that was late does not hide what clients would have waited."""
        return self.done_s - self.scheduled_s

    @property
    def failed_over(self) -> bool:
        """Whether a canary was asked first, and stable answered."""
        return self.attempts == FAILED_OVER


class Collector:
    """Keeps every sample."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Keep one."""
        self.samples.append(sample)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all values do not exceed (nearest rank); NaN when there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of the table: the requests that one version of a model answered."""

    model: str
    version: str
    requests: int
    errors: int
    failed_over: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def summaries(samples: Iterable[Sample]) -> list[Summary]:
    """One summary for each model and version, in order; requests without a version under ``-``."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.model, sample.version or "-"), []).append(sample)
    return [_summary(model, version, group) for (model, version), group in sorted(groups.items())]


def _summary(model: str, version: str, group: Sequence[Sample]) -> Summary:
    took_ms = [sample.latency_s * 1000 for sample in group]
    return Summary(
        model,
        version,
        len(group),
        sum(bool(sample.problem) for sample in group),
        sum(sample.failed_over for sample in group),
        percentile(took_ms, 0.5),
        percentile(took_ms, 0.99),
        max(took_ms),
    )


def problems(samples: Iterable[Sample]) -> list[str]:
    """All problems, in the order of the answers."""
    return [f"{s.model} {s.key}: {s.problem}" for s in samples if s.problem]


NAMES = tuple(field.name for field in fields(Sample))


def as_columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """Plain data, one list for each field; times to a microsecond."""
    return {
        name: [round(v, 6) if isinstance(v := getattr(sample, name), float) else v for sample in samples]
        for name in NAMES
    }


def from_columns(columns: dict[str, list[Any]]) -> list[Sample]:
    """Inverse of ``as_columns``."""
    return [Sample(*row) for row in zip(*(columns[name] for name in NAMES), strict=True)]
