"""``python -m loadtests.run SCENARIO``: run one scenario; status 1 when a promise was broken."""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from loadtests import result
from loadtests.options import Options
from loadtests.scenarios import SCENARIOS


def main(arguments: list[str] | None = None) -> int:
    """Run the scenario that the command line names; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the raw result here")
    parser.add_argument("--seconds", type=float, help="length of the traffic")
    parser.add_argument("--rate", type=float, help="requests a second")
    parser.add_argument("--seed", type=int, default=1, help="of arrivals and customers")
    parser.add_argument("--max-charged", type=int, default=5, help="canary-errors: charged attempts promised")
    parser.add_argument("--on-failure", choices=("retry_stable", "pass"), default="retry_stable", help="of the route")
    parser.add_argument("--both", action="store_true", help="canary-*: spread the traffic over both gateways")
    parser.add_argument("--edits", type=int, default=300, help="edit-latency, convergence: how many")
    parser.add_argument("--replicas", type=int, default=3, help="soak, replicas-*: how many gateways")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    given = vars(parser.parse_args(arguments))
    scenario, path = given.pop("scenario"), given.pop("json")
    outcome = SCENARIOS[scenario](Options(**given))
    result.show(outcome, Console(width=None if sys.stdout.isatty() else 140))
    if path:
        result.write(outcome, path)
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
