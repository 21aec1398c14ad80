"""A status over several workers: sums, the least ready, the strongest evidence."""

from typing import Any

from gateway.runtime.summed import route_status
from routing.analysis.compare import Pairs
from routing.analysis.histogram import Histogram


def facts(*latencies_s: float, odds: float = 1.0, revision: int = 3, **canary: Any) -> dict[str, Any]:
    """What one worker says of a route with one canary."""
    histogram = Histogram()
    for latency_s in latencies_s:
        histogram.observe(latency_s)
    watch = {"p0": 0.01, "c": 1e6, "odds": odds, "attempts": 10, "charged": 1, "capped": 0, "late": 0}
    arm = {
        "version": "2",
        "role": "canary",
        "weight_ppm": 50_000,
        "epoch": 1,
        "state": "ready",
        "reason": "",
        "note": "",
        "is_ready": True,
        "counters": {"drawn": 10, "in_flight": 1, "outcomes": {"ok": 9, "error": 1}},
        "cells": histogram.as_counts(),
        "idle_s": None,
        "age_s": 1000.0,
        "unjudged_s": 0.0,
        "contract": None,
        "lowered": False,
        "alarm": "",
        "would_have_flipped": "",
        "guard": {
            "tripped": False,
            "fuse": {"p0": 0.01, "run": 1, "length": 5, "charged": 1},
            "objectives": {"errors": watch},
        },
    }
    return {
        "model": "credit",
        "revision": revision,
        "variants": [arm | canary],
        "shadows": [],
        "idle": [("guard_idle", "", "idle")],
    }


def test_one_worker_is_what_it_says() -> None:
    (variant,) = route_status([facts(0.01)])["variants"]
    assert variant["counters"] == {"drawn": 10, "in_flight": 1, "outcomes": {"ok": 9, "error": 1}}
    assert variant["guard"]["objectives"]["errors"]["odds"] == 1.0
    assert "merged" not in variant


def test_counts_add_up_and_evidence_is_the_strongest() -> None:
    whole = route_status([facts(0.01, odds=40.0), facts(0.4, 0.4, odds=3.0)], {"2": {"evidence": {"errors": 900.0}}})
    (variant,) = whole["variants"]
    assert variant["counters"] == {"drawn": 20, "in_flight": 2, "outcomes": {"ok": 18, "error": 2}}
    assert variant["latency"]["count"] == 3
    assert variant["latency"]["p50_ms"] >= 400
    assert (variant["guard"]["objectives"]["errors"]["odds"], variant["merged"]) == (40.0, {"errors": 900.0})
    assert variant["guard"]["objectives"]["errors"]["attempts"] == 20
    assert whole["warnings"] == ["canary '2' is configured but idle: it has seen no request for 1000 s", "idle"]


def test_a_version_is_as_ready_as_where_it_is_least_so() -> None:
    failed = facts(state="failed", reason="no file", is_ready=False)
    whole = route_status([facts(idle_s=1.0), failed])
    assert (whole["variants"][0]["state"], whole["variants"][0]["reason"]) == ("failed", "no file")
    assert whole["warnings"] == ["version '2' is not ready: no file", "idle"]


def test_evidence_of_another_epoch_is_not_added() -> None:
    whole = route_status([facts(revision=3), facts(revision=4, epoch=4)])
    assert (whole["revision"], whole["variants"][0]["counters"]["drawn"]) == (4, 10)


def test_pairs_add_up_to_what_one_would_have_counted() -> None:
    one, two, both = Pairs(), Pairs(), Pairs()
    for part, ok, ratio in ((one, True, 1.5), (two, False, 0.5), (two, True, 2.0)):
        for pairs in (part, both):
            pairs.ended(stable_ok=True, shadow_ok=ok)
            pairs.ratios.observe(ratio)
    whole = Pairs()
    for part in (one, two):
        whole.add_counts(part.as_counts())
    assert whole.as_json() == both.as_json()
