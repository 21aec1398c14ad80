"""Keeps the disk copy up to date: at once where somebody waits for it, else beside what goes on."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.control.disk_copy import DiskCopy, Table

log = logging.getLogger("turnout.supervisor")

SAVE_AFTER_S = 0.02  # the disk copy waits so long for more changes, and stays out of the way of this one


class Saving:
    """Writes a table to its disk copy.

    Args:
        copy: Where it goes.
        table: What is held; others change it.
        spawn: Starts a task that somebody owns.

    Attributes:
        is_unsaved: Changes wait to be written.
    """

    def __init__(self, copy: DiskCopy, table: Table, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._copy = copy
        self._table = table
        self._spawn = spawn
        self._is_saving = False
        self.is_unsaved = False

    def soon(self) -> None:
        """Bring the disk copy up to date beside the watch; changes that come meanwhile go with the next."""
        self.is_unsaved = True
        if not self._is_saving:
            self._is_saving = True
            self._spawn(self._save_changes())

    async def _save_changes(self) -> None:
        try:
            while self.is_unsaved:
                await asyncio.sleep(SAVE_AFTER_S)
                self.is_unsaved = False
                await self.now()
        finally:
            self._is_saving = False

    async def now(self) -> None:
        """Write what is held; a disk that refuses is logged."""
        try:
            await self._copy.write(self._table)
        except OSError as error:
            log.error("the disk copy cannot be written", extra={"reason": str(error)})
