"""Who changed a route, when, why, and what: the audit, for people."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import query
from gateway.admin.answers import answer
from gateway.admin.changes import without_names
from gateway.admin.json_patch import diff
from gateway.admin.routes import model_in
from routing.document import utc
from routing.errors import RouteNotFound
from routing.store import UNREADABLE, HistoryEntry, Store, verify

DEFAULT_ENTRIES = 100
MAX_ENTRIES = 1000
VERIFIED_ENTRIES = 100_000  # newest entries that verifying and restoring read


class HistoryEndpoints:
    """``/routes/{model}/history``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, request: Request) -> Response:
        """The newest entries, newest first, also of a deleted route; ``verify=1`` checks the whole chain."""
        found = query.parameters(request, "limit", "verify")
        limit = query.count(found, "limit", DEFAULT_ENTRIES, MAX_ENTRIES)
        must_verify = query.flag(found, "verify")
        model = model_in(request)
        record = await self._store.load(model)
        if record is None:
            raise RouteNotFound(model)
        # One more than is shown: the oldest is compared with the one before it.
        newest = await self._store.history(model, limit=VERIFIED_ENTRIES if must_verify else limit + 1)
        # What was written since the record was read would look like a broken end.
        entries = [entry for entry in newest if entry.revision <= record.revision]
        # Off the loop: a long history takes longer than a request may wait.
        differences = await asyncio.to_thread(shown, entries, limit)
        body: dict[str, Any] = {"model": model, "revision": record.revision, "entries": differences}
        broken = next((entry.revision for entry in entries if entry.verb == UNREADABLE), None)
        if must_verify:
            broken = await asyncio.to_thread(verify, entries, head_sha256=record.head_sha256)
        if must_verify or broken is not None:
            body |= {"verified": broken is None, "first_broken_revision": broken}
        if broken is not None:
            body["error"] = f"broken at revision {broken}: somebody changed the history"
        return answer(body)


def shown(entries: Sequence[HistoryEntry], limit: int) -> list[dict[str, Any]]:
    """The newest ``limit`` entries, newest first, each with its difference to the one before."""
    window = [*entries[-limit - 1 :]]
    pairs = [*itertools.pairwise(window)] if len(window) > limit else [*itertools.pairwise([None, *window])]
    return [_shown(previous, entry) for previous, entry in reversed(pairs) if entry is not None]


def _shown(previous: HistoryEntry | None, entry: HistoryEntry) -> dict[str, Any]:
    before = _plain(previous.document) if previous else None
    return {
        "revision": entry.revision,
        "at": _at(entry),
        "actor": entry.actor,
        "reason": entry.reason,
        "verb": entry.verb,
        "change_id": entry.change_id,
        "evidence": entry.evidence,
        "prev_sha256": entry.prev_sha256,
        "sha256": entry.sha256,
        "diff": diff(without_names(before), without_names(_plain(entry.document))),
    }


def _at(entry: HistoryEntry) -> str | None:
    return None if entry.verb == UNREADABLE else utc(entry.at)


def _plain(document: bytes) -> Any:
    """The document as it stands in the history; its text when somebody broke it."""
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        return document.decode("utf-8", "replace")
