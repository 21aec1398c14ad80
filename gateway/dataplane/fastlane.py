"""The fast lane: whole infer requests from the socket to the pipeline and back, without a task or a future.

A connection is a ``FrontDoor``, which hands requests to the ASGI application. At a message boundary that the door's
parser confirms, and there only, a head that ``HeadReader`` understands to the last byte is taken by this class; all
else, byte for byte, goes to the door and stays there until that message and its answer are complete.
"""

from typing import Any

from gateway.backends.base import Reply
from gateway.dataplane.doorkeeper import BODY, IDLE, WORK, Doorkeeper
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.frontdoor import FrontDoor
from gateway.dataplane.infer_heads import BEGINNING, HEAD_END, InferHead
from gateway.dataplane.lane import END, JOIN_BYTES, Lane, ending
from gateway.errors import BodyTimeout, GatewayError, Overloaded, error_body, status_of
from gateway.runtime.arms import Named


class FastLane(FrontDoor):
    """One connection of a client.

    While an answer of this lane is owed, whatever comes is the next message, and the door's: it waits there until this
    lane has caught up.
    """

    __slots__ = (
        "_clock",
        "_exchange",
        "_find",
        "_gate",
        "_head",
        "_is_elsewhere",
        "_is_last",
        "_is_ready",
        "_missing",
        "_new_id",
        "_parts",
        "_pipeline",
        "_started_s",
    )

    lane: Lane

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        lane = self.lane
        self._gate, self._find, self._clock = lane.gate, lane.heads.find, lane.clock
        self._new_id, self._pipeline = lane.ids.new, lane.pipeline
        self._is_ready = False  # the last message was of this lane and is answered, and nothing has come since
        self._is_elsewhere = False  # the door was given bytes that it may not be done with
        self._exchange: Exchange | None = None  # a request whose answer is owed
        self._head: InferHead | None = None  # a request whose body is still coming
        self._parts: list[bytes] = []
        self._missing = 0
        self._started_s = 0.0
        self._is_last = False

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """Take a request that is known and whole, where one may begin; anything else needs a closer look."""
        if self._is_ready and not self._is_deaf:
            self._is_ready = False
            end = data.find(HEAD_END) + 4
            head = self._find(data[:end])
            gate = self._gate
            if (
                head is not None
                and len(data) - end == head.length
                and gate.in_hand < gate.low_limit
                and not gate.is_draining
            ):
                now_s = self.phase_since_s = self._clock()
                self._begin(head, data[end:], now_s, now_s)
                return
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        """Take what came, in the lane that the message is in; at its beginning, choose one."""
        if self._head is not None:
            self._take(self._head, data)
        elif self._exchange is not None or (self._is_elsewhere and not self.is_at_boundary) or not self._is_taken(data):
            self._is_elsewhere = True
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: nobody waits for the answer."""
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            self._gate.in_hand -= 1
            self._pipeline.abandon(exchange)
        elif self._head is not None:
            self.lane.tally.left_early(self._drop_head().model)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more: what guards make of its request is judged as of now."""
        is_kept = super().eof_received()
        if is_kept and self._exchange is not None:
            self._exchange.left_s = self._clock()
        return is_kept

    def shutdown(self) -> None:
        """The server ends: answer what is in hand, and then close."""
        if self._exchange is None and self._head is None:
            super().shutdown()
        else:
            self._is_last = True

    def watch_writes(self, now_s: float) -> None:
        """Also what is swept: a body that does not come within the request's own deadline."""
        super().watch_writes(now_s)
        if self._head is not None and now_s - self._started_s > self._head.patience_s:
            self._body_is_late("the body did not arrive within the request's deadline")

    def overdue(self, now_s: float) -> None:
        """The time of the phase is over."""
        if self._head is None:
            super().overdue(now_s)
        else:
            self.keeper.hit("body_timeout_s")
            self._body_is_late("the body did not arrive in time")

    def _is_sending(self) -> bool:
        if self._head is not None:
            return True
        return self._begun != self._completed if self._started_s else super()._is_sending()

    def _is_owing(self) -> bool:
        return self._exchange is not None or super()._is_owing()

    # From bytes to a request.

    def _is_taken(self, data: bytes) -> bool:
        """Take the message that begins here, or leave it alone."""
        lane = self.lane
        end = data.find(HEAD_END, 0, lane.heads.max_head_bytes) + 4
        if end < 4 or self._is_deaf or not data.startswith(BEGINNING):
            return False
        raw = data[:end]
        head = self._find(raw) or lane.heads.read(raw)
        gate = self._gate
        if head is None or (gate.in_hand >= gate.low_limit and not gate.has_room(head.is_low)) or gate.is_draining:
            return False
        missing = end + head.length - len(data)
        if missing < 0:  # another message behind it
            return False
        self._is_elsewhere = False
        now_s = self._started_s = self.phase_since_s = self._clock()
        if missing:
            self.phase = BODY
            self._head, self._parts, self._missing = head, [data[end:]], missing
        else:
            self._begin(head, data[end:], now_s, now_s)
        return True

    def _take(self, head: InferHead, data: bytes) -> None:
        """More of a body; what comes behind it is another message."""
        missing = self._missing
        self._parts.append(data if len(data) <= missing else data[:missing])
        self._missing = missing - len(data)
        if self._missing > 0:
            return
        body = b"".join(self._parts)
        self._head, self._parts = None, []
        now_s = self.phase_since_s = self._clock()
        try:
            self._gate.check(is_low=head.is_low)
        except Overloaded as error:  # others came while its body did
            self._refuse(head, error, is_last=False)
        else:
            self._begin(head, body, self._started_s, now_s)
        if len(data) > missing and not self.transport.is_closing():
            self.data_received(data[missing:])

    def _drop_head(self) -> InferHead:
        head, self._head, self._parts = self._head, None, []
        assert head is not None
        return head

    def _body_is_late(self, sentence: str) -> None:
        assert self._head is not None
        error = BodyTimeout(sentence)
        self._refuse(self._head, error, is_last=True)
        self._drop_head()

    def _refuse(self, head: InferHead, error: GatewayError, *, is_last: bool) -> None:
        """Answer a request that does not reach the pipeline, as the other lane does."""
        lane = self.lane
        lane.tally.refused(head.model, error)
        status, body = status_of(error), error_body(str(error))
        identifier = (head.request_id or lane.ids.new()).encode()
        opening = lane.opening(self.server_state.default_headers, status, None, len(body))
        is_last = is_last or self._is_last or self._gate.is_draining
        self.transport.write(b"".join((opening, identifier, END, ending(status, None, is_last), body)))
        if is_last:
            self.leave()
        else:
            self.enter(IDLE)

    def _begin(self, head: InferHead, body: bytes, started_s: float, begun_s: float) -> None:
        identifier = head.request_id or self._new_id()
        exchange = self._exchange = Exchange(head, body, identifier, self._answer, started_s, begun_s)
        self._gate.in_hand += 1
        self.phase = WORK
        self._pipeline.begin(exchange)

    # From a reply to bytes.

    def _answer(self, exchange: Exchange, reply: Reply, named: Named, now_s: float) -> None:
        self._exchange = None
        gate = self._gate
        gate.in_hand -= 1
        is_last = self._is_last or gate.is_draining
        lane, opening, body = self.lane, None, reply.body
        if reply.status == 200 and reply.header_length is None and lane.stamp is self.server_state.default_headers:
            opening = lane.usual.get(len(body))
        if opening is None or is_last:
            self._write(reply, exchange.request_id.encode() + named.lines, is_last)
        else:
            self.transport.write(b"".join((opening, exchange.request_id.encode(), named.last_lines, body)))
        if self.access_log:
            self._log(exchange, reply.status)
        if is_last:
            self.leave()
        elif self._is_elsewhere or self._is_deaf:
            self._proceed()
        else:
            self.phase, self.phase_since_s = IDLE, now_s
            self._is_ready = True

    def _write(self, reply: Reply, lines: bytes, is_last: bool) -> None:
        """Write an answer that is not a usual one, or the first of its size."""
        body, status, length = reply.body, reply.status, reply.header_length
        opening = self.lane.opening(self.server_state.default_headers, status, length, len(body))
        head = b"".join((opening, lines, ending(status, length, is_last)))
        if len(body) <= JOIN_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def _log(self, exchange: Exchange, status: int) -> None:
        client = f"{self.client[0]}:{self.client[1]}" if self.client else ""
        version = exchange.head.version
        pinned = "" if version is None else f"/versions/{version}"
        path = f"/v2/models/{exchange.model}{pinned}/infer"
        self.access_logger.info('%s - "%s %s HTTP/%s" %d', client, "POST", path, "1.1", status)


def fast_lane(keeper: Doorkeeper, lane: Lane) -> type[FastLane]:
    """The protocol class of one listener."""
    return type("FastLane", (FastLane,), {"keeper": keeper, "lane": lane})
