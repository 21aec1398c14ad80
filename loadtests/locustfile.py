"""For locust's own command: ``locust -f loadtests/locustfile.py --headless -u 8 -t 20s --host http://127.0.0.1:8080``.

Names of users may follow; ``CreditArrivals`` is the open one (``--rate``, ``--seconds``).
"""

# ruff: noqa: I001
from loadtests.users import CheckedUser, ClosedUser, OpenUser  # patches first

import time
from argparse import ArgumentParser
from typing import Any

from locust import events

from loadtests.oracle import rows
from loadtests.plan import Closed, Open


class CreditUser(ClosedUser):
    """Asks for credit decisions."""

    corpus = rows("credit")
    traffic = Closed("credit", users=1, customers=1_000)


class SentimentUser(ClosedUser):
    """Asks what a film review thinks."""

    corpus = rows("sentiment")
    traffic = Closed("sentiment", users=1, customers=1_000)


class CreditArrivals(OpenUser):
    """Credit requests at the times of a schedule; latency counts from the time they were due."""

    corpus = CreditUser.corpus


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """Options of ``CreditArrivals``."""
    parser.add_argument("--rate", type=float, default=50.0, help="arrivals a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the schedule")


@events.test_start.add_listener
def begin(environment: Any, **_: Any) -> None:
    """Clocks start here."""
    given = environment.parsed_options
    CheckedUser.begin_s = time.perf_counter()
    CreditArrivals.seconds = given.seconds
    CreditArrivals.traffic = Open("credit", given.rate)


@events.quitting.add_listener
def judge(environment: Any, **_: Any) -> None:
    """Any wrong answer makes the command fail."""
    if environment.stats.total.num_failures:
        environment.process_exit_code = 1
