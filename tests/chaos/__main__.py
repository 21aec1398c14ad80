"""``python -m tests.chaos``: every drill, again and again for a while, with a line of progress for each."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.drill import run
from tests.chaos.fleet import Fleet
from tests.chaos.rows import ROWS


def main() -> int:
    """The exit status: 1 when a drill failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second, over all replicas")
    parser.add_argument("--rounds", type=int, default=1, help="how often every drill is run")
    parser.add_argument("--only", default="", help="drills whose name contains this")
    given = parser.parse_args()
    rows = [row for row in ROWS if given.only in row.name]
    failed, begin_s = 0, time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="turnout-chaos-") as folder,
        Fleet(Path(folder), count=given.replicas, workers=given.workers) as fleet,
    ):
        for turn in range(given.rounds):
            for number, row in enumerate(rows):
                report = run(fleet, row, rate=given.rate)
                place = f"[{turn * len(rows) + number + 1}/{given.rounds * len(rows)}]"
                print(f"{time.monotonic() - begin_s:6.1f} s {place} {report.line()}", flush=True)
                for problem in report.problems[:5]:
                    print(f"        {problem}", flush=True)
                failed += bool(report.problems)
    print(f"{failed} drills failed" if failed else "all drills passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
