"""One server for the tests that leave it as it is; those that break it start their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.stores import Place
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param != "redis":
        return Place(request.param, tmp_path, None)
    server: RedisServer = request.getfixturevalue("shared_server")
    server.flush()
    return Place("redis", tmp_path, server)
