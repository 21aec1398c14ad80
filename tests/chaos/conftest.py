"""One fleet for all drills: to start it costs more than a drill."""

from collections.abc import Iterator

import pytest

from tests.chaos.clock import COMPILER, Clock
from tests.chaos.fleet import Fleet


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock | None:
    """The wall clock of the fleet; ``None`` where nothing can be compiled."""
    return Clock(tmp_path_factory.mktemp("clock")) if COMPILER else None


@pytest.fixture(scope="session")
def fleet(clock: Clock | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet"), env=clock.env if clock else None) as found:
        yield found
