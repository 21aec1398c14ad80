"""The one way to change a route: read, build, compare-and-set."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from routing.errors import StaleRevision
from routing.store.base import Record, Store
from routing.store.history import GENESIS_SHA256, chain

RECENT_CHANGES = 64  # history entries in which a repeated change is recognised
BACKOFF_S = 0.010  # longest wait before the first retry; grows with each, up to BACKOFF_MAX_S
BACKOFF_MAX_S = 0.200


@dataclass(frozen=True, slots=True)
class Draft:
    """What should be stored next.

    Attributes:
        revision: Revision of ``document``, above the current one.
        document: Opaque bytes.
        verb: What is done, for the history.
        evidence: Plain JSON data behind it, or None.
    """

    revision: int
    document: bytes
    verb: str
    evidence: Any = None


async def write(
    store: Store,
    model: str,
    build: Callable[[Record | None], Draft | None],
    *,
    actor: str,
    reason: str,
    at: float,
    change_id: str,
    retries: int = 0,
) -> Record | None:
    """Change one route and append the history entry that says so.

    Sending the same ``change_id`` again changes nothing more: the answer is what the first one stored.

    Args:
        build: Makes the next document from the current record. None when nothing would change; what it raises
            passes through. Called again after each lost race, so it must not act.
        at: Wall clock, seconds since 1970.
        change_id: 32 hex digits, new for each intended change.
        retries: Lost races to take up again from a fresh read; 0 leaves that to the caller.

    Returns:
        The stored record, or None when ``build`` found nothing to change.

    Raises:
        StaleRevision: Lost one race more than ``retries``.
        StoreUnavailable: Nothing was changed.
        OutcomeUnknown: It may have happened; send it again with the same ``change_id``.
    """
    attempt = 0
    while True:
        record = await store.load(model)
        if record and (stored := await _stored(store, model, change_id)):
            return stored
        draft = build(record)
        if draft is None:
            return None
        entry = chain(
            record.head_sha256 if record else GENESIS_SHA256,
            model=model,
            revision=draft.revision,
            at=at,
            actor=actor,
            reason=reason,
            change_id=change_id,
            verb=draft.verb,
            evidence=draft.evidence,
            document=draft.document,
        )
        changed = Record(model, draft.revision, draft.document, entry.sha256)
        try:
            await store.compare_and_set(record.revision if record else 0, changed, entry)
            return changed
        except StaleRevision:
            attempt += 1
            if attempt > retries:
                raise
        await asyncio.sleep(random.random() * min(BACKOFF_S * attempt, BACKOFF_MAX_S))


async def _stored(store: Store, model: str, change_id: str) -> Record | None:
    for entry in reversed(await store.history(model, limit=RECENT_CHANGES)):
        if entry.change_id == change_id:
            return Record(model, entry.revision, entry.document, entry.sha256)
    return None
