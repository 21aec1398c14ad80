"""Medians, ratios, tables, raw results, the README."""

import json
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.bench.machine import Lab, Missing, program
from loadtests.bench.measure import FOREIGN_CORES, Run, calmest, interleave, summarise
from loadtests.bench.readme import README, markdown, newest, update
from loadtests.bench.report import Outcome, as_json, show, verdicts
from loadtests.bench.row import Figure, Goal
from loadtests.bench.target import Target
from tests.bench.builders import a_run, a_summary, a_target


def test_cpu_a_request_counts_good_answers_alone() -> None:
    run = a_run(requests=1000, ok=500, cpu_ns=10_000_000, seconds=2.0)

    assert run.cpu_us == 20.0
    assert run.busy_share == 0.005


def test_the_calmest_runs_count_and_their_median_is_taken() -> None:
    runs = [a_run(cpu_ns=n * 1_000_000, foreign_cores=f) for n, f in ((10, 0.0), (30, 0.1), (20, 0.05), (99, 0.9))]

    found = summarise(a_target(), runs, 3)

    assert [run.cpu_us for run in calmest(runs, 3)] == [10, 20, 30]
    assert found.cpu_us == 20.0
    assert found.rps_per_core == 50_000
    assert found.disturbed == 0


def test_a_summary_says_how_many_of_its_runs_were_disturbed_and_failed() -> None:
    runs = [a_run(foreign_cores=FOREIGN_CORES + 0.1), a_run(ok=990)]

    found = summarise(a_target(), runs, 2)

    assert (found.disturbed, found.failed) == (1, 10)


def test_runs_take_turns_and_whoever_was_disturbed_runs_again_a_bounded_number_of_times() -> None:
    noisy = {"a": 0.9, "b": 0.0}
    lab = Lab(seconds=1, rounds=2, repeats=1)

    def run(target: Target, _seconds: float) -> Run:
        return a_run(target.name, foreign_cores=noisy[target.name])

    pid = 2**22 + 1  # nobody's
    runs = interleave(lab, [a_target("a", pid), a_target("b", pid)], lambda _: None, run)

    assert [run.contender for run in runs] == ["a", "b", "a", "b", "a"]


def test_goals_are_ratios_of_ours_to_theirs() -> None:
    goals = [Goal("nginx", 1.1), Goal("nginx", 0.5, "rps_per_core", at_least=True), Goal("envoy", 0.45)]
    outcome = Outcome("proxy", "", [a_summary("turnout", 22), a_summary("nginx", 20)], goals=goals)

    cpu, rps, missing = verdicts(outcome)

    assert (round(cpu.ratio, 6), cpu.met) == (1.1, True)
    assert (round(rps.ratio, 3), rps.met) == (0.909, True)
    assert cpu.sentence == "turnout cpu_us / nginx <= 1.1: 1.1, met"
    assert missing.met is None
    assert missing.sentence == "turnout cpu_us / envoy <= 0.45: not measured"


def test_a_goal_that_was_measured_on_a_busy_machine_says_so() -> None:
    busy = a_summary("nginx", 20, foreign_cores=0.5)
    outcome = Outcome("proxy", "", [a_summary("turnout", 20), busy], goals=[Goal("nginx", 1.1)])

    [verdict] = verdicts(outcome)

    assert verdict.sentence == "turnout cpu_us / nginx <= 1.1: 1, met (disturbed: says little)"


def test_a_figure_without_a_value_misses_its_limit() -> None:
    assert Figure("x", 2.0, 1.5).sentence == "x <= 1.5: 2, MISSED"
    assert Figure("x", float("nan"), 1.5).sentence.endswith("MISSED")


# What is printed and kept.


def an_outcome() -> Outcome:
    return Outcome(
        "latency-400",
        "what",
        [
            a_summary("direct", 5, p50_us=300, p99_us=600),
            a_summary("turnout", 20, p50_us=400, p99_us=1600, foreign_cores=0.5),
            a_summary("nginx", 30, p50_us=350, p99_us=700, rss_bytes=25e6),
        ],
        missing={"envoy": "envoy is not installed"},
        goals=[Goal("nginx", 1.0)],
        runs=[a_run()],
    )


def test_the_table_names_ratios_what_is_added_what_is_missing_and_what_was_disturbed() -> None:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show(an_outcome(), console)
    lines = {line.split()[1]: line for line in console.export_text().splitlines() if line.startswith("│")}

    assert "30.0 ×1.50" in lines["nginx"], "beside turnout's 20 µs"
    assert "33,333 ×0.67" in lines["nginx"]
    assert "+0.050 ×0.50" in lines["nginx"]
    assert "+0.100 ×1.00" in lines["turnout"]
    assert "+1.000 ×1.00" in lines["turnout"]
    assert "25 ×0.25" in lines["nginx"], "memory beside turnout's"
    assert "1 of 1 disturbed" in lines["turnout"]
    assert "missing" in lines["envoy"]
    assert "envoy is not installed" in lines["envoy"]


def test_the_raw_result_says_machine_versions_date_and_every_run() -> None:
    raw = json.loads(json.dumps(as_json(an_outcome(), "python -m loadtests.bench latency-400", "abc")))

    assert {"machine", "versions", "date", "commit", "command", "runs", "summaries", "missing"} <= set(raw)
    assert raw["goals"][0]["met"] is True
    assert raw["summaries"][2]["version"] == "1.0"


def test_whoever_is_not_installed_is_missing() -> None:
    with pytest.raises(Missing, match="no-such-program is not installed"):
        program("no-such-program")
    with pytest.raises(Missing, match="no-such-peer is not installed"):
        program("python", "no-such-peer")


# The README.


def test_the_readme_s_table_comes_from_the_newest_raw_results(tmp_path: Path) -> None:
    for day, cpu_us in (("2026-01-01", 99.0), ("2026-01-02", 20.0)):
        outcome = Outcome(
            "proxy", "", [a_summary("turnout", cpu_us), a_summary("nginx", 16)], goals=[Goal("nginx", 1.1)]
        )
        outcome.figures = [Figure("added, µs", 1.25, 1.5), Figure("no limit", 3.0)]
        (tmp_path / f"{day}-bench-proxy.json").write_text(json.dumps(as_json(outcome, "", "abc")))

    table = markdown(newest(tmp_path).values())

    assert table.splitlines()[2:4] == [
        "| `proxy` | CPU / nginx | 20.0 µs | 16.0 µs | 1.25 | ≤ 1.1 |",
        "| `proxy` | added, µs | 1.25 | | | ≤ 1.5 |",
    ]
    assert re.fullmatch(r"Measured \d{4}-\d\d-\d\d on \d+ cores of .+, turnout abc\.", table.splitlines()[5])
    assert update("a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n", "new\n") == (
        "a\n<!-- bench -->\nnew\n<!-- /bench -->\nb\n"
    )


def test_the_readme_has_a_place_for_the_table() -> None:
    text = README.read_text()

    assert update(text, "x\n") != text
