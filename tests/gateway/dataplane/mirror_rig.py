"""A mirror whose backends and comparison answer when a test says so."""

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

from gateway.backends.base import Reply, State
from gateway.backends.registry import BackendKey, Slot
from gateway.dataplane.admission import Gate
from gateway.dataplane.comparison import Pair
from gateway.dataplane.copies import COPY_BYTES
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.infer_heads import InferHead
from gateway.dataplane.mirror import CONCURRENT_COPIES, Mirror
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
