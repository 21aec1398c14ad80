"""A version on a remote server of the Open Inference Protocol v2, over plain HTTP/1.1."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote, urlsplit

import orjson

from gateway.backends.attempt import Attempt
from gateway.backends.base import Call, Reply, State
from gateway.backends.connection import Connection, RawAnswer
from gateway.backends.connections import Connections
from gateway.backends.probe import NotReady, inspect
from gateway.backends.sending import Sending
from gateway.backends.statistics import Statistics
from gateway.protocol.answer import splice_identity
from gateway.protocol.shapes import Signature
from routing.analysis.outcome import Kind, kind_of_status

PUBLIC_REASON = {
    State.LOADING: "its server is being asked",
    State.FAILED: "its server cannot be reached, or does not have it",
    State.CLOSED: "it was unloaded",
}
MAX_CONNECTIONS = 64
MAX_WAITING = 256
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024  # a larger body of an error answer is replaced by a sentence
CONNECT_TIMEOUT_S = 2.0
PROBE_INTERVAL_S = 1.0

# What a client is told when there is no answer: it learns nothing about addresses.
WITHOUT_ANSWER = {
    Kind.UNREACHABLE: (503, "cannot be reached"),
    Kind.OVERLOADED: (503, "is busy: every connection is taken and the queue is full"),
    Kind.TIMEOUT: (504, "did not answer in time"),
    Kind.BROKEN: (502, "broke off its answer"),
}

log = logging.getLogger(__name__)


class OipBackend:
    """One version of a model on one server.

    Args:
        url: ``http://host[:port][/prefix]``.
        model: The server's name for the model.
        version: The server's name for the version; ``None`` leaves the choice to the server.
        public_model: Name that answers carry.
        public_version: Version that answers carry.
        max_connections: Bound on connections; each carries one request at a time.
        max_waiting: Bound on requests that wait for a connection.
        max_answer_bytes: Bound on the body of one answer.
        connect_timeout_s: Time for one connection to open.
        probe_interval_s: Pause between two probes of a version that is not ready.
        loop: Loop that everything runs on; by default the one that ``open`` runs on.
        on_state: Called after each change of ``state``.

    Attributes:
        engine: Empty: it runs elsewhere.
        statistics: Attempts; one that was given up has failed.

    Raises:
        ValueError: ``url`` is something else.
    """

    engine = ""

    def __init__(
        self,
        url: str,
        model: str,
        version: str | None,
        *,
        public_model: str,
        public_version: str,
        max_connections: int = MAX_CONNECTIONS,
        max_waiting: int = MAX_WAITING,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        probe_interval_s: float = PROBE_INTERVAL_S,
        loop: asyncio.AbstractEventLoop | None = None,
        on_state: Callable[[], None] | None = None,
    ) -> None:
        self._host, self._port, prefix = _address(url)
        self._url = url
        self._public_model = public_model
        self._public_version = public_version
        self._bounds = (max_connections, max_waiting, max_answer_bytes)
        self._connect_timeout_s = connect_timeout_s
        self._probe_interval_s = probe_interval_s
        self._loop = loop
        self._on_state = on_state
        self._state = State.LOADING
        self._reason = "has not been opened"
        self._signature: Signature | None = None
        self._connections: Connections | None = None
        self._prober: asyncio.Task[None] | None = None
        self._down = asyncio.Event()
        self.statistics = Statistics()
        self._failures = {kind: self._public_failure(words) for kind, (_, words) in WITHOUT_ANSWER.items()}
        self._write_heads(prefix, model, version)

    def _write_heads(self, prefix: str, model: str, version: str | None) -> None:
        path = f"{prefix}/v2/models/{quote(model, safe='')}"
        if version is not None:
            path += f"/versions/{quote(version, safe='')}"
        host = f"[{self._host}]" if ":" in self._host else self._host
        host_line = f"host: {host}:{self._port}\r\n"
        post = f"POST {path}/infer HTTP/1.1\r\n{host_line}"
        self._json_head = f"{post}content-type: application/json\r\ncontent-length: "
        self._binary_head = f"{post}content-type: application/octet-stream\r\ncontent-length: "
        get_tail = f" HTTP/1.1\r\n{host_line}connection: close\r\n\r\n"
        self._ready_head = f"GET {path}/ready{get_tail}".encode()
        self._metadata_head = f"GET {path}{get_tail}".encode()

    @property
    def state(self) -> State:
        """Where the version is in its life."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is not ready, as a sentence; empty when it is."""
        return "" if self._state is State.READY else f"{self._url} {self._reason}"

    @property
    def public_reason(self) -> str:
        """Why it is not ready, without its address."""
        return "" if self._state is State.READY else PUBLIC_REASON[self._state]

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs, as the server last described them."""
        return self._signature

    @property
    def connections(self) -> Connections | None:
        """The connections, once open: for gauges."""
        return self._connections

    async def open(self) -> None:
        """Ask the server once and start the probe, which goes on for as long as it is not ready."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        max_connections, max_waiting, max_answer_bytes = self._bounds
        self._connections = Connections(
            self._connect,
            self._refused,
            self._reply_of,
            self._failure_of,
            max_connections=max_connections,
            max_waiting=max_waiting,
            max_answer_bytes=max_answer_bytes,
            connect_timeout_s=self._connect_timeout_s,
            loop=self._loop,
        )
        await self._inspect()
        self._prober = self._loop.create_task(self._probe())

    async def close(self) -> None:
        """Stop the probe and close every connection; attempts in flight end as ``UNREACHABLE``."""
        self._enter(State.CLOSED, "is closed")
        if self._prober is not None:
            self._prober.cancel()
            with suppress(asyncio.CancelledError):
                await self._prober
        if self._connections is not None:
            await self._connections.close()

    def submit(self, call: Call, deadline_s: float, on_reply: Callable[[Reply], None]) -> Callable[[], None]:
        """Start an attempt. A version that is not ready answers at once."""
        connections = self._connections
        if self._state is not State.READY or connections is None:
            on_reply(self._failure_of(Kind.UNREACHABLE, self._reason))
            return _nothing
        body = call.body
        attempt = Attempt(self.statistics, on_reply)
        sending = Sending(
            connections, self._head(call, len(body)), body, deadline_s, attempt.replied, may_repeat=call.may_repeat
        )
        attempt.give_up = sending.cancel
        connections.submit(sending)
        return attempt.cancel

    def _head(self, call: Call, body_bytes: int) -> bytes:
        tail = f"{body_bytes}\r\nx-request-id: {call.request_id}\r\nvia: {call.via}\r\n"
        if call.header_length is None:
            return f"{self._json_head}{tail}\r\n".encode("latin-1")
        length = f"inference-header-content-length: {call.header_length}\r\n"
        return f"{self._binary_head}{tail}{length}\r\n".encode("latin-1")

    async def _connect(self, make: Callable[[], Connection]) -> Connection:
        assert self._loop is not None
        _, connection = await self._loop.create_connection(make, self._host, self._port)
        return connection

    # Replies.

    def _reply_of(self, answer: RawAnswer) -> Reply:
        status = answer.status
        if status < 300:
            body, header_length = splice_identity(
                answer.body, answer.header_length, self._public_model, self._public_version
            )
            return Reply(Kind.OK, status, body, header_length)
        detail = f"{self._url} answered {status}"
        if status < 400:  # a redirect is not followed: addresses come from the configuration alone
            return Reply(Kind.ERROR, 502, self._public_failure("redirects"), None, detail)
        body = answer.body
        if not _is_error(body):
            body = self._public_failure(f"answered {status}")
        return Reply(kind_of_status(status), status, body, None, detail)

    def _failure_of(self, kind: Kind, sentence: str) -> Reply:
        return Reply(kind, WITHOUT_ANSWER[kind][0], self._failures[kind], None, f"{self._url} {sentence}")

    def _public_failure(self, words: str) -> bytes:
        return orjson.dumps({"error": f"version {self._public_version} of model {self._public_model} {words}"})

    # Readiness.

    def _enter(self, state: State, reason: str = "") -> None:
        if self._state is State.CLOSED:
            return
        changed = state is not self._state
        self._state = state
        self._reason = reason
        if state is State.FAILED:
            self._down.set()
        else:
            self._down.clear()
        if changed and self._on_state is not None:
            self._on_state()

    def _refused(self, sentence: str) -> None:
        self._enter(State.FAILED, sentence)

    async def _inspect(self) -> None:
        try:
            signature = await inspect(self._connect, self._ready_head, self._metadata_head)
        except NotReady as problem:
            self._enter(State.FAILED, str(problem))
            return
        self._signature = signature
        self._enter(State.READY)

    async def _probe(self) -> None:
        while True:
            await self._down.wait()
            await asyncio.sleep(self._probe_interval_s)
            try:
                await self._inspect()
            except Exception:
                log.exception("the probe of %s failed", self._url)


def _nothing() -> None:
    """What cancels an attempt that is over."""


def _is_error(body: bytes) -> bool:
    """Whether a body is already what clients of the protocol expect: ``{"error": str}``."""
    if len(body) > MAX_ERROR_BYTES:
        return False
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and isinstance(document.get("error"), str)


def _address(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{url!r} is not of the form http://host[:port][/prefix]")
    return parts.hostname, parts.port or 80, parts.path.rstrip("/")
