"""What can be seen and not changed: live status, explanations, metrics."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import query
from gateway.admin.answers import answer
from gateway.admin.changes import stored_route
from gateway.admin.routes import model_in, summary
from routing.errors import RouteNotFound, StoreUnavailable
from routing.explain import explain
from routing.store import Store

Status = Callable[[str], Mapping[str, Any] | None]
Overview = Callable[[], Mapping[str, Any]]
Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]


async def scraped(request: Request, metrics: Metrics) -> Response:
    """The metrics, as the injected callable renders them for what the client accepts."""
    query.parameters(request)
    body, content_type = await metrics(", ".join(request.headers.getlist("accept")))
    return Response(body, headers={"content-type": content_type})


class ViewEndpoints:
    """``/status``, ``/routes/{model}/status``, ``/routes/{model}/explain`` and ``/metrics``."""

    def __init__(
        self, store: Store, status: Status, overview: Overview, metrics: Metrics | None, refused: Counter[str]
    ) -> None:
        self._store = store
        self._status = status
        self._overview = overview
        self._metrics = metrics
        self._refused = refused

    async def everything(self, request: Request) -> Response:
        """The process and all routes. Answers while the store is away, and says so."""
        query.parameters(request)
        body = {**self._overview(), "refused_logins": dict(self._refused)}
        try:
            found = [summary(record) for record in await self._store.list()]
        except StoreUnavailable as error:
            return answer(body | {"store_error": str(error), "routes": None})
        return answer(body | {"routes": [self._live(item) for item in found if item is not None]})

    async def status(self, request: Request) -> Response:
        """One route: what is stored, and what this process makes of it."""
        query.parameters(request)
        model = model_in(request)
        record = await self._store.load(model)
        found = summary(record) if record else None
        if found is None:
            raise RouteNotFound(model)
        return answer(self._live(found), revision=found["revision"])

    async def explain(self, request: Request) -> Response:
        """Why a key gets the version it gets."""
        key = query.key_bytes(request)
        document = await stored_route(self._store, model_in(request))
        return answer(asdict(explain(document, key)), revision=document.revision)

    async def metrics(self, request: Request) -> Response:
        """The metrics of the whole machine."""
        if self._metrics is None:
            raise HTTPException(404)
        return await scraped(request, self._metrics)

    def _live(self, item: Mapping[str, Any]) -> dict[str, Any]:
        live = self._status(item["model"])
        if live is None:
            live = {"applied_revision": None, "warnings": ["this route is stored and not applied here yet"]}
        return {**live, **item}
