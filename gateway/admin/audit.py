"""All chains at once: the history of every route, and the refused log-ins of this supervisor."""

import asyncio
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.admin import query
from gateway.admin.answers import answer
from gateway.admin.refusals import RefusedLogins
from routing.store import Record, Store, verify

PAGE_ENTRIES = 500
VERIFIED_ENTRIES = 100_000  # newest entries of a route that are read


class AuditEndpoints:
    """``/audit``."""

    def __init__(self, store: Store, refusals: RefusedLogins) -> None:
        self._store = store
        self._refusals = refusals
        self._lock = asyncio.Lock()  # one at a time: it reads everything

    async def get(self, request: Request) -> Response:
        """The head of every chain; ``verify=1`` reads and checks them all."""
        must_verify = query.flag(query.parameters(request, "verify"), "verify")
        async with self._lock:
            routes = []
            for record in await self._store.list():
                found = {"model": record.model, "revision": record.revision, "head_sha256": record.head_sha256}
                routes.append(found | (await self._checked(record) if must_verify else {}))
            refused = asdict(await self._refusals.verify())
        body: dict[str, Any] = {"routes": routes, "refused_logins": refused | {"unwritten": self._refusals.unwritten}}
        if must_verify:
            body = {"verified": refused["verified"] and all(route["verified"] for route in routes), **body}
        return answer(body)

    async def _checked(self, record: Record) -> dict[str, Any]:
        """A route's chain, newest page first: each must end where the next one begins."""
        broken: int | None = None
        head, until, count = record.head_sha256, record.revision, 0
        while count < VERIFIED_ENTRIES:
            page = await self._store.history(record.model, limit=PAGE_ENTRIES, until=until)
            if not page and count:
                break
            broken = await asyncio.to_thread(verify, page, head_sha256=head) or broken
            count += len(page)
            if len(page) < PAGE_ENTRIES:
                break
            head, until = page[0].prev_sha256, page[0].revision - 1
        return {"entries": count, "verified": broken is None, "first_broken_revision": broken}
