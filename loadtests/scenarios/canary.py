"""A canary that breaks while traffic flows: it answers errors, answers late, or does not answer at all."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loadtests.fleet import RevisionWatch, canary_backend, credit_route, fleet, url
from loadtests.options import Options
from loadtests.plan import Open, Plan
from loadtests.result import Promise, Result, at_most, none_of
from loadtests.samples import Sample, percentile
from loadtests.stickiness import moved_within_a_revision
from loadtests.traffic import Traffic
from tests.gateway_process import GatewayProcess, eventually

RATE = 200.0
CANARY_PERCENT = 5
HEALTHY_S = 1.0  # of traffic before the canary breaks
FLIP_TIMEOUT_S = 15.0
SPREAD_MS = 200.0
RECORDED_S = 0.001  # a latch's own time is cut to milliseconds
SWEEP_MARGIN_MS = 50.0
HANG_TIMEOUT_MS = 2_000
SLOW_HITS = 5


@dataclass(frozen=True, slots=True)
class Breakage:
    """How the canary breaks, and what its route promises."""

    mode: str
    delay_ms: float = 0
    slo: Any = None
    timeout_ms: int | None = None


@dataclass(slots=True)
class Course:
    """What happened, on the wall clock.

    Attributes:
        broken_at: The fault was in force.
        document: After the flip.
        seen: When the other gateway first answered with each revision.
        charged: Attempts that each gateway charged the canary with, when the traffic was over.
    """

    result: Result
    begin_at: float
    broken_at: float
    document: Any
    seen: dict[int, float]
    charged: list[int]

    @property
    def latch(self) -> Any:
        """Of the canary."""
        return self.document["guard"]["latched"].get("2")

    @property
    def latched_at(self) -> float:
        """Time that the latch carries."""
        return datetime.fromisoformat(self.latch["at"]).timestamp()

    def since_broken(self) -> list[Sample]:
        """Requests that were sent after the canary broke."""
        return [s for s in self.result.samples if self.begin_at + s.sent_s >= self.broken_at]


def canary_errors(options: Options) -> Result:
    """Promises: few attempts are charged, no client sees an error, the other gateway follows at once."""
    course = _run("canary-errors", options, Breakage("error_500", slo={"errors": {"max_rate": 0.01}}))
    result = course.result
    if course.latch:
        charged = course.latch["evidence"]["counters"]["charged"]
        result.promises.append(at_most("charged attempts", options.max_charged, charged))
    return result


def canary_slow(options: Options) -> Result:
    """Promises: the canary is flipped for its latency, after few slow answers, and no client sees an error."""
    slo = {"errors": {"max_rate": 0.01}, "latency": {"p99_ms": 50}}
    course = _run("canary-slow", options, Breakage("ok", delay_ms=200, slo=slo))
    result = course.result
    if course.latch:
        evidence = course.latch["evidence"]
        objective = evidence["objective"]
        result.promises.append(Promise("objective", "latency_p99", objective, objective == "latency_p99"))
        hits = evidence["guard"]["objectives"]["latency_p99"]["charged"]
        result.promises.append(at_most("slow attempts until the flip", SLOW_HITS, hits))
    return result


def canary_hangs(options: Options) -> Result:
    """Promises: no client sees an error, and nobody waits longer than half a deadline and stable's time."""
    course = _run("canary-hangs", options, Breakage("never", timeout_ms=HANG_TIMEOUT_MS))
    result = course.result
    stable_ms = max((s.latency_s * 1000 for s in result.samples if not s.failed_over), default=0.0)
    limit_ms = HANG_TIMEOUT_MS / 2 + stable_ms + SWEEP_MARGIN_MS
    slowest_ms = max((s.latency_s * 1000 for s in result.samples), default=float("nan"))
    result.figures |= {"deadline ms": HANG_TIMEOUT_MS, "stable's slowest answer ms": stable_ms}
    result.promises.append(at_most("slowest answer (half the deadline + stable + 50)", limit_ms, slowest_ms, " ms"))
    return result


