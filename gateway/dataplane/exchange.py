"""One request on its way: what it was, which arm it is on, and who waits for the answer."""

from collections.abc import Callable
from typing import Any

import orjson

from gateway.backends.base import Reply
from gateway.dataplane.infer_heads import InferHead
from gateway.protocol.request import ALLOW_NAN, InferRequest, read_request
from gateway.runtime.arms import Arm, Named
from gateway.runtime.compile import CompiledRoute, sticky_key
from routing.analysis.guard import Detector

# How the arm of a request was chosen.
OTHERWISE = 0  # not yet, or by a draw that is no evidence of stable's
DRAW = 1  # by a draw of stable's, which is evidence of how stable fares
PIN = 2  # the request names the version
SEQUENCE = 3  # it belongs to a sequence, and so to stable

Deliver = Callable[["Exchange", Reply, Named, float], None]


def pending() -> None:
    """What there is to cancel before a backend has said how."""


def unheard() -> None:
    """What there is to cancel while no attempt is in flight."""


class Trial:
    """What the guard of a canary knows of a request that was drawn for it.

    Attributes:
        arm: The canary.
        may_fail_over: Stable is asked where the canary fails.
        refusal: The canary's reply while stable is asked instead.
        detector: The guard, as it was when the attempt was dispatched; the arm may have a new one since.
        ticket: What the guard calls the attempt.
        given_s: How long the canary's attempt was given.
        attempted_s: Time that ended attempts took.
    """

    __slots__ = ("arm", "attempted_s", "detector", "given_s", "may_fail_over", "refusal", "ticket")

    def __init__(self, arm: Arm, may_fail_over: bool, now_s: float) -> None:
        self.arm = arm
        self.may_fail_over = may_fail_over
        self.refusal: Reply | None = None
        self.detector: Detector = arm.evidence.detector
        self.ticket = self.detector.dispatched(now_s)
        self.given_s = 0.0
        self.attempted_s = 0.0


class Exchange:
    """State of one request; also the call that backends read.

    Args:
        head: What it came with.
        deliver: Receives what goes out, who stands behind it, and when it came; exactly once unless the exchange is
            abandoned.
        started_s: When it began to come; ``begun_s`` is when it was there as a whole.

    Attributes:
        deadline_s: The end of all attempts; ``attempt_deadline_s`` that of the attempt in flight.
        arm: The arm of the attempt in flight.
        trial: Of a request that was drawn for a canary which takes draws.
        choice: How the arm was chosen.
        mask: Thresholds that were passed and counted, as bits.
        left_s: When the client closed its side of the connection, 0 when it did not: it may be gone, or wait.
    """

    __slots__ = (
        "_request",
        "arm",
        "attempt_deadline_s",
        "begun_s",
        "body",
        "cancel",
        "choice",
        "deadline_s",
        "deliver",
        "dispatched_s",
        "head",
        "header_length",
        "left_s",
        "mask",
        "request_id",
        "route",
        "started_s",
        "trial",
        "via",
    )

    def __init__(
        self, head: InferHead, body: bytes, request_id: str, deliver: Deliver, started_s: float, begun_s: float
    ) -> None:
        self.head = head
        self.body = body
        self.header_length = head.header_length
        self.request_id = request_id
        self.via = head.via
        self.deliver = deliver
        self.started_s = started_s
        self.begun_s = begun_s
        self.deadline_s = self.attempt_deadline_s = started_s + head.patience_s
        self.dispatched_s = self.left_s = 0.0
        self.choice = self.mask = OTHERWISE
        self.route: CompiledRoute | None = None
        self.arm: Arm | None = None
        self.trial: Trial | None = None
        self.cancel: Callable[[], None] = pending
        self._request: InferRequest | None = None

    @property
    def model(self) -> str:
        """The model that it names."""
        return self.head.model

    @property
    def key(self) -> bytes | None:
        """The sticky key, ``None`` when the route has none or the request carries none."""
        head, route = self.head, self.route
        if route is None:
            return None
        return head.key if head.plan is route.plan else sticky_key(route, head.headers)

    @property
    def key_hash(self) -> int | None:
        """The same to count by; every draw without a key is somebody else's."""
        key = self.key
        return None if key is None else hash(key)

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


class Watched(Exchange):
    """A request whose client is watched once it has been in work for a while.

    Attributes:
        on_old: Called once by then, to start watching for a client that left.
    """

    __slots__ = ("on_old",)

    def __init__(self, *parts: Any, on_old: Callable[[], None]) -> None:
        super().__init__(*parts)
        self.on_old: Callable[[], None] | None = on_old

    def watch(self) -> None:
        """It has been in work for a while."""
        on_old, self.on_old = self.on_old, None
        if on_old is not None:
            on_old()
