"""A heavy model beside a light one: what sentiment's load does to credit's latency."""

from statistics import median
from typing import Any

from loadtests.fleet import credit_route, fleet, url
from loadtests.options import Options
from loadtests.plan import Open, Plan
from loadtests.result import Result, at_most
from loadtests.samples import Sample, percentile
from loadtests.traffic import Traffic, send

PAIRS = 7
SENTIMENT_RATE = 30.0  # about 10 ms each: a third of a core
LIMIT_MS = 3.0
SETTLE_S = 0.5  # at the beginning of a phase, left out
START_S = 2.5  # sentiment's traffic lasts longer than credit's by this, for credit's generator starts after it
SENTIMENT = {"model": "sentiment", "stable": "2", "variants": [{"version": "2", "weight": 100}]}


def sentiment_beside_credit(options: Options) -> Result:
    """Promise: the median of credit's 99th percentiles moves by less than 3 ms when sentiment is under load.

    Phases without and with sentiment take turns, so that whatever else the machine does meets both alike. Sentiment
    has a generator of its own, which keeps its work out of the clock that times credit.
    """
    phase_s = (options.seconds or 56.0) / (2 * PAIRS)
    rate = options.rate or 150
    result = Result("sentiment-beside-credit")
    p99s: dict[bool, list[float]] = {False: [], True: []}
    p50s: dict[bool, list[float]] = {False: [], True: []}
    heavy: list[Sample] = []
    with fleet(1, [credit_route(5), SENTIMENT]) as (gateway,):
        for phase in range(2 * PAIRS):
            beside = phase % 2 == 1
            light = Plan([url(gateway)], phase_s, open=[Open("credit", rate, options.seed + phase)])
            other = Plan([url(gateway)], phase_s + START_S, open=[Open("sentiment", SENTIMENT_RATE, options.seed)])
            samples, more = _phase(light, other if beside else None)
            heavy += more
            result.samples += samples + more
            took_ms = [s.latency_s * 1000 for s in samples if s.scheduled_s >= SETTLE_S]
            p99s[beside].append(percentile(took_ms, 0.99))
            p50s[beside].append(percentile(took_ms, 0.5))
    result.no_errors()
    moved_ms = median(p99s[True]) - median(p99s[False])
    result.figures = _figures(p50s, p99s, heavy)
    result.promises.append(at_most("credit's p99 moves by", LIMIT_MS, moved_ms, " ms"))
    return result


def _phase(light: Plan, heavy: Plan | None) -> tuple[list[Sample], list[Sample]]:
    if heavy is None:
        return send(light), []
    with Traffic(heavy) as beside:
        return send(light), beside.samples()


def _figures(p50s: dict[bool, list[float]], p99s: dict[bool, list[float]], heavy: list[Sample]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for beside, name in ((False, "alone"), (True, "beside sentiment")):
        figures |= {
            f"credit p50 {name} ms (median of phases)": median(p50s[beside]),
            f"credit p99 {name} ms (median of phases)": median(p99s[beside]),
            f"credit p99 {name} ms, all phases": [round(value, 2) for value in p99s[beside]],
        }
    took_ms = [s.latency_s * 1000 for s in heavy]
    return figures | {"sentiment p50 ms": percentile(took_ms, 0.5), "sentiment p99 ms": percentile(took_ms, 0.99)}
