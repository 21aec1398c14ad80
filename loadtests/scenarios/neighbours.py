"""A heavy model beside a light one: what sentiment's load does to credit's latency."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from loadtests.fleet import credit_route, fleet, url
from loadtests.options import Options
from loadtests.plan import Open, Plan
from loadtests.result import Result, at_most
from loadtests.samples import Sample, percentile
from loadtests.schedule import is_pause
from loadtests.traffic import Traffic

PHASE_S = 2.0
SECONDS = 72.0  # 18 phases of each kind
SETTLE_S = 0.2  # at the edges of a phase, left out
SENTIMENT_RATE = 30.0  # about 10 ms each: a third of a core
LIMIT_MS = 3.0
SENTIMENT = {"model": "sentiment", "stable": "2", "variants": [{"version": "2", "weight": 100}]}


def sentiment_beside_credit(options: Options) -> Result:
    """Promise: the median of credit's 99th percentiles moves by less than 3 ms when sentiment is under load.

    Phases without and with sentiment take turns, so that whatever else the machine does meets both alike.
    """
    seconds = options.seconds or SECONDS
    heavy_plan = Open("sentiment", SENTIMENT_RATE, options.seed, pause_s=PHASE_S)
    light_plan = Open("credit", options.rate or 150, options.seed)
    result = Result("sentiment-beside-credit")
    with (
        fleet(1, [credit_route(5), SENTIMENT]) as (gateway,),
        Traffic(Plan([url(gateway)], seconds, open=[light_plan, heavy_plan])) as traffic,
    ):
        result.samples = traffic.samples()
        result.statistics = traffic.statistics
    result.no_errors()
    phases = by_phase([s for s in result.samples if s.model == "credit"])
    result.figures = _figures(phases, [s for s in result.samples if s.model == "sentiment"])
    moved_ms = median(phases[True]["p99"]) - median(phases[False]["p99"])
    result.promises.append(at_most("credit's p99 moves by", LIMIT_MS, moved_ms, " ms"))
    return result


Phases = dict[bool, dict[str, list[float]]]


def by_phase(credit: Sequence[Sample]) -> Phases:
    """Percentiles (ms) of every phase: beside sentiment or not, then ``p50``, ``p99``, ``sender's delay p99``."""
    phases: Phases = {beside: {"p50": [], "p99": [], "sender's delay p99": []} for beside in (False, True)}
    groups: dict[int, list[Sample]] = {}
    for sample in credit:
        if SETTLE_S <= sample.scheduled_s % PHASE_S <= PHASE_S - SETTLE_S:
            groups.setdefault(int(sample.scheduled_s // PHASE_S), []).append(sample)
    for number in sorted(groups):
        took_ms = [sample.latency_s * 1000 for sample in groups[number]]
        late_ms = [(sample.sent_s - sample.scheduled_s) * 1000 for sample in groups[number]]
        into = phases[not is_pause(number * PHASE_S, PHASE_S)]
        into["p50"].append(percentile(took_ms, 0.5))
        into["p99"].append(percentile(took_ms, 0.99))
        into["sender's delay p99"].append(percentile(late_ms, 0.99))
    return phases


def _figures(phases: Phases, sentiment: Sequence[Sample]) -> dict[str, Any]:
    figures: dict[str, Any] = {"phases of each kind": (len(phases[False]["p99"]), len(phases[True]["p99"]))}
    for beside, name in ((False, "alone"), (True, "beside sentiment")):
        for what, values in phases[beside].items():
            figures[f"credit {what} {name} ms (median of phases)"] = median(values)
        low, high = (percentile(phases[beside]["p99"], share) for share in (0.25, 0.75))
        figures[f"credit p99 {name} ms, middle half of phases"] = f"{low:.1f} to {high:.1f}"
        figures[f"credit p99 {name} ms, all phases"] = [round(value, 1) for value in phases[beside]["p99"]]
    took_ms = [sample.latency_s * 1000 for sample in sentiment]
    return figures | {"sentiment p50 ms": percentile(took_ms, 0.5), "sentiment p99 ms": percentile(took_ms, 0.99)}
