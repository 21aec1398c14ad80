"""Models that this gateway has loaded on servers, remembered over its restarts."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import orjson

from gateway.control.disk_copy import replace_file

log = logging.getLogger("turnout.keeper")

FILE_NAME = "loaded.json"
REMEMBERED_MAX = 1024  # a model beyond that is loaded all the same, and stays where this gateway ends before it goes

Loaded = tuple[str, str]  # URL of the server, and its name for the model


class LoadedModels:
    """Keeps them in one file, replaced whole; ``None`` as folder keeps nothing.

    Args:
        folder: Of the file.
        store_id: The store whose table named them: another one's says nothing of them.

    Attributes:
        places: What is remembered.
    """

    def __init__(self, folder: Path | None, store_id: Callable[[], str]) -> None:
        self._file = None if folder is None else folder / FILE_NAME
        self._store_id = store_id
        self._lock = asyncio.Lock()
        self.places: set[Loaded] = set()

    def read(self) -> None:
        """Take over what an earlier run has loaded."""
        if self._file is None:
            return
        try:
            plain = orjson.loads(self._file.read_bytes())
            if plain["store_id"] == self._store_id():
                self.places |= {(str(url), str(model)) for url, model in plain["loaded"][:REMEMBERED_MAX]}
        except (OSError, ValueError, KeyError, TypeError):
            return

    async def add(self, place: Loaded) -> None:
        """It is about to be loaded: known before it is, so that no end of this process leaves it behind."""
        if place in self.places:
            return
        if len(self.places) >= REMEMBERED_MAX:
            log.warning("a loaded model is not remembered: there are too many", extra={"url": place[0]})
            return
        self.places.add(place)
        await self._write()

    async def discard(self, place: Loaded) -> None:
        """It was unloaded."""
        if place in self.places:
            self.places.discard(place)
            await self._write()

    async def _write(self) -> None:
        if self._file is None:
            return
        async with self._lock:
            data = orjson.dumps({"store_id": self._store_id(), "loaded": sorted(map(list, self.places))})
            try:
                await asyncio.to_thread(replace_file, self._file, data)
            except OSError as problem:
                log.error("loaded models cannot be written down", extra={"reason": str(problem)})
