"""Follows the store: every change of a route as it comes, and everything anew when one may have been missed."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from gateway.control.disk_copy import Table
from gateway.control.holding import Holding
from gateway.control.homing import RETRY_FIRST_S, RETRY_MAX_S
from gateway.control.measures import Measures
from gateway.control.reach import Reach
from gateway.control.saving import Saving
from gateway.control.writes import Writes
from routing.errors import OutcomeUnknown, PositionLost, RoutingError, StoreUnavailable
from routing.store import Store

log = logging.getLogger("turnout.supervisor")


class Following:
    """Takes from the store what it holds, once our copy was offered to it.

    Args:
        store: Not yet open.
        table: What is held here.
        holding: Receives what comes.
        writes: Offers our copy.
        saving: Has what came on the disk.
        reach: Told whether the store is there.
        measures: Told when a change was written.
        check_s: Period of the full comparison.
        on_read: Called when everything was read again.

    Attributes:
        is_open: The store was opened, so it can be asked.
    """

    def __init__(
        self,
        store: Store,
        table: Table,
        holding: Holding,
        writes: Writes,
        saving: Saving,
        reach: Reach,
        measures: Measures,
        *,
        check_s: float,
        on_read: Callable[[], None],
    ) -> None:
        self._store = store
        self._table = table
        self._holding = holding
        self._writes = writes
        self._saving = saving
        self._reach = reach
        self._measures = measures
        self._check_s = check_s
        self._on_read = on_read
        self._reading = asyncio.Lock()
        self.is_open = False

    async def keep(self, position: str) -> None:
        """Watch the store for ever; after each loss read everything again."""
        wait_s = RETRY_FIRST_S
        while True:
            try:
                position = position or await self._read_again()
                async with aclosing(self._store.watch(position)) as changes:
                    self._reach.found()
                    wait_s = RETRY_FIRST_S
                    async for change in changes:
                        position = change.position
                        if change.at_s is not None:
                            self._measures.written(change.model, change.revision, change.at_s)
                        if self._holding.known(change.model) != change.revision:
                            await self._fetch(change.model)
            except PositionLost:
                position = ""
                log.warning("the store's changes were lost: reading everything again")
                await asyncio.sleep(RETRY_FIRST_S)
            except (StoreUnavailable, OutcomeUnknown) as error:
                position = ""
                self._reach.lost(error)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
            except Exception:  # the top of a task that must not end: without it edits are taken and never served
                position = ""
                log.exception("the watch broke: reading everything again")
                await asyncio.sleep(RETRY_MAX_S)

    async def _read_again(self) -> str:
        """Everything, after the watch was lost; the position to watch from."""
        async with self._reading:
            store_id = await self.opened()
            position = await self._store.position()
            await self._writes.offer(self._table)
            self._table.store_id = store_id
            await self.compare()
        self._on_read()
        return position

    async def check(self) -> None:
        """Compare everything now and then, should the watch have missed something."""
        while True:
            await asyncio.sleep(self._check_s)
            try:
                async with self._reading:
                    await self.compare()
                    self._reach.found()
            except PositionLost:
                continue  # the watch will see it too, and offers our copy before anything is taken from there
            except RoutingError as error:
                self._reach.lost(error)
            except Exception:  # the top of a task that must not end
                log.exception("the table could not be compared with the store")

    async def opened(self) -> str:
        """Open the store if need be; its identity, which is ours only after our copy was offered to it."""
        if not self.is_open:
            await self._store.open()
            self.is_open = True
        store_id = await self._store.ping()
        if self._table.store_id not in {"", store_id}:
            log.warning("the store holds other contents than before", extra={"store_id": store_id})
        self._reach.found()
        return store_id

    async def compare(self) -> None:
        """Bring the workers to what the store holds.

        Raises:
            PositionLost: It holds other contents than those that our copy was last offered to.
        """
        records = await self._store.list()
        if await self._store.ping() != self._table.store_id:
            raise PositionLost(self._table.store_id)
        for record in records:
            self._holding.changed(record)
        gone = set(self._table.documents) - {record.model for record in records}
        for model in gone:
            self._holding.forget(model)
        if self._table.documents or gone:
            await self._saving.now()

    async def _fetch(self, model: str) -> None:
        record = await self._store.load(model)
        if record is not None:
            self._holding.changed(record)
            self._saving.soon()
