"""The protocol of a listener: strict about what comes in, bounded in time and memory, polite when it refuses."""

import asyncio
import logging
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.server import ServerState

from gateway.dataplane.cycle import QUEUE, Cycle
from gateway.dataplane.doorkeeper import BODY, CLOSING, HEAD, IDLE, LINGER, REST, SILENT, WORK, Doorkeeper
from gateway.dataplane.doorway import Doorway
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
from gateway.errors import BadRequest, BodyTooLarge, GatewayError

__all__ = ["BODY", "CLOSING", "HEAD", "IDLE", "LINGER", "REST", "SILENT", "WORK", "FrontDoor", "front_door"]

log = logging.getLogger("turnout.dataplane")

OF_THE_CLIENT = (httptools.HttpParserInvalidURLError, UnicodeDecodeError)  # raised in a callback, and no fault of ours


class FrontDoor(Doorway):
    """What a client says: one parser, and what it lets through.

    A head that is refused is answered here, behind the answers that are still owed. What is wrong with a body is raised
    where the application waits for it, so that it is answered and counted like any other error.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._seen = 0  # messages whose beginning a phase was entered for
        self._head_bytes = self._body_bytes = self._barren_bytes = 0

    @property
    def is_at_boundary(self) -> bool:
        """Whether the parser stands between messages and nothing is owed; line ends there are skipped by it."""
        return (
            self._begun == self._completed
            and self.phase <= IDLE
            and (self.cycle is None or self.cycle.response_complete)
            and not self._is_deaf
            and not self.pipeline
        )

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._is_deaf:
            self._throw_away(len(data))
            return
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # The request itself is served; of another protocol nothing is known.
                self._follow(len(data))
                data = data[upgrade.args[0] :] if not self._is_deaf else b""
            except httptools.HttpParserError as error:
                self._stumble(error)
                return
            else:
                self._follow(len(data))
                return

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
        self.cycle = cycle = Cycle(
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
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.hold(QUEUE)
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        cycle = self.cycle
        assert cycle is not None
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
        assert cycle is not None
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

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

    def _follow(self, received: int) -> None:
        """Enter the phase that the parser is in."""
        if self._begun == self._completed:
            if self._begun != self._seen or self.phase in {HEAD, BODY, REST}:
                self._seen = self._begun
                self.enter(WORK if self._is_owing() else IDLE)
            return
        was_waiting = self.phase <= IDLE
        phase = HEAD if self._is_in_head else BODY if self._is_owing() else REST
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
        elif type(error) is httptools.HttpParserCallbackError and not isinstance(cause, OF_THE_CLIENT):
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


def front_door(keeper: Doorkeeper, kind: type[FrontDoor] = FrontDoor) -> type[FrontDoor]:
    """The protocol class of one listener."""
    return type(kind.__name__, (kind,), {"keeper": keeper})


def _too_large(limit: float) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit:.0f} bytes")
