"""``python -m loadtests.bench [ROW...]``: turnout beside its peers, one table for each row."""

import argparse
import shlex
import signal
import sys
import traceback
from pathlib import Path

from rich.console import Console

from loadtests.bench.contest import hold
from loadtests.bench.machine import Lab
from loadtests.bench.report import keep, show
from loadtests.bench.rows import ROWS
from loadtests.bench.turnout import commit

RESULTS = Path(__file__).parent.parent / "results"
SECONDS, ROUNDS = 5.0, 3
QUICK_SECONDS, QUICK_ROUNDS = 2.0, 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    made.add_argument("rows", nargs="*", metavar="ROW", help=f"all by default: {', '.join(ROWS)}")
    made.add_argument("--quick", action="store_true", help="one run of 2 s each, for a first look")
    made.add_argument("--duration", type=float, metavar="SECONDS", help="of one run")
    made.add_argument("--rounds", type=int, help="runs of each contender")
    made.add_argument("--results", type=Path, metavar="FOLDER", help="where raw results go; --quick keeps none")
    made.add_argument("--list", action="store_true", help="name the rows")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the rows; 1 when one could not be run. A missed goal is shown, and is no failure of the bench."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    given = parser().parse_args(arguments)
    unknown = [row for row in given.rows if row not in ROWS]
    if unknown:
        parser().error(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if given.list:
        print("\n".join(ROWS))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160)
    seconds = given.duration or (QUICK_SECONDS if given.quick else SECONDS)
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
    results = given.results or (None if given.quick else RESULTS)
    command = shlex.join(["python", "-m", "loadtests.bench", *(sys.argv[1:] if arguments is None else arguments)])
    status = 0
    for name in given.rows or ROWS:
        try:
            with Lab(seconds, rounds, repeats=0 if given.quick else rounds) as lab:
                outcome = hold(lab, ROWS[name](), console)
        except Exception:  # the others are still worth running
            traceback.print_exc()
            status = 1
            continue
        show(outcome, console)
        if results is not None:
            keep(outcome, results, command, commit())
    return status


if __name__ == "__main__":
    sys.exit(main())
