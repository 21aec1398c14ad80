"""The drills of ``make test``: one fleet, and the part of the table that is marked short."""

import pytest

from tests.chaos.drill import run
from tests.chaos.fleet import Fleet
from tests.chaos.rows import ROWS, Row

RATE = 80.0  # requests a second over both replicas; two cores also run ten processes
PATIENCE = 4.0  # a busy machine is no failure; `make chaos` holds the times themselves


@pytest.mark.parametrize("row", [row for row in ROWS if row.short], ids=lambda row: row.name)
def test_nothing_is_lost_when_a_part_dies(fleet: Fleet, row: Row) -> None:
    report = run(fleet, row, rate=RATE, patience=PATIENCE)
    print(report.line())
    assert report.problems == []
