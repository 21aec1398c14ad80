"""The fast lane: whole infer requests from the socket to the pipeline and back, without a task or a future.

A connection is a ``FrontDoor``, which hands requests to the ASGI application. At a message boundary that the door's
parser confirms, and there only, a head that ``HeadReader`` understands to the last byte is taken by this class; all
else, byte for byte, goes to the door and stays there until that message and its answer are complete.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.backends.base import Reply
from gateway.dataplane.admission import RETRY_AFTER_S, Gate, RequestIds
from gateway.dataplane.doorkeeper import BODY, IDLE, WORK, Doorkeeper
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.frontdoor import FrontDoor
from gateway.dataplane.infer_heads import BEGINNING, HEAD_END, HeadReader, InferHead
from gateway.dataplane.pipeline import Pipeline
from gateway.dataplane.tally import Tally
from gateway.errors import BodyTimeout, GatewayError, Overloaded, error_body, status_of

JOIN_BYTES = 64 * 1024  # a body up to this size leaves in one piece with its head; a larger one is not copied
OPENINGS = 1024  # sizes of answers whose opening is kept; for a second at most, as long as the date stands
END = b"\r\n"
CLOSING = b"connection: close\r\n"
RETRY = b"retry-after: %d\r\n" % RETRY_AFTER_S


class Lane:
    """What all connections of one listener share.

    Args:
        gate: Counts requests in hand, of both lanes.
        heads: Reads heads.
        ids: For requests that bring none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        gate: Gate,
        heads: HeadReader,
        ids: RequestIds,
        pipeline: Pipeline,
        tally: Tally,
        clock: Callable[[], float],
    ) -> None:
        self.gate = gate
        self.ids = ids
        self.heads = heads
        self.find = heads.find
        self.pipeline = pipeline
        self.tally = tally
        self.clock = clock
        self._stamp: object = None
        self._usual: dict[int, bytes] = {}

    def opening(self, defaults: list[tuple[bytes, bytes]], status: int, length: int | None, size: int) -> bytes:
        """An answer up to the value of ``x-request-id``; that of the usual ones is made once for each size.

        Args:
            defaults: Lines of every answer; another list whenever they change.
            status: HTTP status.
            length: Of the JSON part when binary tensors follow it, else ``None``.
            size: Of the body, in bytes.
        """
        if self._stamp is not defaults:
            self._stamp, self._usual = defaults, {}
        is_usual = status == 200 and length is None
        if is_usual and (found := self._usual.get(size)) is not None:
            return found
        made = b"%s%scontent-type: application/%s\r\ncontent-length: %d\r\nx-request-id: " % (
            STATUS_LINE[status],
            b"".join(b"%s: %s\r\n" % line for line in defaults),
            b"json" if length is None else b"octet-stream",
            size,
        )
        if is_usual and len(self._usual) < OPENINGS:
            self._usual[size] = made
        return made


