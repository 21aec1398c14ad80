"""Who may come in, and who is looked at when."""

import asyncio
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.dataplane.doorkeeper import HEAD, IDLE, WORK, Doorkeeper, client_of, data_bounds
from gateway.settings import Server

BOUNDS = replace(data_bounds(Server()), max_connections=4, max_connections_per_client=2, head_timeout_s=1.0)


class Door:
    """Notes when it is looked at."""

    def __init__(self, address: str = "10.0.0.1", phase: int = IDLE) -> None:
        self.client = (address, 1)
        self.phase = phase
        self.phase_since_s = 0.0
        self.looked_at = 0
        self.overdue_s: list[float] = []
        self.loop: Any = asyncio.get_running_loop()
        self.transport: Any = SimpleNamespace(abort=lambda: None)

    def overdue(self, now_s: float) -> None:
        self.overdue_s.append(now_s)

    def watch_writes(self, _now_s: float) -> None:
        self.looked_at += 1


class Hall:
    """A keeper on a clock of its own."""

    def __init__(self, **bounds: Any) -> None:
        self.now_s = 0.0
        self.counted: Counter[str] = Counter()
        self.keeper = Doorkeeper(replace(BOUNDS, **bounds), self._count, lambda: self.now_s)

    def _count(self, bound: str) -> None:
        self.counted[bound] += 1

    def admit(self, door: Door) -> str | None:
        return self.keeper.admit(door)  # type: ignore[arg-type]

    def forget(self, door: Door) -> None:
        self.keeper.forget(door)  # type: ignore[arg-type]

    def sweep(self, now_s: float) -> None:
        self.now_s = now_s
        self.keeper._tick()


def run(scenario: Any) -> None:
    async def main() -> None:
        scenario()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no:address", "no:address"),
    ],
)
def test_who_is_behind_an_address(address: str, client: str) -> None:
    assert client_of(address) == client


def test_bounds_on_all_and_on_one_and_places_that_become_free() -> None:
    def scenario() -> None:
        hall = Hall()
        mine = [Door("10.0.0.1") for _ in range(3)]
        assert [hall.admit(door) for door in mine] == [None, None, "max_connections_per_client"]
        theirs = [Door("10.0.0.2") for _ in range(2)]
        assert [hall.admit(door) for door in theirs] == [None, None]
        assert hall.admit(Door("10.0.0.3")) == "max_connections"
        hall.forget(mine[2])  # it had no place
        assert hall.admit(Door("10.0.0.3")) == "max_connections"
        hall.forget(mine[0])
        hall.forget(mine[0])
        assert hall.admit(Door("10.0.0.1")) is None
        assert hall.admit(Door("10.0.0.1")) == "max_connections"

    run(scenario)


def test_by_default_one_client_has_half() -> None:
    assert data_bounds(Server(max_connections=10)).max_connections_per_client == 5
    assert data_bounds(Server(max_connections=1)).max_connections_per_client == 1
    assert data_bounds(Server(max_connections=10, max_connections_per_client=9)).max_connections_per_client == 9


def test_a_phase_that_lasts_too_long_is_told_and_work_never_is() -> None:
    def scenario() -> None:
        hall, late, busy = Hall(), Door(phase=HEAD), Door(phase=WORK)
        hall.admit(late)
        hall.admit(busy)
        for step in range(1, 25):
            hall.sweep(step * 0.05)
        assert late.overdue_s
        assert 1.0 < late.overdue_s[0] < 1.1
        assert not busy.overdue_s

    run(scenario)


def test_after_a_stop_of_the_loop_one_sweep_is_left_out_and_not_two() -> None:
    def scenario() -> None:
        hall, door = Hall(), Door(phase=HEAD)
        hall.admit(door)
        hall.sweep(5.0)
        assert (door.overdue_s, door.looked_at) == ([], 0), "its head may be here already, unread"
        hall.sweep(9.0)
        assert door.overdue_s == [9.0], "a loop that is always late judges all the same"

    run(scenario)


def test_many_connections_are_looked_at_in_turns_and_none_is_forgotten() -> None:
    def scenario() -> None:
        many = 3 * Doorkeeper.SLICE
        hall = Hall(max_connections=many, max_connections_per_client=many)
        doors = [Door() for _ in range(many)]
        for door in doors:
            hall.admit(door)
        hall.sweep(0.05)
        assert sum(door.looked_at for door in doors) == Doorkeeper.SLICE
        for step in range(2, 10):
            hall.sweep(step * 0.05)
        assert min(door.looked_at for door in doors) >= 2

    run(scenario)


def test_one_connection_that_cannot_be_judged_is_dropped_and_keeps_nobody_else() -> None:
    def scenario() -> None:
        hall, aborted = Hall(), list[int]()
        bad, good = Door(), Door()
        bad.watch_writes = lambda _now_s: 1 / 0  # type: ignore[assignment,method-assign]
        bad.transport = SimpleNamespace(abort=lambda: aborted.append(1))
        hall.admit(bad)
        hall.admit(good)
        hall.sweep(0.05)
        assert (aborted, good.looked_at) == ([1], 1)

    run(scenario)
