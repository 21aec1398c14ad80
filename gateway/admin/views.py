"""What can be seen and not changed: live status, metrics."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import query
from gateway.admin.feed import Feed
from gateway.admin.reading import Read, Reading
from gateway.admin.replicas import Replica, Replicas
from gateway.admin.routes import model_in, summary
from routing.errors import RouteNotFound, StoreUnavailable

Status = Callable[[Sequence[str]], Awaitable[Mapping[str, Mapping[str, Any]]]]
Overview = Callable[[], Awaitable[Mapping[str, Any]]]
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
        reading: Reading,
        status: Status,
        overview: Overview,
        metrics: Metrics | None,
        refused: Counter[str],
        replicas: Replicas,
        feed: Feed,
    ) -> None:
        self._reading = reading
        self._status = status
        self._overview = overview
        self._metrics = metrics
        self._refused = refused
        self._replicas = replicas
        self._feed = feed

    async def everything(self, request: Request) -> Response:
        """The process and all routes. Answers while the store is away, and says so."""
        query.parameters(request)
        events = {"readers": self._feed.readers, "cut_off": self._feed.cut_off}
        body = {**await self._overview(), "refused_logins": dict(self._refused), "events": events}
        read = await self._reading.all()
        replicas, problem = await self._known(read)
        body["replicas"] = None if replicas is None else [asdict(replica) for replica in replicas]
        if problem:
            body["store_error"] = problem
        found = [item for record in read.records if (item := summary(record)) is not None]
        live = await self._status([item["model"] for item in found])
        return read.answer(body | {"routes": [_live(item, live) for item in found]})

    async def status(self, request: Request) -> Response:
        """One route: what is stored, and what this process makes of it. Answers while the store is away."""
        query.parameters(request)
        model = model_in(request)
        read = await self._reading.one(model)
        replicas, problem = await self._known(read)
        found = summary(read.records[0]) if read.records else None
        if found is None:
            raise RouteNotFound(model)
        body = _live(found, await self._status([model]))
        revision = found["revision"]
        if read.away:
            said = f"the store cannot be asked, this is what this gateway serves: {read.away}"
            body["warnings"] = [*body.get("warnings", ()), said]
        elif problem:
            body["warnings"] = [*body.get("warnings", ()), f"what other gateways serve is not known: {problem}"]
        body["replicas"] = None if replicas is None else [_of(replica, model, revision) for replica in replicas]
        return read.answer(body, revision)

    async def _known(self, read: Read) -> tuple[list[Replica] | None, str]:
        """What gateways said; or ``None``, and why nobody knows. A store that is away is not asked again."""
        if read.away:
            return None, read.away
        try:
            return await self._replicas.known(), ""
        except StoreUnavailable as error:
            return None, str(error)

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
