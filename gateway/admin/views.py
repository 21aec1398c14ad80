"""What can be seen and not changed: live status, metrics."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import query
from gateway.admin.answers import answer
from gateway.admin.feed import Feed
from gateway.admin.replicas import Replica, Replicas
from gateway.admin.routes import model_in, summary
from routing.errors import RouteNotFound, StoreUnavailable
from routing.store import Record, Store

Status = Callable[[Sequence[str]], Awaitable[Mapping[str, Mapping[str, Any]]]]
Overview = Callable[[], Awaitable[Mapping[str, Any]]]
Held = Callable[[], Iterable[Record]]
Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]


async def scraped(request: Request, metrics: Metrics) -> Response:
    """The metrics, as the injected callable renders them for what the client accepts."""
    query.parameters(request)
    body, content_type = await metrics(", ".join(request.headers.getlist("accept")))
    return Response(body, headers={"content-type": content_type})


class ViewEndpoints:
    """``/status``, ``/routes/{model}/status`` and ``/metrics``."""

    def __init__(
        self,
        store: Store,
        status: Status,
        overview: Overview,
        metrics: Metrics | None,
        refused: Counter[str],
        replicas: Replicas,
        feed: Feed,
        held: Held,
    ) -> None:
        self._store = store
        self._status = status
        self._overview = overview
        self._metrics = metrics
        self._refused = refused
        self._replicas = replicas
        self._feed = feed
        self._held = held

    async def everything(self, request: Request) -> Response:
        """The process and all routes. Answers while the store is away, and says so."""
        query.parameters(request)
        events = {"readers": self._feed.readers, "cut_off": self._feed.cut_off}
        body = {**await self._overview(), "refused_logins": dict(self._refused), "events": events}
        try:
            found = [item for record in await self._store.list() if (item := summary(record)) is not None]
            body["replicas"] = [asdict(replica) for replica in await self._replicas.known()]
        except StoreUnavailable as error:
            found = [item for record in self._held() if (item := summary(record)) is not None]
            body |= {"store_error": str(error), "replicas": None}
        live = await self._status([item["model"] for item in found])
        return answer(body | {"routes": [_live(item, live) for item in found]})

    async def status(self, request: Request) -> Response:
        """One route: what is stored, and what this process makes of it. Answers while the store is away."""
        query.parameters(request)
        model = model_in(request)
        away, replicas = "", None
        try:
            record = await self._store.load(model)
            replicas = await self._replicas.known()
        except StoreUnavailable as error:
            record = next((held for held in self._held() if held.model == model), None)
            if record is None:
                raise
            away = f"the store cannot be asked, this is what this gateway serves: {error}"
        found = summary(record) if record else None
        if found is None:
            raise RouteNotFound(model)
        body = _live(found, await self._status([model]))
        revision = found["revision"]
        if away:
            body["warnings"] = [*body.get("warnings", ()), away]
        body["replicas"] = None if replicas is None else [_of(replica, model, revision) for replica in replicas]
        return answer(body, revision=None if away else revision)

    async def metrics(self, request: Request) -> Response:
        """The metrics of the whole machine."""
        if self._metrics is None:
            raise HTTPException(404)
        return await scraped(request, self._metrics)


def _live(item: Mapping[str, Any], statuses: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    live = statuses.get(item["model"])
    if live is None:
        live = {"applied_revision": None, "warnings": ["this route is stored and not applied here yet"]}
    return {**live, **item}


def _of(replica: Replica, model: str, revision: int) -> dict[str, Any]:
    """What a replica said of one route, and where it stands against the stored revision."""
    return {
        "name": replica.name,
        "applied_revision": replica.applied.get(model),
        "refused_revision": replica.refused.get(model),
        "unready": replica.unready.get(model, {}),
        "state": replica.state(model, revision),
        "age_s": replica.age_s,
    }
