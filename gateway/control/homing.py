"""Brings what guards lowered here home: into the store, however long that takes."""

import asyncio
import logging
import secrets
from collections.abc import Callable

from gateway.control.disk_copy import Table
from gateway.control.messages import Lowered
from gateway.control.reach import Reach
from gateway.control.saving import Saving
from gateway.control.writes import Writes
from routing.errors import NewerSchema, OutcomeUnknown, RouteNotFound, RoutingError, StaleRevision, StoreUnavailable
from routing.store import Record

log = logging.getLogger("turnout.supervisor")

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 0.5  # a store that is back is found in less than a second


class Homing:
    """Writes lowers into the store.

    Args:
        table: Holds them until they are there.
        saving: Has them on the disk first.
        writes: Writes them.
        reach: Hears whether the store is there.
        is_open: Whether the store can be asked at all.
        on_written: Told of what the store holds then.
    """

    def __init__(
        self,
        table: Table,
        saving: Saving,
        writes: Writes,
        reach: Reach,
        is_open: Callable[[], bool],
        on_written: Callable[[Record], None],
    ) -> None:
        self._table = table
        self._saving = saving
        self._writes = writes
        self._reach = reach
        self._is_open = is_open
        self._on_written = on_written

    async def bring(self, lowered: Lowered) -> None:
        """Write a lower into the store: to the disk first, then as often as it takes."""
        key = (lowered.model, lowered.version)
        await self._saving.now()
        change_id = secrets.token_hex(16)
        wait_s = RETRY_FIRST_S
        while not await self._is_there(lowered, change_id):
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)
        if self._table.lowers.get(key) is lowered:
            del self._table.lowers[key]
        await self._saving.now()

    async def _is_there(self, lowered: Lowered, change_id: str) -> bool:
        """Try once; False to try again."""
        if not self._is_open():
            return False
        try:
            record = await self._writes.lower(lowered, change_id)
        except (StoreUnavailable, OutcomeUnknown) as error:
            self._reach.lost(error)
            return False
        except RouteNotFound:
            # A store that was flushed gets the route offered back; one that was deleted meanwhile needs no lower.
            return lowered.model not in self._table.documents
        except (StaleRevision, NewerSchema):  # a document of a newer release may be one of ours again
            return False
        except RoutingError as error:
            log.error("a lower was refused", extra={"model": lowered.model, "reason": str(error)})
            return True
        except Exception:  # whatever the store holds, a lower is not forgotten
            log.exception("a lower could not be written", extra={"model": lowered.model})
            return False
        self._reach.found()  # the watch need not have noticed that the store was away
        if record is not None:
            self._on_written(record)
        return True
