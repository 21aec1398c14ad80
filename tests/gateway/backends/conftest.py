from collections.abc import Iterator

import pytest

from tests.faults import FaultBackend


@pytest.fixture(scope="module")
def process() -> Iterator[FaultBackend]:
    with FaultBackend() as started:
        yield started


@pytest.fixture
def faults(process: FaultBackend) -> FaultBackend:
    process.set("ok")
    return process
