"""Tables of ratios to turnout, and the raw result as JSON."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.bench.measure import FOREIGN_CORES, FULL_CORE, Run, Summary
from loadtests.bench.row import Contest, Figure, Goal
from loadtests.result import machine, versions

OURS = "turnout"


@dataclass(slots=True)
class Outcome:
    """What a row gave.

    Attributes:
        missing: Why a contender is not there, by its name.
    """

    name: str
    what: str
    summaries: list[Summary] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    goals: Sequence[Goal] = ()
    runs: list[Run] = field(default_factory=list)
    note: str = ""
    figures: Sequence[Figure] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was measured; ``ratio`` is NaN where one side is missing."""

    goal: Goal
    ratio: float
    disturbed: bool = False

    @property
    def met(self) -> bool | None:
        """``None`` where nothing can be said."""
        if isnan(self.ratio):
            return None
        return self.ratio >= self.goal.limit if self.goal.at_least else self.ratio <= self.goal.limit

    @property
    def sentence(self) -> str:
        """For the table."""
        sign = ">=" if self.goal.at_least else "<="
        goal = f"{self.goal.ours} {self.goal.measure} / {self.goal.against} {sign} {self.goal.limit:.3g}"
        if self.met is None:
            return f"{goal}: not measured"
        doubt = " (disturbed: says little)" if self.disturbed else ""
        return f"{goal}: {self.ratio:.3g}, {'met' if self.met else 'MISSED'}{doubt}"


def outcome_of(contest: Contest) -> Outcome:
    """An empty one."""
    return Outcome(contest.name, contest.what, goals=contest.goals, note=contest.note)


def verdicts(outcome: Outcome) -> list[Verdict]:
    """Every goal of a row beside what was measured."""
    by_name = {summary.contender: summary for summary in outcome.summaries}
    return [_verdict(goal, by_name.get(goal.ours), by_name.get(goal.against)) for goal in outcome.goals]


def _verdict(goal: Goal, ours: Summary | None, theirs: Summary | None) -> Verdict:
    if ours is None or theirs is None or not getattr(theirs, goal.measure):
        return Verdict(goal, float("nan"))
    ratio = getattr(ours, goal.measure) / getattr(theirs, goal.measure)
    return Verdict(goal, float(ratio), disturbed=bool(ours.disturbed or theirs.disturbed))


def _marks(summary: Summary) -> str:
    marks = []
    if summary.busy_share < FULL_CORE:
        marks.append(f"core {summary.busy_share:.0%} busy")
    if summary.disturbed:
        marks.append(f"{summary.disturbed} of {summary.runs} disturbed")
    if summary.failed:
        marks.append(f"{summary.failed} NOT OK")
    return "; ".join([*marks, *([summary.note] if summary.note else [])])


def _beside(text: str, value: float, ours: float | None) -> str:
    """A value and its ratio to turnout's."""
    return f"{text} ×{value / ours:.2f}" if ours else text


def table(outcome: Outcome) -> Table:
    """One line for each contender; × is the contender's figure over turnout's."""
    columns = ("", "version", "rps a core", "CPU µs", "p50 ms", "p99 ms", "+p50 ms", "+p99 ms", "RSS MB", "")
    shown = Table(*columns, title=f"{outcome.name}: {outcome.what}")
    ours = next((s for s in outcome.summaries if s.contender == OURS), None)
    direct = next((s for s in outcome.summaries if s.contender == "direct"), None)
    for s in outcome.summaries:
        shown.add_row(s.contender, s.version, *_cells(s, ours), *_added(s, ours, direct), _memory(s, ours), _marks(s))
    for name, reason in outcome.missing.items():
        shown.add_row(name, "missing", *["-"] * 7, reason)
    return shown


def _cells(s: Summary, ours: Summary | None) -> list[str]:
    return [
        _beside(f"{s.rps_per_core:,.0f}", s.rps_per_core, ours and ours.rps_per_core),
        _beside(f"{s.cpu_us:.1f}", s.cpu_us, ours and ours.cpu_us),
        _beside(f"{s.p50_us / 1000:.3f}", s.p50_us, ours and ours.p50_us),
        _beside(f"{s.p99_us / 1000:.3f}", s.p99_us, ours and ours.p99_us),
    ]


def _added(s: Summary, ours: Summary | None, direct: Summary | None) -> list[str]:
    """What lies between a contender's latency and that of the upstream itself."""
    if direct is None or s is direct:
        return ["", ""]
    cells = []
    for measure in ("p50_us", "p99_us"):
        added, floor = getattr(s, measure) - getattr(direct, measure), getattr(direct, measure)
        cells.append(_beside(f"{added / 1000:+.3f}", added, ours and getattr(ours, measure) - floor))
    return cells


def _memory(s: Summary, ours: Summary | None) -> str:
    return _beside(f"{s.rss_bytes / 1e6:.0f}", s.rss_bytes, ours and ours.rss_bytes)


def show(outcome: Outcome, console: Console) -> None:
    """Print a row's table, its figures and its goals."""
    if outcome.summaries or outcome.missing:
        console.print(table(outcome))
    else:
        console.print(f"{outcome.name}: {outcome.what}", highlight=False)
    for figure in outcome.figures:
        console.print(f"  {figure.sentence}", markup=False, highlight=False)
    for verdict in verdicts(outcome):
        console.print(f"  {verdict.sentence}", markup=False, highlight=False)
    if outcome.note:
        console.print(f"  {outcome.note}", markup=False, highlight=False)


def as_json(outcome: Outcome, command: str, commit: str) -> dict[str, Any]:
    """The raw result and what is needed to repeat it."""
    return {
        "row": outcome.name,
        "what": outcome.what,
        "command": command,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit,
        "machine": machine(),
        "versions": versions(),
        "foreign_cores_limit": FOREIGN_CORES,
        "summaries": [asdict(summary) for summary in outcome.summaries],
        "missing": outcome.missing,
        "goals": [
            {**asdict(v.goal), "ratio": None if isnan(v.ratio) else v.ratio, "met": v.met} for v in verdicts(outcome)
        ],
        "figures": [asdict(figure) for figure in outcome.figures],
        "note": outcome.note,
        "runs": [asdict(run) for run in outcome.runs],
    }


def keep(outcome: Outcome, folder: Path, command: str, commit: str) -> Path:
    """Write the raw result; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y-%m-%d')}-bench-{outcome.name}.json"
    path.write_text(json.dumps(as_json(outcome, command, commit)) + "\n")
    return path
