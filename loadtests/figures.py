"""``python -m loadtests.figures``: the figures of the project, one after the other; status 1 when one is missed."""

import argparse
import signal
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests import result
from loadtests.options import Options
from loadtests.scenarios import SCENARIOS

FIGURES = ("canary-errors", "canary-hangs", "edit-latency", "sentiment-beside-credit")
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run all figures; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.figures", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where raw results go")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    given = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    summary = Table("figure", "promise", "goal", "measured", "", title="bench")
    missed = False
    for scenario in FIGURES:
        try:
            outcome = SCENARIOS[scenario](Options())
        except Exception as error:  # the others are still worth running
            traceback.print_exc()
            missed = True
            summary.add_row(scenario, "it runs", "yes", repr(error), "FAIL")
            continue
        result.show(outcome, console)
        result.write(outcome, given.results / f"{time.strftime('%Y-%m-%d')}-{scenario}.json")
        missed = missed or bool(outcome.broken)
        for promise in outcome.promises:
            verdict = "pass" if promise.kept else "FAIL"
            summary.add_row(scenario, promise.name, promise.goal, promise.measured, verdict)
    console.print(summary)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