class FastLane(FrontDoor):
    """One connection of a client.

    While an answer of this lane is owed, whatever comes is the next message, and the door's: it waits there until this
    lane has caught up.
    """

    lane: Lane

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_elsewhere = False  # the door was given bytes that it may not be done with
        self._exchange: Exchange | None = None  # a request whose answer is owed
        self._head: InferHead | None = None  # a request whose body is still coming
        self._parts: list[bytes] = []
        self._missing = 0
        self._started_s = 0.0
        self._is_last = False

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
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
            self.lane.gate.in_hand -= 1
            self.lane.pipeline.abandon(exchange)
        elif self._head is not None:
            self.lane.tally.left_early(self._drop_head().model)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more: what guards make of its request is judged as of now."""
        is_kept = super().eof_received()
        if is_kept and self._exchange is not None:
            self._exchange.left_s = self.lane.clock()
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

    # From bytes to a request.

    def _is_taken(self, data: bytes) -> bool:
        """Take the message that begins here, or leave it alone."""
        lane = self.lane
        end = data.find(HEAD_END, 0, lane.heads.max_head_bytes) + 4
        if end < 4 or self._is_deaf or not data.startswith(BEGINNING):
            return False
        raw = data[:end]
        head = lane.find(raw) or lane.heads.read(raw)
        gate = lane.gate
        if head is None or (gate.in_hand >= gate.low_limit and not gate.has_room(head.is_low)) or gate.is_draining:
            return False
        missing = end + head.length - len(data)
        if missing < 0:  # another message behind it
            return False
        self._is_elsewhere = False
        now_s = self._started_s = self.phase_since_s = lane.clock()
        if missing:
            self.phase = BODY
            self._head, self._parts, self._missing = head, [data[end:]], missing
        else:
            self._begin(head, data[end:], now_s)
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
        now_s = self.phase_since_s = self.lane.clock()
        try:
            self.lane.gate.check(is_low=head.is_low)
        except Overloaded as error:  # others came while its body did
            self._refuse(head, error, is_last=False)
        else:
            self._begin(head, body, now_s)
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
        is_last = is_last or self._is_last or lane.gate.is_draining
        self.transport.write(b"".join((opening, identifier, END, _end(status, None, is_last), body)))
        if is_last:
            self.leave()
        else:
            self.enter(IDLE)

    def _begin(self, head: InferHead, body: bytes, begun_s: float) -> None:
        lane = self.lane
        started_s = self._started_s
        exchange = self._exchange = Exchange(
            head.model,
            body,
            head.header_length,
            head.request_id or lane.ids.new(),
            head.via,
            started_s,
            started_s + head.patience_s,
            self._answer,
            None,
        )
        exchange.begun_s = begun_s
        exchange.head = head
        lane.gate.in_hand += 1
        self.phase = WORK
        self.is_behind = True
        lane.pipeline.begin(exchange, head.version, head.headers)

    # From a reply to bytes.

    def _answer(self, reply: Reply) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._exchange = None
        lane = self.lane
        gate = lane.gate
        gate.in_hand -= 1
        body, status, length = reply.body, reply.status, reply.header_length
        is_last = self._is_last or gate.is_draining
        size = len(body)
        opening = lane.opening(self.server_state.default_headers, status, length, size)
        lines = exchange.named.lines
        end = END if status == 200 and length is None and not is_last else _end(status, length, is_last)
        if size <= JOIN_BYTES:
            self.transport.write(b"".join((opening, exchange.request_id.encode(), lines, end, body)))
        else:
            self.transport.write(b"".join((opening, exchange.request_id.encode(), lines, end)))
            self.transport.write(body)
        if self.access_log:
            self._log(exchange, status)
        self.is_behind = False
        if is_last:
            self.leave()
        elif self._is_elsewhere or self._is_deaf:
            self.caught_up()
        else:
            self.phase, self.phase_since_s = IDLE, lane.clock()

    def _log(self, exchange: Exchange, status: int) -> None:
        client = f"{self.client[0]}:{self.client[1]}" if self.client else ""
        version = exchange.head.version if exchange.head is not None else None
        pinned = "" if version is None else f"/versions/{version}"
        path = f"/v2/models/{exchange.model}{pinned}/infer"
        self.access_logger.info('%s - "%s %s HTTP/%s" %d', client, "POST", path, "1.1", status)


def fast_lane(keeper: Doorkeeper, lane: Lane) -> type[FastLane]:
    """The protocol class of one listener."""
    return type("FastLane", (FastLane,), {"keeper": keeper, "lane": lane})


def _end(status: int, length: int | None, is_last: bool) -> bytes:
    """The end of a head, with lines that most answers do not have, in the order of the other lane."""
    inner = b"" if length is None else b"inference-header-content-length: %d\r\n" % length
    retry = RETRY if status == HTTPStatus.SERVICE_UNAVAILABLE else b""
    return inner + retry + (CLOSING if is_last else b"") + END
