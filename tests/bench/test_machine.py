"""What a benchmark prefers for itself, and that it works where nothing can be preferred."""

from pathlib import Path

import pytest

from loadtests.bench import machine


def test_a_process_without_a_group_of_its_own_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "autogroup"
    group.write_text("")
    monkeypatch.setattr(machine, "AUTOGROUP", group)

    with machine.favoured():
        inside = group.read_text()

    assert (inside, group.read_text()) == ("", "")


def test_a_group_is_preferred_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "autogroup"
    group.write_text("/autogroup-7 nice 3\n")
    monkeypatch.setattr(machine, "AUTOGROUP", group)

    with machine.favoured():
        inside = group.read_text()

    assert int(inside) < 0
    assert int(group.read_text()) == 3
