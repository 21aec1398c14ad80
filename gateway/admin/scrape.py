"""``/metrics`` on a listener of its own: nothing of the admin plane is there."""

from collections import Counter
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp

from gateway.admin.answers import refuse, refuse_http, refuse_unexpected
from gateway.admin.auth import METRICS_PATH, Authoriser
from gateway.admin.edge import Edge
from gateway.admin.refusals import RefusedLogins
from gateway.admin.views import Metrics, scraped
from gateway.errors import GatewayError
from gateway.settings import Token


def scrape_app(
    tokens: Sequence[Token],
    metrics: Metrics,
    refused: Counter[str],
    refusals: RefusedLogins,
    *,
    metrics_are_open: bool = False,
) -> ASGIApp:
    """Build it; arguments as those of ``admin_app``."""

    async def endpoint(request: Request) -> Response:
        return await scraped(request, metrics)

    app = Starlette(
        routes=[Path(METRICS_PATH, endpoint, methods=["GET"])],
        exception_handlers={GatewayError: refuse, HTTPException: refuse_http, Exception: refuse_unexpected},
    )
    app.router.redirect_slashes = False
    return Edge(Authoriser(app, tokens, refused, refusals.note, metrics_are_open=metrics_are_open))
