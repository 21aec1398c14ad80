"""What people do to a route beside editing it: flip, release, restore."""

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.answers import answer
from gateway.admin.bodies import RestoreBody, VerbBody, parse_body, read_json
from gateway.admin.changes import Changes, Wish
from gateway.admin.conditions import condition
from gateway.admin.replicas import Replicas
from gateway.admin.routes import OVERRIDE, existing, read_wish, respond
from gateway.errors import DamagedDocument
from routing.codec import decode
from routing.document import Document, RouteDocument
from routing.edit import Flip, Release, Replace
from routing.errors import InvalidDocument, Problem, RouteNotFound
from routing.store import HistoryEntry, Store, verify

VERB_RETRIES = 10  # a flip must not be lost to somebody who edits at the same time


class VerbEndpoints:
    """``/routes/{model}/flip``, ``release`` and ``restore``."""

    def __init__(self, store: Store, changes: Changes, replicas: Replicas) -> None:
        self._store = store
        self._changes = changes
        self._replicas = replicas

    async def flip(self, request: Request) -> Response:
        """Weight of one version, or of all canaries, to stable, and latch them."""
        wish, body = await self._verb(request, "flip")

        def make(current: Document | None) -> Flip:
            existing(current, wish.model)
            return Flip(wish.model, body.version, body.reason, self._changes.now())

        return await respond(self._changes, wish, make, self._replicas)

    async def release(self, request: Request) -> Response:
        """Clear one latch, or all; weights stay."""
        wish, body = await self._verb(request, "release")

        def make(current: Document | None) -> Release:
            existing(current, wish.model)
            return Release(wish.model, body.version, body.reason)

        return await respond(self._changes, wish, make, self._replicas)

    async def restore(self, request: Request) -> Response:
        """Put the route of an earlier revision in place of the current one."""
        wish, based_on = read_wish(request, "restore", OVERRIDE), condition(request)
        body = parse_body(RestoreBody, await read_json(request))
        wish = replace(wish, reason=body.reason)
        entry = await self._entry(wish.model, body.revision)
        if entry is None:
            problem = Problem("/revision", "unknown_revision", f"the history has no revision {body.revision}")
            listed = {"pointer": problem.pointer, "code": problem.code, "message": problem.message}
            return answer({"error": problem.message, "problems": [listed]}, 404)
        route = self._changes.allowed(_written(entry).route)

        def make(current: Document | None) -> Replace:
            based_on.check(current)
            return Replace(route)

        return await respond(self._changes, wish, make, self._replicas)

    async def _verb(self, request: Request, verb: str) -> tuple[Wish, VerbBody]:
        wish = read_wish(request, verb)
        body = parse_body(VerbBody, await read_json(request))
        return replace(wish, reason=body.reason, retries=VERB_RETRIES), body

    async def _entry(self, model: str, revision: int) -> HistoryEntry | None:
        entries = await self._store.history(model, limit=1, until=revision)
        if entries and entries[-1].revision == revision:
            return entries[-1]
        if await self._store.load(model) is None:
            raise RouteNotFound(model)
        return None


def _written(entry: HistoryEntry) -> RouteDocument:
    if verify([entry]) is not None:
        raise DamagedDocument(f"revision {entry.revision} in the history is not what was written: it is not restored")
    try:
        document = decode(entry.document)
    except InvalidDocument as error:
        raise DamagedDocument(f"revision {entry.revision} in the history cannot be read: {error}") from None
    if not isinstance(document, RouteDocument):
        message = f"revision {entry.revision} is a deletion: name one that holds a route, or DELETE"
        raise InvalidDocument([Problem("/revision", "deleted", message)])
    return document
