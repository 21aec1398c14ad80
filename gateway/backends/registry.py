"""Backends by what they run, shared by all snapshots that name them, closed when nothing holds them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway.backends.base import Backend, State
from gateway.protocol.metadata import as_plain
from routing.table import BackendSpec

log = logging.getLogger("turnout.backends")


@dataclass(frozen=True, slots=True)
class BackendKey:
    """One version at one place; equal keys share one backend. A shadow's serves no client, whatever it runs."""

    model: str
    version: str
    spec: BackendSpec
    is_shadow: bool = False

    def __hash__(self) -> int:
        return hash((self.model, self.version, self.spec.model_dump_json(), self.is_shadow))


BackendFactory = Callable[[BackendKey], Backend]


class Slot:
    """A backend and how long it has not been ready.

    Attributes:
        unready_since_s: On the loop's clock, while it is not ready after it had been; else ``None``.
    """

    __slots__ = ("backend", "holders", "key", "unready_since_s", "was_ready")

    def __init__(self, key: BackendKey, backend: Backend) -> None:
        self.key = key
        self.backend = backend
        self.holders = 0
        self.was_ready = False
        self.unready_since_s: float | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked now."""
        return self.backend.state is State.READY

    def look(self, now_s: float) -> float:
        """Note its state; returns for how long it has not been ready after it had been, in seconds."""
        if self.is_ready:
            self.was_ready, self.unready_since_s = True, None
            return 0.0
        if not self.was_ready:
            return 0.0
        if self.unready_since_s is None:
            self.unready_since_s = now_s
        return now_s - self.unready_since_s


async def _open(slot: Slot) -> None:
    await slot.backend.open()
    slot.look(asyncio.get_running_loop().time())  # it counts as having been ready from its first moment


class Registry:
    """Owner of all backends of a worker. A new one is opened in a task of its own: it delays nobody."""

    def __init__(self, make: BackendFactory) -> None:
        self._make = make
        self._slots: dict[BackendKey, Slot] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def acquire(self, key: BackendKey) -> Slot:
        """The slot for ``key``, opened if it is new. Every call wants one ``release``."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = Slot(key, self._make(key))
            self._spawn(_open(slot), key)
        slot.holders += 1
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back; the last one closes its backend."""
        slot.holders -= 1
        if slot.holders == 0:
            del self._slots[slot.key]
            self._spawn(slot.backend.close(), slot.key)

    def slots(self) -> list[Slot]:
        """All that are held."""
        return list(self._slots.values())

    def signatures(self, model: str) -> list[tuple[str, str, dict[str, Any]]]:
        """Of versions of a model that are or were ready: version, backend as JSON, signature as plain data."""
        described = ((slot.key, slot.backend.signature) for slot in self.slots() if slot.key.model == model)
        return [(key.version, key.spec.model_dump_json(), as_plain(its)) for key, its in described if its is not None]

    async def settled(self) -> None:
        """Wait until every backend that is being opened or closed has been."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Close everything, whoever holds it."""
        slots, self._slots = self.slots(), {}
        for slot in slots:
            self._spawn(slot.backend.close(), slot.key)
        await self.settled()

    def _spawn(self, work: Coroutine[Any, Any, None], key: BackendKey) -> None:
        task = asyncio.get_running_loop().create_task(self._logged(work, key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _logged(work: Coroutine[Any, Any, None], key: BackendKey) -> None:
        try:
            await work
        except Exception:  # the top of a task; the backend's own state says the rest
            log.exception("a backend could not be opened or closed", extra={"model": key.model, "version": key.version})
