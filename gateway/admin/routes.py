"""Routes as a resource: list, read, create, replace, patch, delete."""

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import query
from gateway.admin.answers import answer
from gateway.admin.bodies import read_json
from gateway.admin.changes import Changes, Make, Result, Wish, noted, preview, stored
from gateway.admin.conditions import condition
from gateway.admin.json_patch import merge_patch
from gateway.admin.reading import Reading
from gateway.admin.replicas import DEFAULT_WAIT_MS, MAX_WAIT_MS, Replicas
from gateway.errors import BadRequest, DamagedDocument
from routing.codec import as_json
from routing.document import Document, RouteDocument
from routing.edit import Delete, Replace
from routing.errors import NewerSchema, RouteNotFound
from routing.store import Record
from routing.table import NAME_PATTERN

NAME = re.compile(NAME_PATTERN)
OVERRIDE = "override"
CONTRACT = "contract"  # the one thing that can be overridden


class RouteEndpoints:
    """``/routes`` and ``/routes/{model}``."""

    def __init__(self, reading: Reading, changes: Changes, replicas: Replicas) -> None:
        self._reading = reading
        self._changes = changes
        self._replicas = replicas

    async def list(self, request: Request) -> Response:
        """Every route in a few words."""
        query.parameters(request)
        read = await self._reading.all()
        found = [summary(record) for record in read.records]
        return read.answer([item for item in found if item is not None])

    async def get(self, request: Request) -> Response:
        """The whole document."""
        query.parameters(request)
        model = model_in(request)
        read = await self._reading.one(model)
        document = read.document(model)
        return read.answer(as_json(document), document.revision)

    async def put(self, request: Request) -> Response:
        """Create the route, or put another in its place."""
        wish, based_on = read_wish(request, "put", "reason", OVERRIDE), condition(request)
        route = self._changes.route_from(wish.model, await read_json(request))

        def make(current: Document | None) -> Replace:
            based_on.check(current)
            return Replace(route)

        return await respond(self._changes, wish, make, self._replicas)

    async def patch(self, request: Request) -> Response:
        """Merge a patch into the route (RFC 7396)."""
        wish, based_on = read_wish(request, "patch", "reason", OVERRIDE), condition(request)
        patch = await read_json(request)

        def make(current: Document | None) -> Replace:
            route = existing(current, wish.model).route
            based_on.check(current)
            merged = merge_patch(route.model_dump(mode="json"), patch)
            return Replace(self._changes.route_from(wish.model, merged))

        return await respond(self._changes, wish, make, self._replicas)

    async def delete(self, request: Request) -> Response:
        """Remove the route; its revision counter, latches and history stay."""
        wish, based_on = read_wish(request, "delete", "reason"), condition(request)

        def make(current: Document | None) -> Delete:
            existing(current, wish.model)
            based_on.check(current)
            return Delete(wish.model)

        return await respond(self._changes, wish, make, self._replicas)


def model_in(request: Request) -> str:
    """The model that the path names.

    Raises:
        RouteNotFound: No model can have this name.
    """
    model: str = request.path_params["model"]
    if NAME.fullmatch(model) is None:
        raise RouteNotFound(model)
    return model


def read_wish(request: Request, verb: str, *known: str) -> Wish:
    """The part of a wish that stands outside the body; ``known`` are parameters beside ``dry_run`` and ``wait``."""
    found = query.parameters(request, "dry_run", "wait", "timeout_ms", *known)
    is_dry = query.flag(found, "dry_run")
    reason, is_override = query.reason(request, found), overrides(found)
    if is_override and "reason" in known and not reason:
        raise BadRequest("an override needs a reason: it stands in the history")
    return Wish(
        model=model_in(request),
        verb=verb,
        actor=request.scope["turnout.actor"],
        reason=reason,
        is_dry=is_dry,
        wait_s=_wait_s(found, is_dry=is_dry),
        is_override=is_override,
    )


def overrides(found: Mapping[str, str]) -> bool:
    """Whether versions that break stable's contract are accepted."""
    if OVERRIDE in found and found[OVERRIDE] != CONTRACT:
        raise BadRequest("the parameter 'override' is contract: versions may break what stable promises")
    return OVERRIDE in found


def _wait_s(found: dict[str, str], *, is_dry: bool) -> float | None:
    if "wait" not in found:
        if "timeout_ms" in found:
            raise BadRequest("timeout_ms bounds a wait: send wait=applied with it")
        return None
    if found["wait"] != "applied":
        raise BadRequest("the parameter 'wait' is applied: until every live replica has applied the revision")
    if is_dry:
        raise BadRequest("a dry run writes nothing that could be waited for: leave out wait or dry_run")
    return query.count(found, "timeout_ms", DEFAULT_WAIT_MS, MAX_WAIT_MS) / 1000


def existing(current: Document | None, model: str) -> RouteDocument:
    """The current document of a route that is there.

    Raises:
        RouteNotFound: There is none, or it was deleted.
    """
    if not isinstance(current, RouteDocument):
        raise RouteNotFound(model)
    return current


async def respond(changes: Changes, wish: Wish, make: Make, replicas: Replicas) -> Response:
    """Apply a wish, wait for replicas if it says so, and answer what it came to."""
    if wish.wait_s is None:
        result = await changes.apply(wish, make)
        if wish.is_dry:
            return answer(preview(result), revision=result.before.revision if result.before else None)
        return _written(wish, result, {})
    with replicas.place():
        result = await changes.apply(wish, make)
        seen = await replicas.wait(wish.model, result.after.revision, wish.wait_s)
    return _written(wish, result, {"applied": seen})


def _written(wish: Wish, result: Result, more: Mapping[str, Any]) -> Response:
    after = result.after
    if not isinstance(after, RouteDocument):
        return answer({"model": wish.model, "revision": after.revision, "deleted": True, **more})
    is_created = not isinstance(result.before, RouteDocument)
    headers = {"location": f"/admin/v1/routes/{wish.model}"} if is_created else None
    return answer(
        {**as_json(after), **noted(result), **more},
        201 if is_created else 200,
        revision=after.revision,
        headers=headers,
    )


def summary(record: Record) -> Mapping[str, Any] | None:
    """A stored route in a few words; None when it was deleted. One that cannot be read says so and hides no other."""
    try:
        document = stored(record)
    except (NewerSchema, DamagedDocument) as error:
        return {"model": record.model, "revision": record.revision, "error": str(error)}
    if not isinstance(document, RouteDocument):
        return None
    return {
        "model": document.model,
        "revision": document.revision,
        "stable": document.route.stable,
        "weights_ppm": document.route.weights(),
        "latched": sorted(document.guard.latched),
    }
