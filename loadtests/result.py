"""What a scenario hands back: promises kept or broken, figures, what clients saw."""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.samples import Sample, as_columns, problems, summaries

ROOT = Path(__file__).parent.parent
PACKAGES = ("turnout", "locust", "uvicorn", "uvloop", "onnxruntime-gpu", "onnxruntime", "redis", "numpy")
SHOWN = 5
LISTED = 20


@dataclass(frozen=True, slots=True)
class Promise:
    """Something a scenario promises; ``kept`` says whether it held."""

    name: str
    goal: str
    measured: str
    kept: bool


def at_most(name: str, limit: float, measured: float, unit: str = "") -> Promise:
    """A promise that a number stays at or below a limit; NaN breaks it."""
    return Promise(name, f"<= {limit:g}{unit}", f"{measured:.4g}{unit}", measured <= limit)


def none_of(name: str, found: Sequence[str]) -> Promise:
    """A promise that a list of sentences is empty."""
    return Promise(name, "0", f"{len(found)}" + (f" ({'; '.join(found[:2])})" if found else ""), not found)


@dataclass(slots=True)
class Result:
    """The outcome of one scenario.

    Attributes:
        figures: Further numbers, by a name that carries the unit.
        samples: Every request.
        statistics: What locust counted.
    """

    scenario: str
    promises: list[Promise] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    statistics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def broken(self) -> list[Promise]:
        """Promises that did not hold."""
        return [promise for promise in self.promises if not promise.kept]

    def no_errors(self) -> None:
        """Promise that every answer was right."""
        self.promises.append(none_of("client errors", problems(self.samples)))


def machine() -> dict[str, Any]:
    """Where it was measured."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "cores": os.cpu_count(),
        "cpu": model[1] if model else platform.processor(),
        "kernel": platform.release(),
        "system": platform.system(),
        "load_average": os.getloadavg(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except ImportError:
            continue
    return found


def _commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def as_json(result: Result) -> dict[str, Any]:
    """The raw result, and what is needed to repeat it."""
    return {
        "scenario": result.scenario,
        "kept": not result.broken,
        "command": " ".join(["python", "-m", *_module(), *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _commit(),
        "machine": machine(),
        "versions": versions(),
        "promises": [asdict(promise) for promise in result.promises],
        "figures": result.figures,
        "clients": [asdict(summary) for summary in summaries(result.samples)],
        "locust": result.statistics,
        "samples": as_columns(result.samples),
    }


def _module() -> list[str]:
    script = Path(sys.argv[0])
    return [f"loadtests.{script.stem}"] if script.parent == Path(__file__).parent else [script.name]


def write(result: Result, path: Path) -> None:
    """Keep the raw result as a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(result)) + "\n")


def show(result: Result, console: Console) -> None:
    """Print what clients saw, the figures, and the promises."""
    if result.samples:
        table = Table("model", "version", "requests", "errors", "failed over", "p50 ms", "p99 ms", "max ms")
        table.title = f"{result.scenario}: what clients saw, from the time a request was due"
        for line in summaries(result.samples):
            counts = [f"{n:,}" for n in (line.requests, line.errors, line.failed_over)]
            times = [f"{ms:.2f}" for ms in (line.p50_ms, line.p99_ms, line.max_ms)]
            table.add_row(line.model, line.version, *counts, *times)
        console.print(table)
    if result.figures:
        table = Table("figure", "value", title=f"{result.scenario}: figures")
        for name, value in result.figures.items():
            if isinstance(value, list) and len(value) > LISTED:
                continue  # only in the raw result
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
        console.print(table)
    table = Table("promise", "goal", "measured", "", title=f"{result.scenario}: promises")
    for promise in result.promises:
        table.add_row(promise.name, promise.goal, promise.measured, "kept" if promise.kept else "BROKEN")
    console.print(table)
    for sentence in problems(result.samples)[:SHOWN]:
        console.print(f"  {sentence}", markup=False)
    for promise in result.broken:
        console.print(
            f"broken promise: {promise.name}: {promise.measured}, promised {promise.goal}", markup=False, soft_wrap=True
        )
