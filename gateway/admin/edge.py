"""The outermost layer of the admin plane: what every answer carries, and the last net for errors."""

import logging
import re
import secrets

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("turnout.admin")

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Edge:
    """Names each request and puts the name and ``cache-control: no-store`` on each answer.

    The name is the client's ``x-request-id`` when that is 1 to 128 visible ASCII characters, else a random one; the
    app finds it in ``scope["turnout.request_id"]``. What the app raises is logged and answered 500.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection as ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        has_started = False

        async def send_named(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["cache-control"] = "no-store"
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            await self._app({**scope, "turnout.request_id": request_id}, receive, send_named)
        except ClientDisconnect:
            log.info("client left", extra={"request_id": request_id})
        except Exception:
            log.exception("request failed", extra={"request_id": request_id, "method": scope["method"]})
            if not has_started:
                await internal_error(request_id)(scope, receive, send_named)


def internal_error(request_id: str) -> Response:
    """The answer to what nobody expected: nothing of the error, but its name in the log."""
    body = orjson.dumps({"error": "internal error", "request_id": request_id})
    return Response(body, 500, media_type="application/json")
