"""The life of a connection: phases, deadlines, refusals and a polite end. What is said on it is not read here."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.dataplane.admission import RETRY_AFTER_S, RequestIds, request_id
from gateway.dataplane.cycle import DEAF, QUEUE, TAKING, Cycle, Exit, Flow
from gateway.dataplane.doorkeeper import BODY, CLOSING, HEAD, IDLE, LINGER, REST, SILENT, WORK, Doorkeeper
from gateway.errors import BodyTimeout, BodyTooLarge, GatewayError, error_body

OVER_A_BOUND = {
    "max_connections": "the gateway holds as many connections as it may: come back later",
    "max_connections_per_client": "your address holds as many connections as it may: come back later",
}
IDS = RequestIds()
OnLeft = Callable[[float], None]


class Doorway(HttpToolsProtocol):
    """One connection of a client.

    Attributes:
        keeper: Holds the bounds and the timer; the class's, not the connection's.
        phase: What the connection is doing: ``SILENT`` to ``CLOSING``.
        phase_since_s: Since when, monotonic.
        is_half_closed: The client sends nothing more; close after the answer.
    """

    keeper: Doorkeeper
    cycle: Cycle | None  # type: ignore[assignment]
    flow: Flow

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.phase = SILENT
        self.phase_since_s = 0.0
        self.is_half_closed = False
        self._begun = self._completed = 0  # messages
        self._is_in_head = False
        self._is_deaf = False
        self._thrown_bytes = 0
        self._last_words = b""
        self._unsent_since_s = 0.0
        self._in_work: RequestResponseCycle | None = None  # the cycle whose turn it is to answer

    def enter(self, phase: int) -> None:
        """Say what the connection is doing now."""
        self.phase = phase
        self.phase_since_s = monotonic()

    def refuse(self, status: int, sentence: str, bound: str | None = None) -> None:
        """Listen no more; say why, behind the answers that are owed, and close. ``bound`` is counted."""
        if self._is_deaf or self.transport.is_closing():
            return
        self._is_deaf = True
        if bound is not None:
            self.keeper.hit(bound)
        identifier = request_id(dict(self.headers or ()), IDS)
        self._last_words = refusal(status, sentence, identifier)
        if self._is_owing():
            self.enter(WORK)
        else:
            self._say_last_words()

    def leave(self) -> None:
        """Close after what was written; when the client is still sending, only once it could read that."""
        if self.phase >= LINGER or self.transport.is_closing():
            return
        if self._is_sending() and not self.is_half_closed and self.keeper.may_linger(self):
            self._linger()
        else:
            self._close()

    def _is_sending(self) -> bool:
        """Whether the client is in the middle of a request, or has not said what it wants."""
        return self._begun != self._completed or not self._begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One more connection."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        self._exit = Exit(self, transport)
        self.enter(SILENT)
        over = self.keeper.admit(self)
        if over is not None:
            self.refuse(503, OVER_A_BOUND[over], over)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.keeper.forget(self)
        self._is_deaf = True
        self.phase = CLOSING
        self._disconnect()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more; it may be gone, or wait for its answer."""
        is_whole = self._begun == self._completed or self._is_in_head
        if not self.keeper.bounds.half_close_s:
            return False
        if self.phase >= LINGER or not is_whole or not self._is_owing():
            return False
        self.is_half_closed = self._is_deaf = True
        self.keeper.half_closed(self)
        if self._in_work is not None:
            on_left: OnLeft | None = self._in_work.scope.get("turnout.on_left")  # type: ignore[assignment]
            if on_left is not None:
                on_left(monotonic())
        return True

    def gone(self) -> None:
        """The client has closed its side and was waited for long enough."""
        self._disconnect()
        self.transport.close()

    def on_response_complete(self) -> None:
        """An answer of the application was written."""
        self.server_state.total_requests += 1
        cycle = self.cycle
        if (
            cycle is not None
            and cycle.response_complete
            and not cycle.is_told
            and isinstance(cycle.fault, BodyTooLarge)
        ):
            self.keeper.hit("max_body_bytes")  # else the application has counted it
        self._proceed()

    def pause_writing(self) -> None:
        """Answers are not taken as fast as they are given: take no more requests."""
        super().pause_writing()
        self.flow.hold(TAKING)

    def resume_writing(self) -> None:
        """They are again."""
        self._unsent_since_s = 0.0
        super().resume_writing()
        self.flow.release(TAKING)

    def overdue(self, now_s: float) -> None:
        """The time of the phase is over."""
        if self.phase in {HEAD, BODY} and self.flow.read_paused:
            self.phase_since_s = now_s  # it is we who do not read
        elif self.phase == HEAD:
            self.refuse(408, "the head did not arrive in time", "head_timeout_s")
        elif self.phase == BODY:
            self.keeper.hit("body_timeout_s")
            self._fail(BodyTimeout("the body did not arrive in time"))
        elif self.phase == CLOSING:
            self._give_up_writing()
        else:
            if self.phase == SILENT:
                self.keeper.hit("silent_timeout_s")
            self._close()

    def watch_writes(self, now_s: float) -> None:
        """Drop a connection whose client does not take its answer."""
        if self.phase == CLOSING or not self.transport.get_write_buffer_size():
            self._unsent_since_s = 0.0
            return
        if not self._unsent_since_s:
            self._unsent_since_s = now_s
        since_s = self._unsent_since_s
        if self.phase in {IDLE, WORK}:
            since_s = max(since_s, self.phase_since_s)
        if now_s - since_s > self.keeper.bounds.write_timeout_s:
            self._give_up_writing()

    def _give_up_writing(self) -> None:
        self.keeper.hit("write_timeout_s")
        self._disconnect()
        self.transport.abort()

    def _disconnect(self) -> None:
        """Nobody is there for the answer in work; uvicorn itself tells only the last request of a connection."""
        if self._in_work is not None and not self._in_work.response_complete:
            self._in_work.disconnected = True
            self._in_work.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._in_work = cycle
        super()._start_asgi_task(cycle, app)

    def _is_owing(self) -> bool:
        """Whether there is an answer that has not gone out."""
        return not (self.cycle is None or self.cycle.response_complete)

    def _fail(self, fault: GatewayError) -> None:
        """The rest of the body is not taken."""
        self._is_deaf = True
        if self.cycle is None or self.cycle.response_complete:
            self.leave()
        else:
            self.enter(WORK)
            self.cycle.fail(fault)

    def _proceed(self) -> None:
        """Nothing is owed before what waits: begin with that, or wait for more."""
        if self.phase >= LINGER or self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if not self.pipeline:
                self.flow.release(QUEUE)
            self._start_asgi_task(cycle, app)
            return
        self.flow.resume_reading()
        if self._last_words:
            self._say_last_words()
        elif self.is_half_closed:
            self._close()
        elif self._begun == self._completed:
            self.enter(IDLE)
        elif not self._is_in_head:
            self.enter(REST)

    def _say_last_words(self) -> None:
        self.transport.write(self._last_words)
        self.leave()

    def _throw_away(self, received: int) -> None:
        self._thrown_bytes += received
        if self._thrown_bytes <= self.keeper.bounds.linger_bytes:
            return
        if self.phase == LINGER:
            self._close()
        else:
            self.flow.hold(DEAF)

    def _linger(self) -> None:
        self._is_deaf = True
        self.keeper.lingering += 1
        self.enter(LINGER)
        self.flow.held = 0
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _close(self) -> None:
        if self.phase == LINGER:
            self.keeper.lingering -= 1
        self._is_deaf = True
        self.enter(CLOSING)
        self.transport.close()


def refusal(status: int, sentence: str, identifier: str) -> bytes:
    """A whole answer that is the last on its connection."""
    body = error_body(sentence)
    again = b"retry-after: %d\r\n" % RETRY_AFTER_S if status == 503 else b""
    return (
        b"%scontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n%sconnection: close\r\n\r\n%s"
        % (STATUS_LINE[status], len(body), identifier.encode(), again, body)
    )
