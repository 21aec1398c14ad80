"""The protocol of a listener: strict about what comes in, bounded in time and memory, polite when it refuses."""

import asyncio
import logging
from time import monotonic
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.dataplane.admission import RETRY_AFTER_S, RequestIds, request_id
from gateway.dataplane.cycle import DEAF, QUEUE, TAKING, Cycle, Exit, Flow
from gateway.dataplane.doorkeeper import BODY, CLOSING, HEAD, IDLE, LINGER, REST, SILENT, WORK, Doorkeeper
from gateway.dataplane.heads import (
    Header,
    Refused,
    announced_bytes,
    check_head,
    has_body,
    head_too_large,
    line_too_long,
    too_many_headers,
    url_too_long,
)
from gateway.errors import BadRequest, BodyTimeout, BodyTooLarge, GatewayError, error_body

__all__ = ["BODY", "CLOSING", "HEAD", "IDLE", "LINGER", "REST", "SILENT", "WORK", "FrontDoor", "front_door"]

log = logging.getLogger("turnout.dataplane")

OVER_A_BOUND = {
    "max_connections": "the gateway holds as many connections as it may: come back later",
    "max_connections_per_client": "your address holds as many connections as it may: come back later",
}
IDS = RequestIds()
TRUSTED = (httptools.HttpParserInvalidURLError, UnicodeDecodeError)  # of a callback: the client's fault


