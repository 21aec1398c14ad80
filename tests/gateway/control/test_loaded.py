"""What was loaded, over restarts: whole, bounded, and of one store."""

import asyncio
from pathlib import Path

import pytest

from gateway.control import loaded
from gateway.control.keeper import Place
from gateway.control.loaded import FILE_NAME, LoadedModels

PLACE = Place("grpc://127.0.0.1:8001", "credit")


def models(folder: Path, store_id: str = "a") -> LoadedModels:
    made = LoadedModels(folder, lambda: store_id)
    made.read()
    return made


def test_what_is_added_is_read_back_until_it_is_discarded(tmp_path: Path) -> None:
    asyncio.run(models(tmp_path).add(PLACE))
    assert models(tmp_path).places == {PLACE}
    asyncio.run(models(tmp_path).discard(PLACE))
    assert models(tmp_path).places == set()


def test_the_table_of_another_store_says_nothing_of_it(tmp_path: Path) -> None:
    asyncio.run(models(tmp_path).add(PLACE))
    assert models(tmp_path, store_id="b").places == set()


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"store_id": "a"}', b'{"store_id": "a", "loaded": [1]}', b"\xff"])
def test_a_damaged_file_is_as_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(damage)
    assert models(tmp_path).places == set()


def test_there_is_a_bound_and_the_disk_may_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "REMEMBERED_MAX", 1)
    (tmp_path / "taken").write_text("a file where a folder should be")
    made = models(tmp_path / "taken")
    asyncio.run(made.add(PLACE))
    asyncio.run(made.add(("grpc://127.0.0.1:8001", "other")))
    assert made.places == {PLACE}