def _run(name: str, options: Options, breakage: Breakage) -> Course:
    """Two gateways on one Redis, a canary that is healthy at first, and promises that all three share."""
    seconds = options.seconds or 8.0
    result = Result(name)
    with canary_backend() as backend:
        route = credit_route(CANARY_PERCENT, backends={"2": {"kind": "oip", "url": backend.url}})
        route |= {"on_failure": options.on_failure} | ({"slo": breakage.slo} if breakage.slo else {})
        with fleet(2, [route]) as (first, second), RevisionWatch(second, "credit", "1") as watch:
            targets = [url(gateway) for gateway in ((first, second) if options.both else (first,))]
            arrivals = Open("credit", options.rate or RATE, options.seed, timeout_ms=breakage.timeout_ms)
            with Traffic(Plan(targets, seconds, open=[arrivals], fault_versions=["2"])) as traffic:
                time.sleep(max(0.0, traffic.begin_at + min(HEALTHY_S, seconds / 3) - time.time()))
                broken_at = time.time()
                backend.set(breakage.mode, delay_ms=breakage.delay_ms)
                document = _await_latch(first, min(seconds, FLIP_TIMEOUT_S))
                result.samples = traffic.samples()
                result.statistics = traffic.statistics
            charged = [gateway.arm("credit", "2")["counters"]["charged"] for gateway in (first, second)]
            calls = backend.counts()["by_mode"]
        course = Course(result, traffic.begin_at, broken_at, document, dict(watch.seen), charged)
    _judge(course, calls, both=options.both)
    return course


def _await_latch(gateway: GatewayProcess, timeout_s: float) -> Any:
    """The document once the canary is latched; as it is when that does not come."""
    try:
        return eventually(lambda: (d := gateway.document("credit"))["guard"]["latched"] and d, timeout_s, "the flip")
    except AssertionError:
        return gateway.document("credit")


def _judge(course: Course, calls: dict[str, int], *, both: bool) -> None:
    result = course.result
    result.no_errors()
    moved = moved_within_a_revision(result.samples, may_lower=True)
    result.promises.append(none_of("customers that changed sides", moved))
    flipped = bool(course.latch)
    result.promises.append(Promise("flipped", "yes", "yes" if flipped else "no", flipped))
    broken = course.since_broken()
    result.figures["canary requests from the fault on"] = sum(_is_canary(s) for s in broken)
    result.figures["backend calls by mode"] = ", ".join(f"{mode} {count}" for mode, count in calls.items())
    if flipped:
        _time(course, broken, both=both)


def _is_canary(sample: Sample) -> bool:
    """Whether the canary was asked."""
    return sample.failed_over or sample.role == "canary"


def _time(course: Course, broken: Sequence[Sample], *, both: bool) -> None:
    """How long everything took. The breach is what came first: the latch's own time, or the last answer it counted."""
    result, latch, revision = course.result, course.latch, course.document["revision"]
    counters = latch["evidence"]["counters"]
    renewed = [s.done_s for s in broken if s.gateway == 0 and s.revision == str(revision)]
    tried = sorted((s for s in broken if _is_canary(s)), key=lambda s: s.done_s)
    counted = [s.done_s for s in tried[counters["charged"] - 1 : counters["charged"]]]
    breach_at = min([course.latched_at, *(course.begin_at + done_s for done_s in counted)])
    own_at = course.begin_at + min(renewed) if renewed else float("nan")
    other_at = course.seen.get(revision, float("nan"))
    late = [s for s in tried if s.gateway == 0 and course.begin_at + s.sent_s > breach_at + RECORDED_S]
    result.figures |= {
        "reason": latch["reason"],
        "charged attempts (evidence)": counters["charged"],
        "charged attempts (both gateways, at the end)": sum(course.charged),
        "canary requests after the breach": len(late),
        "fault to breach ms": (breach_at - course.broken_at) * 1000,
        "breach to latch ms": (course.latched_at - breach_at) * 1000,
        "breach to the new revision, same gateway ms": (own_at - breach_at) * 1000,
        "sender's delay p99 ms": percentile([(s.sent_s - s.scheduled_s) * 1000 for s in result.samples], 0.99),
    }
    spread_ms = (other_at - breach_at) * 1000
    if not both:
        result.promises.append(at_most("canary requests after the breach", 0, len(late)))
    result.promises.append(at_most("breach to the other gateway's new revision", SPREAD_MS, spread_ms, " ms"))
