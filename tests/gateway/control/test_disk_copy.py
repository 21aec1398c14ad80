"""The disk copy: whole or the one before, and never a crash."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.control.disk_copy import FILE_NAME, DiskCopy, Table
from gateway.control.messages import Lowered

names = st.text(min_size=1, max_size=8)
tables = st.builds(
    Table,
    store_id=names,
    documents=st.dictionaries(names, st.tuples(st.integers(1, 1 << 40), st.binary(max_size=30)), max_size=3),
    lowers=st.builds(
        lambda lows: {(low.model, low.version): low for low in lows},
        st.lists(st.builds(Lowered, names, names, st.integers(0, 99), names, st.just({"odds": 1e6})), max_size=3),
    ),
)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, table: Table) -> None:
    copy = DiskCopy(tmp_path_factory.mktemp("copy"))
    asyncio.run(copy.write(table))
    assert copy.read() == table


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"store_id": 1}',
        b"\xff",
        b'{"documents": {"a": [1]}}',
        b'{"store_id": "", "documents": [], "lowers": []}',
    ],
)
def test_a_damaged_copy_is_no_copy(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(damage)
    assert DiskCopy(tmp_path).read() is None


def test_without_a_folder_nothing_is_kept() -> None:
    copy = DiskCopy(None)
    asyncio.run(copy.write(Table("x")))
    assert copy.read() is None


def test_a_write_that_fails_leaves_the_copy_before(tmp_path: Path) -> None:
    copy = DiskCopy(tmp_path / "state")
    asyncio.run(copy.write(Table("first")))
    (tmp_path / "state" / "table.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        asyncio.run(copy.write(Table("second")))
    assert copy.read() == Table("first")
