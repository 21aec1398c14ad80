"""The queue of copies: its bounds and sums, every reason for a drop, and what makes a pair."""

import gc
import json
import weakref
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backends.base import Reply, State
from gateway.backends.registry import BackendKey, Slot
from gateway.dataplane.admission import Gate
from gateway.dataplane.comparison import Pair
from gateway.dataplane.copies import COPY_BYTES
from gateway.dataplane.exchange import PIN, SEQUENCE, Exchange
from gateway.dataplane.infer_heads import InferHead
from gateway.dataplane.mirror import CONCURRENT_COPIES, GIVEN_UP_A_SWEEP, Mirror
from gateway.errors import BadRequest
from gateway.runtime.shadows import CompiledShadow, ShadowEvidence
from routing.analysis.outcome import Kind
from routing.table import ONNX_DEFAULT, Shadow
from tests.builders import document, route

STABLE = SimpleNamespace(version="1")
CANARY = SimpleNamespace(version="2")
GOOD = b'{"outputs":[{"name":"label","datatype":"INT64","shape":[1],"data":[1]}]}'
OTHER = GOOD.replace(b"[1]}]", b"[0]}]")


class Backend:
    """Keeps what it was sent until it is told how that ends."""

    def __init__(self) -> None:
        self.state, self.reason = State.READY, ""
        self.sent: list[tuple[Any, Callable[[Reply], None]]] = []
        self.cancelled = 0

    def submit(self, call: Any, deadline_s: float, on_reply: Callable[[Reply], None]) -> Callable[[], None]:
        entry = (call, on_reply)
        self.sent.append(entry)

        def cancel() -> None:
            self.cancelled += 1
            self.sent.remove(entry)

        return cancel

    def answer(self, kind: Kind = Kind.OK, body: bytes = GOOD) -> Any:
        call, on_reply = self.sent.pop(0)
        on_reply(Reply(kind, 200 if kind is Kind.OK else 500, body))
        return call


class Compares:
    """Compares at once, or when it is told to."""

    def __init__(self) -> None:
        self.is_full = False
        self.waiting: list[Pair] | None = None

    def submit(self, pair: Pair) -> bool:
        if self.is_full:
            return False
        if self.waiting is None:
            pair.on_compared(pair.compare())
        else:
            self.waiting.append(pair)
        return True

    def stop(self) -> None:
        pass


class Rig:
    """A mirror on a clock and a loop that a test moves."""

    def __init__(self, *shadows: dict[str, Any], max_bytes: int = 1 << 20, **parts: Any) -> None:
        shadows = shadows or ({"version": "3"},)
        self.now_s = 100.0
        self.due: list[Callable[[], None]] = []
        self.comparison = Compares()
        self.gate = Gate(4)
        self.mirror = Mirror(
            self.comparison,  # type: ignore[arg-type]
            lambda: self.now_s,
            lambda _, turn: self.due.append(turn),
            max_bytes,
            self.gate,
            Random(1),
        )
        stored = document(route(shadows=list(shadows), **parts))
        self.backends = [Backend() for _ in shadows]
        self.shadows = [
            CompiledShadow(stored, shadow, self._slot(shadow, backend), ShadowEvidence(1, ("1", ONNX_DEFAULT)))
            for shadow, backend in zip(stored.route.shadows, self.backends, strict=True)
        ]
        self.route = SimpleNamespace(
            shadows=self.shadows,
            stable=STABLE,
            side_effects=stored.route.side_effects,
            plan=object(),
            key_sources=[(False, b"key")],
        )

    @staticmethod
    def _slot(shadow: Shadow, backend: Backend) -> Slot:
        return Slot(BackendKey("credit", shadow.version, ONNX_DEFAULT, is_shadow=True), backend)  # type: ignore[arg-type]

    @property
    def backend(self) -> Backend:
        return self.backends[0]

    @property
    def evidence(self) -> ShadowEvidence:
        return self.shadows[0].evidence

    def offer(
        self,
        body: bytes = b"{}",
        *,
        arm: Any = STABLE,
        reply: Reply | None = None,
        key: bytes | None = None,
        **state: Any,
    ) -> Exchange:
        headers = {} if key is None else {b"key": key}
        head = InferHead(("credit", None), headers, len(body), None, 30.0, "1.1 test", False)
        exchange = Exchange(head, body, "r", lambda *_: None, self.now_s, self.now_s)  # type: ignore[arg-type]
        exchange.route, exchange.arm = self.route, arm  # type: ignore[assignment]
        for name, value in state.items():
            setattr(exchange, name, value)
        self.mirror.offer(exchange, reply or Reply(Kind.OK, 200, GOOD), 0.010)
        return exchange

    def turn(self) -> None:
        due, self.due = self.due, []
        for turn in due:
            turn()

    def run(self) -> None:
        while self.due:
            self.turn()

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.mirror.sweep(self.now_s)

    def check_sums(self) -> None:
        held = 0
        for shadow, backend in zip(self.shadows, self.backends, strict=True):
            e = shadow.evidence
            assert e.offered - e.sent - sum(e.not_sent.values()) - e.waiting == 0
            assert e.sent - sum(e.results.values()) - e.in_flight == 0
            assert e.in_flight == len(backend.sent) <= CONCURRENT_COPIES
            counted = {result: n for (_, v, result), n in self.mirror.counts.results.items() if v == shadow.version}
            assert counted == {**e.results, **e.not_sent}
            held += e.waiting + e.in_flight
        waiting = len(self.comparison.waiting or ())
        assert self.mirror.held_bytes >= (held + waiting) * COPY_BYTES
        assert (self.mirror.held_bytes == 0) == (held + waiting == 0)


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


