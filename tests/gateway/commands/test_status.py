"""The words of ``turnout status``, from plain answers of the admin plane."""

from typing import Any

import pytest

from gateway.commands.console import clean, differences, percent
from gateway.commands.status import _guard, _rows, _show_routes, _show_workers


def canary(odds: float | None = 1.0, run: int = 0, **more: Any) -> dict[str, Any]:
    objectives = {"errors": {"odds": odds, "c": 1e6}, "latency_p99": {"odds": 2.0, "c": 1e6}}
    guard = {"tripped": False, "fuse": {"run": run, "length": 5}, "objectives": objectives}
    return {"version": "2", "role": "canary", "weight_ppm": 50_000, "state": "ready", "guard": guard, **more}


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (canary(340.2), "odds 340 : 1 of 1,000,000"),
        (canary(0.5), "odds 2 : 1 of 1,000,000"),
        (canary(None), "odds 2 : 1 of 1,000,000"),
        (canary(340.2, run=3), "odds 340 : 1 of 1,000,000, fuse 3 of 5"),
        (canary(2.5e30), "odds 2.5e+30 : 1 of 1,000,000"),
        (canary(lowered=True), "lowered"),
        (canary(guard={"tripped": True, "fuse": {}, "objectives": {}}), "tripped"),
        (canary(guard={"tripped": False, "fuse": {"run": 0, "length": 5}, "objectives": {}}), "fuse 0 of 5"),
        ({"version": "1"}, "-"),
    ],
)
def test_the_guard_names_what_is_nearest_to_a_verdict(variant: dict[str, Any], words: str) -> None:
    assert _guard(variant).plain == words


def test_errors_are_the_backend_s_and_ours_never_the_caller_s() -> None:
    outcomes = {"ok": 1000, "malformed": 1, "rejected": 2, "cancelled": 4, "error": 8, "timeout": 16, "unreachable": 32}
    route = {"model": "m", "revision": 1, "latched": ["2"], "variants": [canary(counters={"outcomes": outcomes})]}
    (row,) = _rows(route)
    assert [cell.plain for cell in row[5:7]] == ["1,063", "56"]
    assert row[-1].plain == "latched"


def test_a_route_that_is_not_applied_or_cannot_be_read_has_its_row() -> None:
    stored = {"model": "m", "revision": 3, "stable": "1", "weights_ppm": {"1": 900_000, "2": 100_000}, "latched": []}
    rows = [[cell.plain for cell in row[:5]] for row in _rows(stored)]
    assert rows == [["m @3", "1", "stable", "90 %", "not applied"], ["", "2", "canary", "10 %", "not applied"]]
    (row,) = _rows({"model": "m", "revision": 3, "error": "the document cannot be read"})
    assert row[0].plain == "m @3"


def test_percent_keeps_every_part_per_million() -> None:
    assert [percent(ppm) for ppm in (0, 1, 333_333, 999_999, 1_000_000)] == [
        "0 %",
        "0.0001 %",
        "33.3333 %",
        "99.9999 %",
        "100 %",
    ]


def test_a_difference_is_one_line_each() -> None:
    long = "x" * 500
    (line,) = differences([{"pointer": "/route/sticky", "before": None, "after": {"by": [long]}}])
    assert line.startswith('/route/sticky nothing -> {"by": ["xxx')
    assert len(line) < 160


def test_controls_are_escaped_and_letters_are_not() -> None:
    assert clean("é ü 漢 \x1b[31m\n\x9b\u202e\x7f") == "é ü 漢 \\x1b[31m\\n\\x9b\\u202e\\x7f"


def test_a_narrow_terminal_has_the_guard_below_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    route = {"model": "m", "revision": 1, "latched": ["2"], "variants": [canary(340.2)]}
    monkeypatch.setattr("gateway.commands.console.PIPE_WIDTH", 80)
    _show_routes([route])
    narrow = capsys.readouterr().out
    assert "m 2: odds 340 : 1 of 1,000,000, latched\n" in narrow
    assert max(len(line) for line in narrow.splitlines()) <= 80
    monkeypatch.setattr("gateway.commands.console.PIPE_WIDTH", 200)
    _show_routes([route])
    assert "odds 340 : 1 of 1,000,000  latched" in capsys.readouterr().out


def test_workers_are_told_when_there_are_several_or_one_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    well = {"worker": 0, "state": "serving", "restarts": 0, "failures": 0, "connections": 3}
    _show_workers([well])
    assert capsys.readouterr().out == ""
    _show_workers([{**well, "restarts": 2, "failures": 1}, {"worker": 1, "state": "starting", "failures": 4}])
    assert capsys.readouterr().out.splitlines() == [
        "2 workers, connections 3, ?",
        "worker 0 was replaced 2 times",
        "warning: worker 1 is starting, ended 4 times in a row",
    ]
