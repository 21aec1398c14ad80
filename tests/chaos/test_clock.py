"""The wall clock of every gateway jumps: nothing that is decided depends on it."""

import subprocess
import sys
import time

import pytest

from tests.chaos.clock import COMPILER, Clock
from tests.chaos.drill import run
from tests.chaos.faults import Fault
from tests.chaos.fleet import Fleet
from tests.chaos.rows import Moment, Row

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: the wall clock cannot be stepped")
HOUR_S, RATE, PATIENCE = 3600, 80.0, 4.0


def test_a_stepped_clock_is_seen_by_a_process_that_has_it(clock: Clock) -> None:
    clock.step(-HOUR_S)
    try:
        command = [sys.executable, "-c", "import time; print(time.time())"]
        said = subprocess.run(command, env=clock.env, capture_output=True, text=True, check=True).stdout
    finally:
        clock.step(0)
    assert abs(float(said) - (time.time() - HOUR_S)) < 60


@pytest.mark.parametrize("moment", [Moment.FLIP, Moment.EDITS])
@pytest.mark.parametrize("hours", [-1, 1])
def test_nothing_is_lost_when_the_clock_jumps(fleet: Fleet, clock: Clock, hours: int, moment: Moment) -> None:
    fault = Fault(f"clock {hours:+} h", lambda *_: clock.step(hours * HOUR_S), lambda *_: clock.step(0))
    report = run(fleet, Row(fault, moment, hold_s=0.5), rate=RATE, patience=PATIENCE)
    print(report.line())
    assert report.problems == []
