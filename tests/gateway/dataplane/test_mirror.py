"""The queue of copies: its bounds and sums, and every reason for a drop."""

import gc
import json
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backends.base import State
from gateway.dataplane.exchange import PIN, SEQUENCE
from gateway.dataplane.mirror import CONCURRENT_COPIES, GIVEN_UP_A_SWEEP
from gateway.errors import BadRequest
from routing.analysis.outcome import Kind
from tests.gateway.dataplane.mirror_rig import GOOD, Rig


def test_offering_sends_nothing_and_the_copy_is_the_very_same_bytes() -> None:
    rig = Rig()
    body = b'{"inputs": []}'
    rig.offer(body)
    assert rig.backend.sent == []
    rig.run()
    assert rig.backend.answer().body is body
    rig.check_sums()
    assert rig.mirror.counts.results == {("credit", "3", "ok"): 1}
    assert rig.mirror.counts.pairs == {("credit", "3", "true"): 1}


BINARY_HEAD = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}
).encode()


@pytest.mark.parametrize(
    ("body", "header_length"),
    [
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}]}', None),
        (b"{}", None),
        (BINARY_HEAD + bytes(4), len(BINARY_HEAD)),
    ],
)
def test_a_copy_is_read_as_the_clients_request_is(body: bytes, header_length: int | None) -> None:
    rig = Rig()
    exchange = rig.offer(body, header_length=header_length)
    rig.run()
    copy, _ = rig.backend.sent[0]
    read = []
    for call in (exchange, copy):
        try:
            read.append(list(call.request().inputs))
        except BadRequest:
            read.append([])
    assert read[0] == read[1]


def test_a_copy_that_is_being_compared_keeps_no_body() -> None:
    rig = Rig()
    rig.comparison.waiting = []
    rig.offer(b"x" * 100_000)
    rig.run()
    copy = weakref.ref(rig.backend.answer())
    gc.collect()
    assert rig.comparison.waiting
    assert copy() is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 40_000)),
        st.tuples(st.just("answer"), st.sampled_from([Kind.OK, Kind.ERROR, Kind.UNREACHABLE])),
        st.tuples(st.just("time"), st.floats(0, 1.2)),
        st.tuples(st.sampled_from(["turn", "compare", "close", "open"]), st.none()),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(0, 1))
def test_whatever_happens_offered_is_sent_or_dropped_or_waiting_and_within_the_bound(
    steps: list[tuple[str, Any]], which: int
) -> None:
    rig = Rig({"version": "3", "max_body_kb": 30}, {"version": "4", "sample": 50, "timeout_ms": 300}, max_bytes=200_000)
    rig.comparison.waiting = []
    for step, value in steps:
        backend = rig.backends[which]
        if step == "offer":
            rig.offer(b"x" * value)
        elif step == "answer" and backend.sent:
            backend.answer(value)
        elif step == "time":
            rig.pass_time(value)
        elif step == "turn":
            rig.turn()
        elif step == "compare" and rig.comparison.waiting:
            rig.comparison.waiting.pop().on_compared(None)
        elif step in {"close", "open"}:
            backend.state = State.CLOSED if step == "close" else State.READY
        assert rig.mirror.held_bytes <= 200_000
        rig.check_sums()
    rig.mirror.drain()
    for pair in rig.comparison.waiting:
        pair.on_compared(None)
    rig.comparison.waiting = []
    rig.check_sums()
    assert rig.mirror.held_bytes == 0
    assert all(not backend.sent for backend in rig.backends)


@pytest.mark.parametrize(
    ("state", "reason"), [({"choice": PIN}, "pinned"), ({"choice": SEQUENCE}, "sequence"), ({}, "side_effects")]
)
def test_pins_sequences_and_side_effects_are_never_copied(state: dict[str, Any], reason: str) -> None:
    rig = Rig(side_effects=reason == "side_effects")
    rig.offer(**state)
    rig.run()
    assert rig.backend.sent == []
    assert rig.evidence.not_sent == {reason: 1}
    rig.check_sums()


