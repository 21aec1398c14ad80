"""``python -m loadtests.bench.readme [FOLDER]``: the README's table from the newest raw result of every row."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loadtests.bench.machine import ROOT
from loadtests.bench.rows import ROWS

RESULTS = ROOT / "loadtests" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->\n"
MEASURES = {"cpu_us": "CPU", "rps_per_core": "requests/s a core", "p50_us": "p50", "p99_us": "p99"}


def newest(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The last raw result of each row, by name."""
    found = {}
    for path in sorted(folder.glob("*-bench-*.json")):
        raw = json.loads(path.read_text())
        found[raw["row"]] = raw
    return {name: found[name] for name in ROWS if name in found}


def markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """One line for each goal and each figure with a limit; below it where and when."""
    results = list(results)
    lines = ["| row | compared | turnout | theirs | ratio | goal |", "|---|---|---|---|---|---|"]
    for raw in results:
        summaries = {summary["contender"]: summary for summary in raw["summaries"]}
        for goal in raw["goals"]:
            ours, theirs = summaries.get(goal["ours"]), summaries.get(goal["against"])
            lines.append(f"| `{raw['row']}` | {_words(goal)} | {_line(goal, ours, theirs)} |")
        for figure in raw["figures"]:
            if figure["limit"] is not None:
                lines.append(
                    f"| `{raw['row']}` | {figure['name']} | {figure['value']:.3g} | | | ≤ {figure['limit']:.3g} |"
                )
    return "\n".join([*lines, "", *_measured(results)]) + "\n"


def _measured(results: Iterable[Mapping[str, Any]]) -> list[str]:
    places: dict[tuple[str, str, int], set[str]] = {}
    for raw in results:
        place = raw["date"][:10], raw["machine"]["cpu"], raw["machine"]["cores"]
        places.setdefault(place, set()).add(raw["commit"])
    return [
        f"Measured {day} on {cores} cores of {cpu}, turnout {', '.join(sorted(commits))}."
        for (day, cpu, cores), commits in sorted(places.items())
    ]


def _words(goal: Mapping[str, Any]) -> str:
    ours = "" if goal["ours"] == "turnout" else f", {goal['ours']}"
    return f"{MEASURES[goal['measure']]} / {goal['against']}{ours}"


def _line(goal: Mapping[str, Any], ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> str:
    limit = f"{'≥' if goal['at_least'] else '≤'} {goal['limit']:.3g}"
    if ours is None or theirs is None:
        return f"- | - | not measured | {limit}"
    values = [_value(goal["measure"], summary[goal["measure"]]) for summary in (ours, theirs)]
    marks = " (disturbed)" if ours["disturbed"] or theirs["disturbed"] else ""
    return f"{values[0]} | {values[1]} | {goal['ratio']:.3g}{marks} | {limit}"


def _value(measure: str, value: float) -> str:
    return f"{value:,.0f}/s" if measure == "rps_per_core" else f"{value:,.1f} µs"


def update(text: str, table: str) -> str:
    """A page with its table replaced.

    Raises:
        ValueError: It has no place for one.
    """
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"there is no {BEGIN.strip()} … {END.strip()}")
    return f"{before}{BEGIN}{table}{END}{after}"


def main(arguments: list[str] | None = None) -> None:
    """Write the table into the README."""
    given = sys.argv[1:] if arguments is None else arguments
    results = newest(Path(given[0]) if given else RESULTS)
    README.write_text(update(README.read_text(), markdown(results.values())))


if __name__ == "__main__":
    main()
