"""The load tests themselves: a broken promise must be seen, a late sender must not hide what clients waited."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loadtests.oracle import problem_of, rows
from loadtests.plan import Closed, Open, Plan
from loadtests.result import Result, at_most, none_of
from loadtests.samples import Sample, as_columns, from_columns, percentile, summaries
from loadtests.schedule import customers, poisson
from loadtests.stickiness import moved_against_the_edit, moved_within_a_revision
from tests.gateway_process import ROOT


def run_scenario(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def sample(**changes: Any) -> Sample:
    plain: dict[str, Any] = {
        "model": "credit",
        "scheduled_s": 0.0,
        "sent_s": 0.0,
        "done_s": 0.001,
        "gateway": 0,
        "key": "customer-1",
        "status": 200,
        "version": "1",
        "role": "stable",
        "attempts": "1",
        "revision": "1",
        "problem": "",
    }
    return Sample(**{**plain, **changes})


def canary(**changes: Any) -> Sample:
    return sample(version="2", role="canary", **changes)


# A whole scenario.


def test_canary_errors_keeps_its_promises_and_leaves_a_raw_result(tmp_path: Path) -> None:
    done = run_scenario("canary-errors", "--seconds", "4", "--json", str(tmp_path / "raw.json"))

    assert done.returncode == 0, done.stdout + done.stderr
    raw = json.loads((tmp_path / "raw.json").read_text())
    assert raw["kept"] is True
    assert 1 <= raw["figures"]["charged attempts (evidence)"] <= 5
    assert raw["figures"]["canary requests after the breach"] == 0
    samples = from_columns(raw["samples"])
    assert len(samples) == len(poisson(200, 4, seed=1))
    assert {s.status for s in samples} == {200}
    assert sum(entry["requests"] for entry in raw["locust"]) == len(samples)
    assert {"cores", "cpu", "kernel"} <= set(raw["machine"])
    assert "loadtests.run canary-errors --seconds 4" in raw["command"]


def test_a_promise_that_cannot_be_kept_is_named_and_fails_the_run() -> None:
    done = run_scenario("canary-errors", "--seconds", "3", "--max-charged", "0", "--on-failure", "pass")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "broken promise: charged attempts: " in done.stdout
    assert "promised <= 0" in done.stdout
    assert "broken promise: client errors: " in done.stdout, "on_failure: pass hands the canary's errors to clients"


# Schedule and collector.


def test_the_same_seed_gives_the_same_arrivals_and_another_one_others() -> None:
    times = poisson(100, 50, seed=7)

    assert times == poisson(100, 50, seed=7)
    assert times != poisson(100, 50, seed=8)
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 50
    assert 4_600 <= len(times) <= 5_400  # 5,000 on average, its standard deviation is 71
    gaps = [b - a for a, b in pairwise(times)]
    assert percentile(gaps, 0.5) == pytest.approx(0.00693, rel=0.1)  # ln 2 / 100: arrivals know nothing of each other
    assert customers(10, 50, seed=7) == customers(10, 50, seed=7)
    assert len(set(customers(0, 50, seed=7))) == 50


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (1e6, 1), (float("nan"), 1)])
def test_a_schedule_without_bounds_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="is not between"):
        poisson(rate, seconds, seed=1)


def test_a_stalled_sender_does_not_hide_what_clients_would_have_waited() -> None:
    """Due every 10 ms; the sender stands still from 0.5 s to 1.5 s, then sends what is due at once. Each takes 1 ms."""
    samples = []
    for n in range(200):
        due_s = n * 0.01
        sent_s = 1.5 if 0.5 <= due_s < 1.5 else due_s
        samples.append(sample(scheduled_s=due_s, sent_s=sent_s, done_s=sent_s + 0.001))

    (line,) = summaries(samples)

    assert percentile([s.done_s - s.sent_s for s in samples], 0.99) == pytest.approx(0.001), "the comfortable lie"
    assert line.p50_ms == pytest.approx(1.0)
    assert line.p99_ms == pytest.approx(981.0)
    assert line.max_ms == pytest.approx(1001.0)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert not at_most("p99", 50, percentile([], 0.99)).kept, "nothing measured is no promise kept"


def test_samples_are_summed_up_by_version() -> None:
    lines = summaries([sample(), sample(attempts="2"), canary(problem="wrong"), sample(version="", status=503)])
    assert [(s.version, s.requests, s.errors, s.failed_over) for s in lines] == [
        ("-", 1, 0, 0),
        ("1", 2, 0, 1),
        ("2", 1, 1, 0),
    ]


def test_samples_and_plans_survive_the_way_between_processes() -> None:
    samples = [sample(), canary(key="customer-2", problem="status 500: no")]
    assert from_columns(json.loads(json.dumps(as_columns(samples)))) == samples
    plan = Plan(("http://a",), 3.0, open=(Open("credit", 5),), closed=(Closed("credit", 2),), fault_versions=("2",))
    assert Plan.decode(plan.encode()) == plan


# Checks.


def test_stickiness_catches_a_customer_that_changes_sides_within_a_revision() -> None:
    assert moved_within_a_revision([sample(), sample(), canary(key="customer-2")]) == []
    assert moved_within_a_revision([sample(), canary(revision="2")]) == []
    assert moved_within_a_revision([sample(sent_s=0), canary(sent_s=1)]) == [
        "customer-1 went from 1 to 2 within revision 1"
    ]


def test_an_answer_that_failed_over_moves_nobody() -> None:
    assert moved_within_a_revision([canary(sent_s=0), sample(sent_s=1, attempts="2"), canary(sent_s=2)]) == []


def test_a_lowered_canary_loses_its_customers_for_good() -> None:
    down = [canary(sent_s=0), sample(sent_s=1)]
    assert len(moved_within_a_revision(down)) == 1
    assert moved_within_a_revision(down, may_lower=True) == []
    assert len(moved_within_a_revision([*down, canary(sent_s=2)], may_lower=True)) == 1


@pytest.mark.parametrize(
    ("shares", "before", "after", "kept"),
    [
        ({1: 50_000, 2: 100_000}, sample(), canary(revision="2"), True),
        ({1: 50_000, 2: 100_000}, canary(), sample(revision="2"), False),
        ({1: 100_000, 2: 50_000}, canary(), sample(revision="2"), True),
        ({1: 100_000, 2: 50_000}, sample(), canary(revision="2"), False),
        ({1: 50_000, 2: 80_000, 3: 100_000}, canary(), sample(revision="3"), False),
        ({1: 50_000, 2: 10_000, 3: 100_000}, canary(), sample(revision="3"), True),
    ],
)
def test_growing_a_share_moves_nobody_back(
    shares: dict[int, int], before: Sample, after: Sample, *, kept: bool
) -> None:
    assert (moved_against_the_edit([before, after], shares) == []) is kept


def test_an_answer_is_held_against_the_version_that_it_names() -> None:
    row = rows("credit")[0]  # golden: 1 says 0.278521, 2 says 0.035459
    headers = {"x-request-id": "a", "x-turnout-role": "stable", "x-turnout-attempts": "1", "x-turnout-revision": "1"}

    def problem(version: str, probability: float, label: int = 0, **changes: str) -> str:
        outputs = [{"name": "label", "data": [label]}, {"name": "probabilities", "data": [0.0, probability]}]
        body = json.dumps({"outputs": outputs}).encode()
        named = {**headers, "x-turnout-version": version, **{k.replace("_", "-"): v for k, v in changes.items()}}
        return problem_of("credit", row, "a", 200, named, body)

    assert problem("1", 0.2790) == ""
    assert problem("2", 0.0355) == ""
    assert problem("1", 0.0355) == "probability 0.0355, expected 0.278521"
    assert problem("1", float("nan")) == "probability nan, expected 0.278521"
    assert problem("1", 0.2785, label=1) == "label 1 beside probability 0.2785"
    assert problem("9", 0.2785) == "x-turnout-version is '9'"
    assert problem("1", 0.2785, x_request_id="b") == "x-request-id is 'b', not 'a'"
    assert problem("1", 0.2785, x_turnout_attempts="") == "x-turnout-attempts is ''"
    assert problem("1", 0.2785, x_turnout_role="boss") == "x-turnout-role is 'boss'"
    assert problem_of("credit", row, "a", 503, headers, b"overloaded") == "status 503: overloaded"
    assert problem_of("credit", row, "a", 0, {}, None) == "status 0: no answer"


def test_a_result_knows_what_was_broken() -> None:
    result = Result("any", [at_most("p99", 50, 49.9, " ms"), none_of("client errors", ["one"])], samples=[sample()])
    assert [promise.name for promise in result.broken] == ["client errors"]
    assert result.promises[0].measured == "49.9 ms"


def test_edits_serve_on_three_gateways_none_lost_and_none_out_of_order(tmp_path: Path) -> None:
    done = run_scenario("convergence", "--edits", "40", "--json", str(tmp_path / "raw.json"))

    raw = json.loads((tmp_path / "raw.json").read_text())
    broken = [promise["name"] for promise in raw["promises"] if not promise["kept"]]
    assert not [name for name in broken if "until all serve it" not in name], done.stdout + done.stderr
    assert raw["figures"]["edits"] == len(raw["figures"]["from the write, all ms"]) == 40
    assert raw["figures"]["from the write p99 ms"] < 1000, "a busy machine is slow, not stuck"


def test_clients_notice_nothing_of_a_frozen_redis_and_no_count_is_lost(tmp_path: Path) -> None:
    done = run_scenario("redis-frozen", "--seconds", "4", "--rate", "60", "--json", str(tmp_path / "raw.json"))

    raw = json.loads((tmp_path / "raw.json").read_text())
    broken = [promise["name"] for promise in raw["promises"] if not promise["kept"]]
    assert not [name for name in broken if not name.startswith(("p99", "from the thaw"))], done.stdout + done.stderr
    assert raw["figures"]["converged_after_thaw_s"] < 5