class FrontDoor(HttpToolsProtocol):
    """One connection of a client.

    A head that is refused is answered here, behind the answers that are still owed. What is wrong with a body is raised
    where the application waits for it, so that it is answered and counted like any other error.

    Attributes:
        keeper: Holds the bounds and the timer; the class's, not the connection's.
        phase: What the connection is doing: ``SILENT`` to ``CLOSING``.
        phase_since_s: Since when, monotonic.
        is_behind: Answers of a subclass are owed before the application's; it says ``caught_up`` when none is.
        is_half_closed: The client sends nothing more; close after the answer.
    """

    keeper: Doorkeeper

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
        self.is_behind = False
        self.is_half_closed = False
        self._begun = self._completed = self._seen = 0
        self._is_in_head = False
        self._is_deaf = False
        self._head_bytes = self._body_bytes = self._barren_bytes = self._thrown_bytes = 0
        self._last_words = b""
        self._unsent_since_s = 0.0

    # What FastLane uses

    def enter(self, phase: int) -> None:
        """Say what the connection is doing now."""
        self.phase = phase
        self.phase_since_s = monotonic()

    @property
    def is_at_boundary(self) -> bool:
        """Whether the parser stands between messages and nothing is owed. Line ends there, which it skips, do not count."""
        return (
            self._begun == self._completed
            and self.phase <= IDLE
            and (self.cycle is None or self.cycle.response_complete)
            and not self._is_deaf
            and not self.pipeline
        )

    def caught_up(self) -> None:
        """The subclass's own answers have gone: go on with what stands behind them."""
        self.is_behind = False
        self._proceed()

    def refuse(self, status: int, sentence: str, bound: str | None = None) -> None:
        """Listen no more; say why, behind the answers that are owed, and close. ``bound`` is counted."""
        if self._is_deaf:
            return
        self._is_deaf = True
        if bound is not None:
            self.keeper.hit(bound)
        identifier = request_id(dict(self.headers or ()), IDS)
        self._last_words = refusal(status, sentence, identifier)
        if not self._is_owing():
            self._say_last_words()

    def leave(self) -> None:
        """Close after what was written; when the client is still sending, only once it could read that."""
        if self.phase >= LINGER or self.transport.is_closing():
            return
        is_sending = self._begun != self._completed or not self._begun
        if is_sending and not self.is_half_closed and self.keeper.may_linger(self):
            self._linger()
        else:
            self._close()

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One more connection."""
        super().connection_made(transport)
        self.flow: Flow = Flow(transport)
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
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more; it may be gone, or wait for its answer."""
        is_whole = self._begun == self._completed or self._is_in_head
        if self.phase >= LINGER or not is_whole or not self._is_owing():
            return False
        self.is_half_closed = self._is_deaf = True
        self.keeper.half_closed(self)
        return True

    def pause_writing(self) -> None:
        """Answers are not taken as fast as they are given: take no more requests."""
        super().pause_writing()
        self.flow.hold(TAKING)

    def resume_writing(self) -> None:
        """They are again."""
        self._unsent_since_s = 0.0
        super().resume_writing()
        self.flow.release(TAKING)

    # What is swept

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
            self.keeper.hit("write_timeout_s")
            self.transport.abort()
        else:
            if self.phase == SILENT:
                self.keeper.hit("silent_timeout_s")
            self._close()

    def watch_writes(self, now_s: float) -> None:
        """Drop a connection whose client does not take its answer."""
        if not self.transport.get_write_buffer_size():
            self._unsent_since_s = 0.0
            return
        if not self._unsent_since_s:
            self._unsent_since_s = now_s
        since_s = self._unsent_since_s
        if self.phase in {IDLE, WORK}:
            since_s = max(since_s, self.phase_since_s)
        if now_s - since_s > self.keeper.bounds.write_timeout_s:
            self.keeper.hit("write_timeout_s")
            self.transport.abort()

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._is_deaf:
            self._throw_away(len(data))
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The request itself is served; of another protocol nothing is known.
            self._follow(len(data))
            rest = data[upgrade.args[0] :]
            if rest:
                self.data_received(rest)
        except httptools.HttpParserError as error:
            self._stumble(error)
        else:
            self._follow(len(data))

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._begun += 1
        self._is_in_head = True
        self._head_bytes = self._body_bytes = self._barren_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        self.url += url
        if len(self.url) > self.keeper.bounds.max_url_bytes:
            raise url_too_long(self.keeper.bounds)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field, or one behind the body, which means nothing here."""
        if not self._is_in_head:
            return
        headers, bounds = self.headers, self.keeper.bounds
        if len(name) + len(value) > bounds.max_line_bytes:
            raise line_too_long(bounds)
        if len(headers) >= bounds.max_headers:
            raise too_many_headers(bounds)
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head: check it, and give the request to the application."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        headers: list[Header] = self.headers
        bounds = self.keeper.bounds
        check_head(version, method, len(self.url), headers, bounds)
        if self.parser.should_upgrade() and has_body(headers):
            raise Refused(400, "a request with a body asks for another protocol")
        if len(self.pipeline) >= bounds.max_pipelined:
            raise Refused(503, f"more than {bounds.max_pipelined} requests wait on this connection", "max_pipelined")
        self._fill_scope(version, method)
        self._is_in_head = False
        is_free = not self._is_owing()
        self.cycle: Cycle = Cycle(
            scope=self.scope,
            transport=self._exit,  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if announced_bytes(headers) > bounds.max_body_bytes:
            self._fail(_too_large(bounds.max_body_bytes))
        if is_free:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.hold(QUEUE)
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        cycle = self.cycle
        self._barren_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > self.keeper.bounds.max_body_bytes:
            raise _too_large(self.keeper.bounds.max_body_bytes)
        if cycle.response_complete or cycle.fault is not None:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._completed += 1
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """An answer was written."""
        self.server_state.total_requests += 1
        cycle = self.cycle
        if isinstance(cycle.fault, BodyTooLarge) and cycle.response_complete and not cycle.is_told:
            self.keeper.hit("max_body_bytes")
        self._proceed()

    # Within

    def _fill_scope(self, version: str, method: bytes) -> None:
        scope = self.scope
        scope["method"] = method.decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        scope["path"] = self.root_path + path
        scope["raw_path"] = self.root_path.encode("ascii") + url.path
        scope["query_string"] = url.query or b""
        scope["turnout.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]

    def _is_owing(self) -> bool:
        return self.is_behind or not (self.cycle is None or self.cycle.response_complete)

    def _follow(self, received: int) -> None:
        """Enter the phase that the parser is in."""
        if self._begun == self._completed:
            if self._begun != self._seen or self.phase in {HEAD, BODY, REST}:
                self._seen = self._begun
                self.enter(WORK if self._is_owing() else IDLE)
            return
        was_waiting = self.phase <= IDLE
        phase = HEAD if self._is_in_head else REST if self.cycle.response_complete else BODY
        if phase != self.phase or self._begun != self._seen:
            is_whole = was_waiting and self._begun == self._seen + 1  # no byte of it belongs to another message
            self._seen = self._begun
            self.enter(phase)
            received = received if is_whole else 0
        if self._is_deaf:
            return
        self._measure(phase, received)

    def _measure(self, phase: int, received: int) -> None:
        """Bound what the parser keeps without a word: half a head, or trailers and chunk extensions."""
        bounds = self.keeper.bounds
        if phase == HEAD:
            self._head_bytes += received
            if self._head_bytes > bounds.max_head_bytes:
                self._turn_down(head_too_large(bounds))
            return
        if self._barren_bytes > bounds.max_head_bytes:
            self.keeper.hit("max_head_bytes")
            self._fail(BadRequest("there is more between the parts of the body than the parts themselves"))
        self._barren_bytes += received

    def _stumble(self, error: httptools.HttpParserError) -> None:
        """The parser cannot go on."""
        cause = error.__context__
        if isinstance(cause, Refused):
            self._turn_down(cause)
        elif isinstance(cause, GatewayError):
            self._fail(cause)
        elif type(error) is httptools.HttpParserCallbackError and not isinstance(cause, TRUSTED):
            log.error("a request crashed the front door", exc_info=cause)
            self.refuse(500, "internal error of the gateway")
        else:
            self._malformed(str(error))

    def _malformed(self, reason: str) -> None:
        sentence = f"the request is no well-formed HTTP/1.1: {reason or 'the URL cannot be read'}"
        if self._is_in_head or self._begun == self._completed:
            self.refuse(400, sentence, "malformed")
        else:
            self.keeper.hit("malformed")
            self._fail(BadRequest(sentence))

    def _turn_down(self, refused: Refused) -> None:
        self.refuse(refused.status, str(refused), refused.bound)

    def _fail(self, fault: GatewayError) -> None:
        """The rest of the body is not taken."""
        self._is_deaf = True
        if self.cycle.response_complete:
            self.leave()
        else:
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


def front_door(keeper: Doorkeeper, kind: type[FrontDoor] = FrontDoor) -> type[FrontDoor]:
    """The protocol class of one listener."""
    return type(kind.__name__, (kind,), {"keeper": keeper})


def refusal(status: int, sentence: str, identifier: str) -> bytes:
    """A whole answer that is the last on its connection."""
    body = error_body(sentence)
    again = b"retry-after: %d\r\n" % RETRY_AFTER_S if status == 503 else b""
    return (
        b"%scontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n%sconnection: close\r\n\r\n%s"
        % (STATUS_LINE[status], len(body), identifier.encode(), again, body)
    )


def _too_large(limit: float) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit:.0f} bytes")
