"""What a gateway writes into the store on its own account: lowers, seeds, and routes that the store has lost."""

import logging
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress

from gateway.control.disk_copy import Table
from gateway.control.messages import Lowered
from routing import edit
from routing.codec import decode, encode
from routing.errors import StaleRevision
from routing.store import GENESIS_SHA256, Draft, Record, Store, chain, write
from routing.table import Route

log = logging.getLogger("turnout.supervisor")

LOWER_RACES = 20  # lost compare-and-sets that a lower takes up again
GUARD = "guard"
SEED = "seed"
SUPERVISOR = "supervisor"


class Writes:
    """Every call may raise StoreUnavailable or OutcomeUnknown.

    Args:
        store: Open.
        wall: Wall clock, for records only.
    """

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall

    async def lower(self, lowered: Lowered, change_id: str) -> Record | None:
        """Weight to stable and the latch; ``None`` when the epoch has passed, or it was done already.

        Raises:
            RouteNotFound: The store does not hold the route.
            RoutingError: The document cannot be changed.
        """
        change = edit.Lower(
            lowered.model, lowered.version, lowered.epoch, lowered.reason, lowered.evidence, self._wall()
        )
        return await write(
            self._store,
            lowered.model,
            lambda record: _draft(record, change, change_id),
            actor=GUARD,
            reason=lowered.reason,
            at=self._wall(),
            change_id=change_id,
            retries=LOWER_RACES,
        )

    async def seed(self, routes: Iterable[Route]) -> None:
        """Create the routes that the store has never held."""
        for route in routes:
            if await self._store.load(route.model) is None:
                await self._create(route)

    async def _create(self, route: Route) -> None:
        change_id = secrets.token_hex(16)
        with suppress(StaleRevision):  # another replica was first
            await write(
                self._store,
                route.model,
                lambda record: None if record else _draft(record, edit.Replace(route), change_id),
                actor=SEED,
                reason="created from the routes folder",
                at=self._wall(),
                change_id=change_id,
            )

    async def offer(self, table: Table) -> None:
        """Give a store that was flushed, or put back to an older state, what this replica still knows."""
        held = {record.model: record for record in await self._store.list()}
        for model, (revision, document) in list(table.documents.items()):
            record = held.get(model)
            if record is None or record.revision < revision:
                await self._offer_one(model, revision, document, record)

    async def _offer_one(self, model: str, revision: int, document: bytes, held: Record | None) -> None:
        entry = chain(
            held.head_sha256 if held else GENESIS_SHA256,
            model=model,
            revision=revision,
            at=self._wall(),
            actor=SUPERVISOR,
            reason="the store had lost this revision: offered back from a replica's copy",
            change_id=secrets.token_hex(16),
            verb="offer",
            evidence=None,
            document=document,
        )
        with suppress(StaleRevision):  # another replica was first, with the same or a higher revision
            offered = Record(model, revision, document, entry.sha256)
            await self._store.compare_and_set(held.revision if held else 0, offered, entry)
            log.warning("offered a route back to the store", extra={"model": model, "revision": revision})


def _draft(record: Record | None, change: edit.Change, change_id: str) -> Draft | None:
    """What a change makes of a record; ``None`` when it changes nothing."""
    current = decode(record.document) if record else None
    following = edit.next_document(current, change, change_id)
    if following is None:
        return None
    evidence = change.evidence if isinstance(change, edit.Lower) else None
    verb = "put" if isinstance(change, edit.Replace) else type(change).__name__.lower()
    return Draft(following.revision, encode(following), verb, evidence)
