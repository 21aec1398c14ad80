"""The data plane over ASGI: the Open Inference Protocol's paths in plain Starlette."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import monotonic
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import __version__
from gateway.backends.base import Reply
from gateway.dataplane import models
from gateway.dataplane.admission import (
    RETRY_AFTER_S,
    Gate,
    Priorities,
    RequestIds,
    header_length,
    request_id,
    timeout_s,
    via,
)
from gateway.dataplane.decoding import ACCEPTED, Decoder, coding_of
from gateway.dataplane.exchange import Exchange, Watched
from gateway.dataplane.infer_heads import InferHead
from gateway.dataplane.pipeline import Pipeline
from gateway.dataplane.tally import Tally
from gateway.errors import (
    BadRequest,
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    GatewayError,
    UnsupportedEncoding,
    error_body,
    status_of,
)
from gateway.protocol.v1 import NoPredictions, Predict
from gateway.runtime.arms import NAMELESS, Named
from gateway.runtime.snapshot import Runtime, Snapshot
from gateway.settings import Settings

log = logging.getLogger("turnout.dataplane")

JSON = b"application/json"
OCTETS = b"application/octet-stream"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "statistics"]


class Answer:
    """What goes out to the client."""

    __slots__ = ("body", "header_length", "named", "status")

    def __init__(self, status: int, body: bytes, named: Named = NAMELESS, header_length: int | None = None) -> None:
        self.status = status
        self.body = body
        self.named = named
        self.header_length = header_length


class DataPlane:
    """Endpoints of one worker.

    Args:
        is_stale: Whether the table that is served may be older than the store's.
        name: What this gateway calls itself in ``via``.
        gate: Counts requests in hand.
        ids: For requests that bring none.

    Attributes:
        is_started: Documents were applied and no stable version is still being loaded.
    """

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        pipeline: Pipeline,
        tally: Tally,
        is_stale: Callable[[], bool],
        name: str,
        gate: Gate,
        ids: RequestIds,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._pipeline = pipeline
        self._tally = tally
        self._is_stale = is_stale
        self._name = name
        self._gate = gate
        self._ids = ids
        self._decoder = Decoder(settings.server.max_body_bytes)
        self._priorities = Priorities(settings)
        self.is_started = False

    def app(self) -> Starlette:
        """The ASGI application."""
        app = Starlette(
            routes=self._paths(),
            exception_handlers={
                HTTPException: self._http_error,
                GatewayError: self._error,
                ClientDisconnect: _nobody,
                Exception: self._crash,
            },
        )
        app.router.redirect_slashes = False
        return app

    def close(self) -> None:
        """Decode no more bodies."""
        self._decoder.close()

    def _paths(self) -> list[Route]:
        v1, v2 = (
            (f"/{protocol}/models/{{model}}", f"/{protocol}/models/{{model}}/versions/{{version}}")
            for protocol in ("v1", "v2")
        )
        return [
            *(Route(path + "/infer", self._infer, methods=["POST"]) for path in v2),
            *(Route(path + ":predict", self._predict, methods=["POST"]) for path in v1),
            *(Route(path, self._server, methods=["GET"]) for path in ("/v2", "/v2/")),
            Route("/v2/health/live", self._live, methods=["GET"]),
            Route("/v2/health/ready", self._ready, methods=["GET"]),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/models/stats", self._about(models.statistics), methods=["GET"]),
            *(Route(path, self._about(models.metadata), methods=["GET"]) for path in v2),
            *(Route(path + "/config", self._about(models.config), methods=["GET"]) for path in v2),
            *(Route(path + "/stats", self._about(models.statistics), methods=["GET"]) for path in v2),
            *(Route(path + "/ready", self._model_ready, methods=["GET"]) for path in v2),
            *(Route(path, self._model_ready, methods=["GET"]) for path in v1),
        ]

    async def _server(self, request: Request) -> Response:
        return self._json(request, {"name": "turnout", "version": __version__, "extensions": EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        return self._json(request, {"live": True})

    async def _ready(self, request: Request) -> Response:
        ready = self.is_started and not self._gate.is_draining
        stale = {"stale": "the store cannot be reached: the last table is served"} if self._is_stale() else {}
        return self._json(request, {"ready": ready, **stale}, 200 if ready else 503)

    def _about(self, tell: Callable[[Snapshot, Any, str | None], models.Plain]) -> Callable[[Request], Any]:
        """An endpoint that tells something of a model."""

        async def told(request: Request) -> Response:
            model, version = (request.path_params.get(name) for name in ("model", "version"))
            return self._json(request, tell(self._runtime.current, model, version))

        return told

    async def _model_ready(self, request: Request) -> Response:
        model, version = request.path_params["model"], request.path_params.get("version")
        if (version or model).endswith(":predict"):
            raise HTTPException(405, headers={"Allow": "POST"})
        plain = models.readiness(self._runtime.current, model, version)
        return self._json(request, plain, 200 if plain["ready"] else 503)

    async def _index(self, request: Request) -> Response:
        headers = dict(request.scope["headers"])
        coding = _coding(request, headers)
        patience_s = timeout_s(headers, self._settings.deadline)
        started_s = monotonic()
        body = await self._body_in_time(request, patience_s)
        if coding is not None:
            body = await self._decoded(body, coding, started_s + patience_s)
        return self._json(request, models.index(self._runtime.current, body))

    async def _infer(self, request: Request) -> Response:
        return await self._within_bounds(request, self._inferred)

    async def _predict(self, request: Request) -> Response:
        return await self._within_bounds(request, self._predicted)

    async def _within_bounds(self, request: Request, ask: "Ask") -> Response:
        try:
            return await self._bounded(request, ask)
        except GatewayError as error:
            self._tally.refused(request.path_params["model"], error)
            raise

    async def _bounded(self, request: Request, ask: "Ask") -> Response:
        headers = dict(request.scope["headers"])
        identifier = request_id(headers, self._ids)
        request.scope["turnout.request_id"] = identifier
        gate = self._gate
        is_low = self._priorities.is_low(headers)
        gate.check(is_low=is_low)
        patience_s = timeout_s(headers, self._settings.deadline)
        coding = _coding(request, headers)
        hops = via(headers, self._name)
        started_s = monotonic()
        try:
            body = await self._body_in_time(request, patience_s)
        except ClientDisconnect:
            self._tally.left_early(request.path_params["model"])
            raise
        gate.check(is_low=is_low)
        gate.in_hand += 1
        try:
            if coding is not None:
                body = await self._decoded(body, coding, started_s + patience_s)
            answer = await ask(_Asked(request, headers, identifier, hops, started_s, started_s + patience_s), body)
            return self._answer(identifier, answer)
        finally:
            gate.in_hand -= 1

    async def _inferred(self, asked: "_Asked", body: bytes) -> Answer:
        length = header_length(asked.headers, len(body))
        if len(asked.request.headers.getlist("inference-header-content-length")) > 1:
            raise BadRequest("Inference-Header-Content-Length is given more than once")
        return await self._through(asked, body, length)

    async def _predicted(self, asked: "_Asked", body: bytes) -> Answer:
        model, version = asked.names
        arm = models.arm_of(self._runtime.current, model, version)
        predict = Predict(body, models.signature_of(arm))
        answer = await self._through(asked, predict.body, None)
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            return answer
        try:
            return Answer(answer.status, predict.predictions(answer.body, answer.header_length), answer.named)
        except NoPredictions as error:
            return Answer(HTTPStatus.BAD_GATEWAY, error_body(str(error)), answer.named)

    async def _through(self, asked: "_Asked", body: bytes, length: int | None) -> Answer:
        """Send a request of version 2 through the pipeline."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()
        watcher: list[asyncio.Task[None]] = []
        model, version = asked.names

        def deliver(_exchange: Exchange, reply: Reply, named: Named, _now_s: float) -> None:
            if not answered.done():
                answered.set_result(Answer(reply.status, reply.body, named, reply.header_length))

        patience_s = asked.deadline_s - asked.started_s
        exchange = Watched(
            InferHead((model, version), asked.headers, len(body), length, patience_s, asked.via, False),
            body,
            asked.identifier,
            deliver,
            asked.started_s,
            monotonic(),
            on_old=lambda: watcher.append(loop.create_task(_until_gone(asked.request, answered))),
        )

        def left(now_s: float) -> None:
            exchange.left_s = now_s

        asked.request.scope["turnout.on_left"] = left
        try:
            self._pipeline.begin(exchange)
            return await answered
        finally:
            self._pipeline.abandon(exchange)
            for task in watcher:
                task.cancel()

    async def _body_in_time(self, request: Request, patience_s: float) -> bytes:
        try:
            async with asyncio.timeout(patience_s):
                return await self._body(request)
        except TimeoutError:
            raise BodyTimeout("the body did not arrive within the request's deadline") from None

    async def _decoded(self, body: bytes, coding: str, deadline_s: float) -> bytes:
        try:
            async with asyncio.timeout(max(0.0, deadline_s - monotonic())):
                return await self._decoder.decode(body, coding)
        except TimeoutError:
            raise DeadlineExceeded("the body was not decoded within the request's deadline") from None

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.server.max_body_bytes
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise BodyTooLarge(f"the body is larger than {limit} bytes")
            parts.append(part)
        return b"".join(parts)

    def _answer(self, identifier: str, answer: Answer) -> Response:
        response = Response(answer.body, answer.status)
        extra = []
        if answer.header_length is not None:
            extra = [(b"inference-header-content-length", b"%d" % answer.header_length)]
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            extra.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        response.raw_headers = [
            (b"content-type", JSON if answer.header_length is None else OCTETS),
            (b"content-length", b"%d" % len(answer.body)),
            (b"x-request-id", identifier.encode()),
            *answer.named.headers,
            *extra,
            *self._closing(),
        ]
        return response

    def _json(self, request: Request, plain: object, status: int = 200) -> Response:
        identifier = request.scope.get("turnout.request_id") or request_id(dict(request.scope["headers"]), self._ids)
        return self._answer(identifier, Answer(status, orjson.dumps(plain)))

    def _closing(self) -> list[tuple[bytes, bytes]]:
        return [(b"connection", b"close")] if self._gate.is_draining else []

    async def _error(self, request: Request, error: Exception) -> Response:
        response = self._json(request, {"error": str(error)}, status_of(error))
        if isinstance(error, (BodyTooLarge, BodyTimeout)):
            response.headers["connection"] = "close"  # the rest of the body is not read
        if isinstance(error, UnsupportedEncoding):
            response.headers["accept-encoding"] = ACCEPTED
        return response

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = {
            404: "there is no such path: the protocol's are below /v2 and /v1",
            405: f"this path does not take {request.method}",
        }.get(error.status_code, error.detail)
        response = self._json(request, {"error": sentence}, error.status_code)
        for name, value in (error.headers or {}).items():
            response.headers[name] = value
        return response

    async def _crash(self, request: Request, error: Exception) -> Response:
        log.error("a request crashed", exc_info=error, extra={"path": request.url.path})
        identifier = request.scope.get("turnout.request_id", "")
        return self._answer(identifier, Answer(500, error_body("internal error of the gateway")))


class _Asked:
    """A request of a client whose body has arrived."""

    __slots__ = ("deadline_s", "headers", "identifier", "request", "started_s", "via")

    def __init__(
        self,
        request: Request,
        headers: dict[bytes, bytes],
        identifier: str,
        hops: str,
        started_s: float,
        deadline_s: float,
    ) -> None:
        self.request = request
        self.headers = headers
        self.identifier = identifier
        self.via = hops
        self.started_s = started_s
        self.deadline_s = deadline_s

    @property
    def names(self) -> tuple[str, str | None]:
        """Model, and the version that is pinned."""
        return self.request.path_params["model"], self.request.path_params.get("version")


Ask = Callable[[_Asked, bytes], Awaitable[Answer]]


def _coding(request: Request, headers: dict[bytes, bytes]) -> str | None:
    return coding_of(request.headers.getlist("content-encoding")) if b"content-encoding" in headers else None


async def _nobody(_request: Request, _error: Exception) -> Response:
    """The client left: what is returned reaches nobody."""
    return Response(status_code=499)


async def _until_gone(request: Request, answered: "asyncio.Future[Answer]") -> None:
    """Wait for the client to leave; then nobody waits for the answer any more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if not answered.done():
        answered.set_exception(ClientDisconnect())
