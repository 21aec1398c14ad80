"""The hash chain: what was written verifies, everything else does not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.store.history import GENESIS_SHA256, HistoryEntry, chain, decode, encode, verify

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def entry(
    previous: HistoryEntry | None = None,
    *,
    evidence: object = None,
    document: bytes = b"doc",
    at: float = 2.5,
    reason: str = "r",
) -> HistoryEntry:
    return chain(
        previous.sha256 if previous else GENESIS_SHA256,
        model="credit",
        revision=previous.revision + 1 if previous else 1,
        at=at,
        actor="ada",
        reason=reason,
        change_id="c" * 32,
        verb="put",
        evidence=evidence,
        document=document,
    )


def history(length: int) -> list[HistoryEntry]:
    entries = [entry()]
    while len(entries) < length:
        entries.append(entry(entries[-1]))
    return entries


@given(evidence=JSON, document=st.binary(), at=st.floats(allow_nan=False, allow_infinity=False), reason=st.text())
def test_an_entry_survives_its_bytes(evidence: object, document: bytes, at: float, reason: str) -> None:
    written = entry(evidence=evidence, document=document, at=at, reason=reason)
    read = decode(encode(written))
    assert read == written
    assert verify([read]) is None


def test_evidence_takes_the_shape_it_will_be_read_in() -> None:
    written = entry(evidence={10: (1, 2), 9: None})
    assert written.evidence == {"10": [1, 2], "9": None}
    assert decode(encode(written)) == written


@pytest.mark.parametrize("evidence", [float("nan"), {"p": float("inf")}, object(), b"bytes"])
def test_evidence_that_json_cannot_hold_is_refused(evidence: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        entry(evidence=evidence)


@pytest.mark.parametrize("data", [b"", b"{}\n", b"[]\nx", b"\xff\n", encode(entry()).partition(b"\n")[0]])
def test_other_bytes_are_no_entry(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a history entry"):
        decode(data)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_what_was_written_holds_whole_and_from_any_entry_on(length: int) -> None:
    entries = history(length)
    assert verify([], head_sha256=GENESIS_SHA256) is None
    for start in range(length):
        assert verify(entries[start:], head_sha256=entries[-1].sha256) is None


CHANGED = {
    "model": "other",
    "at": 2.6,
    "actor": "eve",
    "reason": "x",
    "change_id": "d" * 32,
    "verb": "flip",
    "evidence": 0,
    "document": b"dox",
    "prev_sha256": "0" * 63 + "1",
    "sha256": "0" * 64,
}


@pytest.mark.parametrize("field", CHANGED)
@pytest.mark.parametrize("index", range(4))
def test_a_changed_field_is_found_where_it_is(field: str, index: int) -> None:
    entries = history(4)
    entries[index] = replace(entries[index], **{field: CHANGED[field]})
    assert verify(entries) == index + 1


def test_an_entry_rehashed_after_a_change_breaks_the_next() -> None:
    entries = history(4)
    forged = entry(entries[0], reason="forged")
    assert verify([entries[0], forged, *entries[2:]]) == 3


SHUFFLES: dict[str, tuple[Callable[[list[HistoryEntry]], list[HistoryEntry]], int]] = {
    "missing in the middle": (lambda e: [e[0], *e[2:]], 3),
    "swapped": (lambda e: [e[0], e[2], e[1], e[3]], 3),
    "told twice": (lambda e: [e[0], e[1], e[1], e[2]], 2),
    "backwards": (lambda e: e[::-1], 3),
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_a_history_in_another_order_does_not_hold(name: str) -> None:
    shuffle, broken = SHUFFLES[name]
    assert verify(shuffle(history(4))) == broken


def test_the_head_shows_entries_cut_off_at_the_end() -> None:
    entries = history(4)
    assert verify(entries[:2]) is None
    assert verify(entries[:2], head_sha256=entries[-1].sha256) == 3
    assert verify([], head_sha256=entries[-1].sha256) == 1


def test_the_first_revision_follows_nothing() -> None:
    stray = chain(
        "a" * 64,
        model="m",
        revision=1,
        at=1,
        actor="a",
        reason="r",
        change_id="c",
        verb="v",
        evidence=None,
        document=b"",
    )
    assert verify([stray]) == 1
