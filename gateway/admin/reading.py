"""Reads: from the store, or while that is away from the table that this gateway serves, and then they say so."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from gateway.admin.answers import answer
from gateway.admin.changes import stored
from routing.document import RouteDocument
from routing.errors import RouteNotFound, StoreUnavailable
from routing.store import Record, Store

AWAY = {"x-turnout-store": "away"}

Held = Callable[[], Iterable[Record]]


@dataclass(frozen=True, slots=True)
class Read:
    """What was read.

    Attributes:
        away: Why it is what this gateway holds and not what the store does; else empty.
    """

    records: Sequence[Record]
    away: str = ""

    def document(self, model: str) -> RouteDocument:
        """The document of the route that was read.

        Raises:
            RouteNotFound: There is none, or it was deleted.
        """
        document = stored(self.records[0]) if self.records else None
        if not isinstance(document, RouteDocument):
            raise RouteNotFound(model)
        return document

    def answer(self, plain: Any, revision: int | None = None) -> Response:
        """An answer; what is held may be old and has no ``ETag``, so that no write can be based on it."""
        return answer(plain, headers=AWAY) if self.away else answer(plain, revision=revision)


class Reading:
    """Reads of routes.

    Args:
        store: Open.
        held: Routes as this gateway has them.
    """

    def __init__(self, store: Store, held: Held) -> None:
        self._store = store
        self._held = held

    async def all(self) -> Read:
        """Every route."""
        try:
            return Read(await self._store.list())
        except StoreUnavailable as error:
            return Read(sorted(self._held(), key=lambda record: record.model), str(error))

    async def one(self, model: str) -> Read:
        """One route, or none.

        Raises:
            StoreUnavailable: The store is away, and this gateway has no such route.
        """
        try:
            record = await self._store.load(model)
        except StoreUnavailable as error:
            found = [held for held in self._held() if held.model == model]
            if not found:
                raise
            return Read(found, str(error))
        return Read([record] if record else [])