def test_each_shadow_has_its_own_largest_body() -> None:
    rig = Rig({"version": "3", "max_body_kb": 1}, {"version": "4", "max_body_kb": 2})
    rig.offer(b"x" * 1025)
    rig.run()
    assert rig.evidence.not_sent == {"too_large": 1}
    assert rig.shadows[1].evidence.sent == 1


def test_a_shadow_that_is_not_ready_gets_nothing() -> None:
    rig = Rig()
    rig.backend.state = State.FAILED
    rig.offer()
    assert rig.evidence.not_sent == {"not_ready": 1}
    rig.backend.state = State.READY
    rig.offer()
    rig.backend.state = State.CLOSED
    rig.run()
    assert rig.evidence.not_sent == {"not_ready": 2}
    rig.check_sums()


def test_a_full_queue_drops_the_copy_and_leaves_room_for_another_shadow() -> None:
    rig = Rig({"version": "3"}, {"version": "4", "sample_ppm": 0}, max_bytes=100 * 2048)
    for _ in range(100):
        rig.offer(b"x" * (1024 - len(GOOD)))
    assert rig.evidence.not_sent == {"queue_full": 50}
    assert rig.mirror.held_bytes == 50 * 2048
    rig.shadows[1].sample_ppm = 1_000_000
    rig.offer(b"x" * (1024 - len(GOOD)))
    assert rig.shadows[1].evidence.waiting == 1
    rig.check_sums()


def test_copies_are_the_first_to_go_when_too_much_is_in_work() -> None:
    rig = Rig()
    rig.gate.in_hand = 2  # half of what there may be
    rig.offer()
    rig.gate.in_hand = 3
    rig.offer()
    rig.gate.in_hand, rig.gate.is_late = 1, True
    rig.offer()
    assert (rig.evidence.offered, rig.evidence.not_sent) == (3, {"overload": 2})
    rig.gate.is_late = False
    rig.offer()
    rig.run()
    assert len(rig.backend.sent) == 2


def test_a_hanging_shadow_has_a_fixed_number_of_copies_and_the_rest_expires() -> None:
    rig = Rig({"version": "3", "timeout_ms": 500})
    for _ in range(CONCURRENT_COPIES + 10):
        rig.offer()
    rig.run()
    assert len(rig.backend.sent) == CONCURRENT_COPIES
    rig.pass_time(0.4)
    assert rig.evidence.results == {}
    rig.pass_time(0.2)
    assert rig.evidence.not_sent == {"expired": 10}
    assert rig.evidence.results == {"timeout": GIVEN_UP_A_SWEEP}, "not all in one turn of the loop"
    for _ in range(CONCURRENT_COPIES // GIVEN_UP_A_SWEEP):
        rig.pass_time(0.025)
    assert rig.evidence.results == {"timeout": CONCURRENT_COPIES}
    assert rig.backend.cancelled == CONCURRENT_COPIES
    assert rig.evidence.pairs.shadow_failed == CONCURRENT_COPIES
    rig.check_sums()


def test_a_shadow_that_crashes_ends_its_copy(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.backend.submit = None  # type: ignore[assignment, method-assign]
    rig.offer()
    rig.run()
    assert rig.evidence.results == {"error": 1}
    assert [record.message for record in caplog.records] == ["a shadow crashed"]
    rig.check_sums()


def test_draining_ends_everything_at_once_and_counts_it() -> None:
    rig = Rig()
    for _ in range(CONCURRENT_COPIES + 3):
        rig.offer()
    rig.run()
    rig.mirror.drain()
    rig.offer()
    assert rig.evidence.not_sent == {"draining": 4}
    assert rig.evidence.results == {"cancelled": CONCURRENT_COPIES}
    assert rig.mirror.held_bytes == 0
    assert rig.evidence.pairs.shadow_failed == 0, "a copy that we gave up says nothing about the shadow"
    rig.check_sums()
