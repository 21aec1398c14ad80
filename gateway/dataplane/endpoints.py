"""The data plane over ASGI: the Open Inference Protocol's paths in plain Starlette."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from random import SystemRandom
from time import monotonic

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import __version__
from gateway.dataplane.admission import RETRY_AFTER_S, header_length, request_id, timeout_s
from gateway.dataplane.exchange import Answer, Exchange
from gateway.dataplane.pipeline import Pipeline, unrouted
from gateway.errors import (
    BadRequest,
    BodyTimeout,
    BodyTooLarge,
    GatewayError,
    ModelNotFound,
    Overloaded,
    VersionNotFound,
    VersionNotReady,
    error_body,
    status_of,
)
from gateway.runtime.arms import Arm
from gateway.runtime.snapshot import Runtime
from gateway.settings import Settings

log = logging.getLogger("turnout.dataplane")

JSON = b"application/json"
OCTETS = b"application/octet-stream"


class DataPlane:
    """Endpoints of one worker.

    Args:
        is_stale: Whether the table that is served may be older than the store's.

    Attributes:
        is_draining: The process is about to end: not ready, and every answer closes its connection.
        is_started: Documents were applied and no stable version is still being loaded.
    """

    def __init__(self, settings: Settings, runtime: Runtime, pipeline: Pipeline, is_stale: Callable[[], bool]) -> None:
        self._settings = settings
        self._runtime = runtime
        self._pipeline = pipeline
        self._is_stale = is_stale
        self._ids = SystemRandom()
        self._in_hand = 0
        self.is_draining = False
        self.is_started = False

    def app(self) -> Starlette:
        """The ASGI application."""
        models = "/v2/models/{model}"
        versions = models + "/versions/{version}"
        routes = [
            Route("/v2", self._server, methods=["GET"]),
            Route("/v2/", self._server, methods=["GET"]),
            Route("/v2/health/live", self._live, methods=["GET"]),
            Route("/v2/health/ready", self._ready, methods=["GET"]),
            *(Route(path, self._metadata, methods=["GET"]) for path in (models, versions)),
            *(Route(path + "/ready", self._model_ready, methods=["GET"]) for path in (models, versions)),
            *(Route(path + "/infer", self._infer, methods=["POST"]) for path in (models, versions)),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={
                HTTPException: self._http_error,
                GatewayError: self._error,
                ClientDisconnect: _nobody,
                Exception: self._crash,
            },
        )
        app.router.redirect_slashes = False
        return app

    async def _server(self, request: Request) -> Response:
        return self._json(request, {"name": "turnout", "version": __version__, "extensions": []})

    async def _live(self, request: Request) -> Response:
        return self._json(request, {"live": True})

    async def _ready(self, request: Request) -> Response:
        ready = self.is_started and not self.is_draining
        stale = {"stale": "the store cannot be reached: the last table is served"} if self._is_stale() else {}
        return self._json(request, {"ready": ready, **stale}, 200 if ready else 503)

    async def _metadata(self, request: Request) -> Response:
        model = request.path_params["model"]
        arm = self._arm(request)
        signature = arm.slot.backend.signature
        if signature is None:
            raise VersionNotReady(f"version {arm.version!r} is not ready: {arm.slot.backend.reason}")
        plain = {
            "name": model,
            "versions": self._runtime.current.versions(model),
            "platform": signature.platform,
            "inputs": [spec.as_json() for spec in signature.inputs],
            "outputs": [spec.as_json() for spec in signature.outputs],
        }
        if note := getattr(arm.slot.backend, "note", ""):
            plain["properties"] = {"note": note}
        return self._json(request, plain)

    async def _model_ready(self, request: Request) -> Response:
        arm = self._arm(request)
        ready = arm.slot.is_ready
        plain: dict[str, object] = {"name": request.path_params["model"], "ready": ready}
        if not ready:
            plain["error"] = f"version {arm.version!r} is not ready: {arm.slot.backend.reason}"
        return self._json(request, plain, 200 if ready else 503)

    def _arm(self, request: Request) -> Arm:
        """The arm that a path without a body is about: the named version, or stable."""
        model, version = request.path_params["model"], request.path_params.get("version")
        snapshot = self._runtime.current
        if version is None:
            route = snapshot.routes.get(model)
            if route is None:
                raise ModelNotFound(unrouted(snapshot, model))
            return route.stable
        arm = snapshot.pinned(model, version)
        if arm is None:
            raise VersionNotFound(f"model {model!r} has no version {version!r}")
        return arm

    async def _infer(self, request: Request) -> Response:
        headers = dict(request.scope["headers"])
        identifier = request_id(headers, self._ids)
        request.scope["turnout.request_id"] = identifier
        if self._in_hand >= self._settings.server.max_concurrency:
            raise Overloaded(f"{self._settings.server.max_concurrency} requests are in work already")
        self._in_hand += 1
        try:
            return await self._admitted(request, headers, identifier)
        finally:
            self._in_hand -= 1

    async def _admitted(self, request: Request, headers: dict[bytes, bytes], identifier: str) -> Response:
        patience_s = timeout_s(headers, self._settings.deadline)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise BadRequest("content-encoding other than identity is not understood")
        loop = asyncio.get_running_loop()
        started_s = monotonic()
        try:
            async with asyncio.timeout(patience_s):
                body = await self._body(request)
        except TimeoutError:
            raise BodyTimeout("the body did not arrive within the request's deadline") from None
        answered: asyncio.Future[Answer] = loop.create_future()
        watcher: list[asyncio.Task[None]] = []
        exchange = Exchange(
            request.path_params["model"],
            body,
            header_length=header_length(headers, len(body)),
            request_id=identifier,
            started_s=started_s,
            deadline_s=started_s + patience_s,
            deliver=lambda answer: None if answered.done() else answered.set_result(answer),
            on_old=lambda: watcher.append(loop.create_task(_until_gone(request, answered))),
        )
        try:
            self._pipeline.begin(exchange, request.path_params.get("version"), headers)
            answer = await answered
        finally:
            self._pipeline.abandon(exchange)
            for task in watcher:
                task.cancel()
        return self._answer(identifier, answer)

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.server.max_body_bytes
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            raise BodyTooLarge(f"the body is larger than {limit} bytes")
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
            *answer.headers,
            *extra,
            *self._closing(),
        ]
        return response

    def _json(self, request: Request, plain: Mapping[str, object], status: int = 200) -> Response:
        identifier = request.scope.get("turnout.request_id") or request_id(dict(request.scope["headers"]), self._ids)
        return self._answer(identifier, Answer(status, orjson.dumps(plain)))

    def _closing(self) -> list[tuple[bytes, bytes]]:
        return [(b"connection", b"close")] if self.is_draining else []

    async def _error(self, request: Request, error: Exception) -> Response:
        response = self._json(request, {"error": str(error)}, status_of(error))
        if isinstance(error, (BodyTooLarge, BodyTimeout)):
            response.headers["connection"] = "close"  # the rest of the body is not read
        return response

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = {
            404: "there is no such path: the protocol's are below /v2",
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


async def _nobody(_request: Request, _error: Exception) -> Response:
    """The client left: what is returned reaches nobody."""
    return Response(status_code=499)


async def _until_gone(request: Request, answered: "asyncio.Future[Answer]") -> None:
    """Wait for the client to leave; then nobody waits for the answer any more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if not answered.done():
        answered.set_exception(ClientDisconnect())
