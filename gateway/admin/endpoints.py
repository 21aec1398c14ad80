"""The admin plane as one ASGI app: every path, behind one gate."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp

from gateway.admin.answers import refuse, refuse_http, refuse_unexpected
from gateway.admin.audit import AuditEndpoints
from gateway.admin.auth import METRICS_PATH, Authoriser
from gateway.admin.changes import Changes, Keep, Revision, keep_nothing, nothing_known
from gateway.admin.contracts import Describe, Signatures, describe_nothing
from gateway.admin.edge import Edge
from gateway.admin.events import EventEndpoints
from gateway.admin.feed import Feed
from gateway.admin.history import HistoryEndpoints
from gateway.admin.places import PlaceEndpoints
from gateway.admin.reading import Held, Reading
from gateway.admin.refusals import RefusedLogins
from gateway.admin.replicas import Replicas
from gateway.admin.routes import RouteEndpoints
from gateway.admin.verbs import VerbEndpoints
from gateway.admin.views import Metrics, Overview, Status, ViewEndpoints
from gateway.errors import GatewayError
from gateway.settings import Token
from routing.errors import Problem, RoutingError
from routing.store import Store
from routing.table import Route

PREFIX = "/admin/v1"

Endpoint = Callable[[Request], Awaitable[Response]]


def admin_app(
    *,
    store: Store,
    tokens: Sequence[Token],
    check_route: Callable[[Route], Sequence[Problem]],
    status: Status,
    overview: Overview,
    metrics: Metrics | None,
    now: Callable[[], float],
    refused: Counter[str] | None = None,
    replica_id: str = "",
    draining: asyncio.Event | None = None,
    refusals: RefusedLogins | None = None,
    metrics_are_open: bool = False,
    signatures: Signatures | None = None,
    feed: Feed | None = None,
    held: Held = tuple,
    known: Revision = nothing_known,
    keep: Keep = keep_nothing,
    describe: Describe = describe_nothing,
) -> ASGIApp:
    """Build the admin plane.

    Args:
        store: Open, and closed by the caller.
        tokens: Who may come in; with none nobody may.
        check_route: Problems of a route that only this process can see, such as a host that is not allowed.
        status: What this gateway makes of some routes, without those that it does not serve.
        overview: The state of the gateway.
        metrics: Renders the metrics for an ``Accept`` and names their content type; None: there is no ``/metrics``.
        now: Wall clock, seconds since 1970.
        refused: Counts refused log-ins by why, for the metrics.
        replica_id: Name of this process among those on the store, whose word a waiting write needs; empty: none.
        refusals: Where refused log-ins are kept; None: nowhere.
        draining: Once set, everything that waits or streams here ends.
        metrics_are_open: ``/metrics`` needs no token.
        signatures: Tells what workers know of the versions of a model; None: nothing is held against stable's contract.
        feed: Events; by default those of the store's changes alone.
        held: Routes as this gateway has them, for reads while the store is away.
        known: See Changes.
        keep: See Changes.
        describe: See Changes.
    """
    refused = Counter() if refused is None else refused
    changes = Changes(store, check_route, now, signatures, known, keep, describe)
    draining = draining or asyncio.Event()
    refusals = refusals or RefusedLogins(None, now, time.monotonic)
    replicas = Replicas(store, replica_id, draining)
    feed = feed or Feed(store)
    reading = Reading(store, held)
    views = ViewEndpoints(reading, status, overview, metrics, refused, replicas, feed)
    paths = admin_paths(
        RouteEndpoints(reading, changes, replicas),
        VerbEndpoints(store, changes, replicas),
        HistoryEndpoints(store),
        PlaceEndpoints(reading, changes),
        EventEndpoints(feed, draining),
        AuditEndpoints(store, refusals),
        views,
    )
    app = Starlette(
        routes=paths,
        exception_handlers={
            RoutingError: refuse,
            GatewayError: refuse,
            HTTPException: refuse_http,
            Exception: refuse_unexpected,
        },
    )
    app.router.redirect_slashes = False
    return Edge(Authoriser(app, tokens, refused, refusals.note, metrics_are_open=metrics_are_open))


def admin_paths(
    routes: RouteEndpoints,
    verbs: VerbEndpoints,
    history: HistoryEndpoints,
    places: PlaceEndpoints,
    events: EventEndpoints,
    audit: AuditEndpoints,
    views: ViewEndpoints,
) -> list[Path]:
    """Every path that is served. One entry for each path, so that ``Allow`` names all its methods."""
    one = f"{PREFIX}/routes/{{model}}"
    return [
        _path(f"{PREFIX}/status", GET=views.everything),
        _path(f"{PREFIX}/routes", GET=routes.list),
        _path(one, GET=routes.get, PUT=routes.put, PATCH=routes.patch, DELETE=routes.delete),
        _path(f"{one}/flip", POST=verbs.flip),
        _path(f"{one}/release", POST=verbs.release),
        _path(f"{one}/restore", POST=verbs.restore),
        _path(f"{one}/history", GET=history.get),
        _path(f"{one}/status", GET=views.status),
        _path(f"{one}/explain", GET=places.explain, POST=places.explain_body),
        _path(f"{one}/whatif", POST=places.whatif),
        _path(f"{PREFIX}/events", GET=events.get),
        _path(f"{PREFIX}/audit", GET=audit.get),
        _path(METRICS_PATH, GET=views.metrics),
    ]


def _path(path: str, **by_method: Endpoint) -> Path:
    async def endpoint(request: Request) -> Response:
        return await by_method["GET" if request.method == "HEAD" else request.method](request)

    return Path(path, endpoint, methods=[*by_method])
