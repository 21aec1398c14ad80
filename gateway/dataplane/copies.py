"""One request on its way to one shadow, and what waits and runs there."""

from collections import deque
from collections.abc import Callable

from gateway.backends.base import Reply
from gateway.dataplane.exchange import Exchange, unheard
from gateway.protocol.request import InferRequest, read_request
from gateway.runtime.shadows import CompiledShadow
from routing.analysis.outcome import Kind

COPY_BYTES = 1024  # of a copy beside its bodies


class Stable:
    """How stable answered the request of a copy.

    Attributes:
        kind: Outcome of its attempt.
        body: Its answer, kept to be compared; empty when it is no good one.
    """

    __slots__ = ("body", "header_length", "kind", "latency_s")

    def __init__(self, reply: Reply, latency_s: float) -> None:
        self.kind = reply.kind
        self.latency_s = latency_s
        if reply.kind is Kind.OK:
            self.body, self.header_length = reply.body, reply.header_length
        else:
            self.body, self.header_length = b"", None


class Copy:
    """One request on its way to one shadow; also the call that backends read.

    Attributes:
        stable: ``None`` when another version answered: then there is no pair.
        held_bytes: What it counts in the queue.
    """

    __slots__ = (
        "__weakref__",
        "body",
        "cancel",
        "dispatched_s",
        "header_length",
        "held_bytes",
        "offered_s",
        "request_id",
        "shadow",
        "stable",
        "via",
    )

    may_repeat = True

    def __init__(
        self, shadow: CompiledShadow, exchange: Exchange, stable: Stable | None, now_s: float, held_bytes: int
    ) -> None:
        self.shadow = shadow
        self.body = exchange.body
        self.header_length = exchange.header_length
        self.request_id = exchange.request_id
        self.via = exchange.via
        self.stable = stable
        self.offered_s = now_s
        self.dispatched_s = 0.0
        self.cancel: Callable[[], None] = unheard
        self.held_bytes = held_bytes

    def request(self) -> InferRequest:
        """The body, read anew: the client's request is not kept for it.

        Raises:
            BadRequest: It is no inference request.
        """
        return read_request(self.body, self.header_length)


class Lane:
    """What waits for one shadow's backend, and what is there."""

    __slots__ = ("held_bytes", "in_flight", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Copy] = deque()
        self.in_flight: set[Copy] = set()
        self.held_bytes = 0
