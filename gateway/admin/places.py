"""Where keys go, and where they would go: explanations and what-ifs, from the plan that serves."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import query
from gateway.admin.answers import answer
from gateway.admin.bodies import Body, parse_body, read_json
from gateway.admin.changes import Changes, Wish, noted
from gateway.admin.reading import Reading
from gateway.admin.routes import OVERRIDE, model_in, overrides
from routing.document import RouteDocument
from routing.edit import Replace
from routing.errors import InvalidDocument, Problem
from routing.explain import explain
from routing.whatif import what_if

MAX_KEY_CHARS = 4096
MAX_KEYS = 1000  # keys that one what-if shows

Key = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=MAX_KEY_CHARS)]


class KeyBody(Body):
    """Body of ``explain``: a key that should not stand in a URL, which logs keep."""

    key: Key


class KeysBody(Body):
    """The part of a what-if's body that is no route."""

    keys: Annotated[tuple[Key, ...], Field(max_length=MAX_KEYS)] = ()


class PlaceEndpoints:
    """``/routes/{model}/explain`` and ``/routes/{model}/whatif``. Nothing here changes anything."""

    def __init__(self, reading: Reading, changes: Changes) -> None:
        self._reading = reading
        self._changes = changes

    async def explain(self, request: Request) -> Response:
        """Why a key gets the version it gets."""
        return await self._explained(request, query.key_bytes(request))

    async def explain_body(self, request: Request) -> Response:
        """The same for a key in the body."""
        query.parameters(request)
        body = parse_body(KeyBody, await read_json(request))
        return await self._explained(request, body.key.encode())

    async def whatif(self, request: Request) -> Response:
        """Who would move if the route in the body were put; refused as the write would be."""
        is_override = overrides(query.parameters(request, OVERRIDE))
        model, plain = model_in(request), await read_json(request)
        keys, plain = _split(plain)
        route = self._changes.route_from(model, plain)
        wish = Wish(model, "put", request.scope["turnout.actor"], "", is_dry=True, is_override=is_override)
        result = await self._changes.apply(wish, lambda _current: Replace(route))
        before, after = result.before, result.after
        assert isinstance(after, RouteDocument)
        found = asdict(what_if(before, after, keys))
        found["moves"] = [{"from": m["source"], "to": m["target"], "ppm": m["ppm"]} for m in found["moves"]]
        revision = before.revision if isinstance(before, RouteDocument) else None
        body = {"model": model, "revision": revision, "would_change": result.is_changed, **found, **noted(result)}
        return answer(body, revision=revision)

    async def _explained(self, request: Request, key: bytes) -> Response:
        model = model_in(request)
        read = await self._reading.one(model)
        document = read.document(model)
        return read.answer(asdict(explain(document, key)), document.revision)


def _split(plain: Any) -> tuple[tuple[str, ...], Any]:
    """The keys of a what-if, and the rest, which is a route."""
    if not isinstance(plain, Mapping):
        raise InvalidDocument([Problem("", "type", "the body is a route, with `keys` beside it if you like")])
    rest = {name: value for name, value in plain.items() if name != "keys"}
    given = {"keys": plain["keys"]} if "keys" in plain else {}
    return parse_body(KeysBody, given).keys, rest