def test_only_stables_answers_make_pairs() -> None:
    rig = Rig()
    rig.offer(arm=CANARY)
    rig.offer()
    rig.run()
    rig.backend.answer()
    rig.backend.answer(body=OTHER)
    assert rig.evidence.not_paired == 1
    assert rig.evidence.pairs.as_json()["table"] == {
        "both_ok": 1,
        "shadow_failed": 0,
        "stable_failed": 0,
        "both_failed": 0,
    }
    assert (rig.evidence.pairs.compared, rig.evidence.pairs.agreed) == (1, 0)


@pytest.mark.parametrize(
    ("stable", "shadow", "cell"),
    [
        (Kind.OK, Kind.OK, "both_ok"),
        (Kind.OK, Kind.ERROR, "shadow_failed"),
        (Kind.OK, Kind.REJECTED, "shadow_failed"),
        (Kind.TIMEOUT, Kind.OK, "stable_failed"),
        (Kind.REJECTED, Kind.REJECTED, "both_failed"),
        (Kind.OK, Kind.OVERLOADED, None),
        (Kind.OK, Kind.UNREACHABLE, None),
        (Kind.UNREACHABLE, Kind.OK, None),
    ],
)
def test_the_table_of_errors(stable: Kind, shadow: Kind, cell: str | None) -> None:
    rig = Rig()
    rig.offer(reply=Reply(stable, 200 if stable is Kind.OK else 500, GOOD))
    rig.run()
    rig.backend.answer(shadow)
    table = rig.evidence.pairs.as_json()["table"]
    assert table == {name: int(name == cell) for name in table}
    agrees = {"both_ok": ["true"], "shadow_failed": ["false"], "stable_failed": ["false"]}.get(cell or "", [])
    assert [agree for _, _, agree in rig.mirror.counts.pairs] == agrees


def test_the_latency_ratio_is_shadows_over_stables() -> None:
    rig = Rig()
    rig.offer()
    rig.run()
    rig.now_s += 0.020
    rig.backend.answer()
    ratio = rig.evidence.pairs.as_json()["latency_ratio"]
    assert (ratio["p50"], ratio["slower"]) == (2.0, 1)


def test_pairs_beyond_the_comparisons_time_or_memory_are_counted() -> None:
    rig = Rig(max_bytes=20_000)
    rig.comparison.is_full = True
    rig.offer()
    rig.run()
    rig.backend.answer()
    assert (rig.evidence.not_compared, rig.evidence.pairs.both_ok) == (1, 1)
    rig.comparison.is_full = False
    rig.offer()
    rig.run()
    rig.backend.answer(body=b"x" * 20_000)
    assert rig.evidence.not_compared == 2
    assert rig.mirror.held_bytes == 0


def test_answers_that_are_being_compared_count_in_the_queue() -> None:
    rig = Rig()
    rig.comparison.waiting = []
    rig.offer()
    rig.run()
    rig.backend.answer()
    assert rig.mirror.held_bytes == COPY_BYTES + 2 * len(GOOD)
    pair = rig.comparison.waiting.pop()
    pair.on_compared(pair.compare())
    assert rig.mirror.held_bytes == 0
    assert rig.evidence.pairs.agreed == 1


def test_a_key_is_always_or_never_in_the_sample_and_keyless_draws_are_independent() -> None:
    rig = Rig({"version": "3", "sample": 30}, max_bytes=1 << 30)
    copied = 0
    for n in range(400):
        before = rig.evidence.offered
        for _ in range(3):
            rig.offer(key=b"customer-%d" % n)
        assert rig.evidence.offered - before in {0, 3}
        copied += rig.evidence.offered > before
    assert 90 <= copied <= 150
    before = rig.evidence.offered
    for _ in range(1000):
        rig.offer(key=None)
    assert 240 <= rig.evidence.offered - before <= 360
