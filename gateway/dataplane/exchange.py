"""One request on its way: what it was, which arm it is on, and who waits for the answer."""

from collections.abc import Callable
from typing import Any

import orjson

from gateway.backends.base import Reply
from gateway.dataplane.infer_heads import InferHead
from gateway.protocol.request import ALLOW_NAN, InferRequest, read_request
from gateway.runtime.arms import NAMELESS, Arm, Named
from gateway.runtime.compile import CompiledRoute
from routing.analysis.guard import Detector


def unheard() -> None:
    """What there is to cancel while no attempt is in flight."""


def _unasked(_exchange: "Exchange", _reply: Reply) -> None:
    """Who hears of replies before the pipeline has begun."""


class Exchange:
    """State of one request; also the call that backends read.

    Attributes:
        deliver: Receives what goes out, exactly once unless the exchange is abandoned; ``named`` stands by then.
        named: Headers of the answer that say who gave it.
        on_replied: Hears how an attempt ended.
        on_old: Called once when the request has been in work for a while, to start watching for a client that left.
        deadline_s: On the loop's clock; the end of all attempts.
        attempt_deadline_s: The end of the attempt in flight.
        begun_s: When the whole request was there.
        attempted_s: Time that ended attempts took.
        given_s: How long the first attempt was given.
        arm: The arm of the attempt in flight.
        drawn: The canary arm whose guard learns from this request, while it may.
        detector: That guard, as it was when the attempt was dispatched; the arm may have a new one since.
        stable_evidence: The attempt in flight is a draw of stable's.
        refusal: The canary's reply while stable is asked instead.
        head: What it came with, where that is a head that may come again and so remembers its draw.
        key: The sticky key, ``None`` when the route has none or the request carries none.
        in_sequence: The request belongs to a sequence, and so to stable.
        latency_s: Of the attempt that ended last.
        left_s: When the client closed its side of the connection, 0 when it did not: it may be gone, or wait.
    """

    __slots__ = (
        "_request",
        "arm",
        "attempt_deadline_s",
        "attempted_s",
        "attempts",
        "begun_s",
        "body",
        "cancel",
        "deadline_s",
        "deliver",
        "detector",
        "dispatched_s",
        "drawn",
        "given_s",
        "head",
        "header_length",
        "in_sequence",
        "is_done",
        "is_pinned",
        "key",
        "key_hash",
        "latency_s",
        "left_s",
        "mask",
        "may_fail_over",
        "model",
        "named",
        "on_old",
        "on_replied",
        "refusal",
        "request_id",
        "route",
        "stable_evidence",
        "started_s",
        "ticket",
        "via",
    )

    def __init__(
        self,
        model: str,
        body: bytes,
        header_length: int | None,
        request_id: str,
        via: str,
        started_s: float,
        deadline_s: float,
        deliver: Callable[[Reply], None],
        on_old: Callable[[], None] | None,
    ) -> None:
        self.model = model
        self.body = body
        self.header_length = header_length
        self.request_id = request_id
        self.via = via
        self.started_s = started_s
        self.deadline_s = deadline_s
        self.deliver = deliver
        self.on_old = on_old
        self.route: CompiledRoute | None = None
        self.arm: Arm | None = None
        self.drawn: Arm | None = None
        self.detector: Detector | None = None
        self.stable_evidence = False
        self.may_fail_over = False
        self.is_pinned = False
        self.in_sequence = False
        self.key: bytes | None = None
        self.key_hash: int | None = None
        self.latency_s = 0.0
        self.left_s = 0.0
        self.ticket = 0
        self.mask = 0
        self.attempts = 0
        self.attempted_s = 0.0
        self.begun_s = started_s
        self.dispatched_s = 0.0
        self.given_s = 0.0
        self.attempt_deadline_s = deadline_s
        self.cancel: Callable[[], None] = unheard
        self.refusal: Reply | None = None
        self.is_done = False
        self.named: Named = NAMELESS
        self.on_replied: Callable[[Exchange, Reply], None] = _unasked
        self.head: InferHead | None = None
        self._request: InferRequest | None = None

    def replied(self, reply: Reply) -> None:
        """A backend has ended the attempt in flight."""
        self.on_replied(self, reply)

    def request(self) -> InferRequest:
        """The body, read once.

        Raises:
            BadRequest: It is no inference request.
        """
        if self._request is None:
            self._request = read_request(self.body, self.header_length)
        return self._request

    @property
    def may_repeat(self) -> bool:
        """Whether the request may reach a server twice."""
        return self.route is None or not self.route.document.route.side_effects

    def _head(self) -> dict[str, Any]:
        """The JSON part as plain data; empty when it cannot be read."""
        head = self.body if self.header_length is None else self.body[: self.header_length]
        try:
            plain = orjson.loads(head)
        except orjson.JSONDecodeError:
            return {}
        return plain if isinstance(plain, dict) else {}

    def is_sequence(self) -> bool:
        """Whether the request belongs to a sequence. Looks into the body only where the word occurs."""
        if b"sequence_id" not in self.body:
            return False
        parameters = self._head().get("parameters")
        return isinstance(parameters, dict) and parameters.get("sequence_id", 0) not in (0, "")

    def asks_for_classes(self) -> bool:
        """Whether an output is to be answered as classes, which are not what the version's metadata promises."""
        return b'"classification"' in self.body

    def wanted(self) -> tuple[list[str] | None, bool]:
        """Outputs that the client named (``None``: all), and whether NaN may go out in JSON."""
        body = self.body
        if b'"outputs"' not in body and b"allow_nan" not in body and b"\\" not in body:
            return None, False
        plain = self._head()
        outputs, parameters = plain.get("outputs"), plain.get("parameters")
        names = [item.get("name") for item in outputs if isinstance(item, dict)] if isinstance(outputs, list) else []
        requested = [name for name in names if isinstance(name, str)]
        return requested or None, isinstance(parameters, dict) and parameters.get(ALLOW_NAN) is True
