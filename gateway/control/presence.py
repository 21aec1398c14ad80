"""A replica's word that it lives and what it serves, kept in the store for a time."""

import asyncio
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson

from routing.errors import StoreUnavailable
from routing.store import Store

TTL_S = 15.0  # a replica that died without a word is counted for so long
BEATS = 3  # times within it that the word is renewed
RETRY_S = 0.5
MAX_HOST_CHARS = 64


def make_replica_id() -> str:
    """A name for this process that people can place and no other process ever has."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:MAX_HOST_CHARS].strip(".-") or "replica"
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


class Presence:
    """Renews the word of one replica: after every change, and often enough to stay alive.

    Args:
        store: Need not be open yet.
        replica_id: Whose word it is.
        said: What is said now: plain data, revisions by model under ``applied`` and ``refused``.

    Attributes:
        on_heard: Told what the store has heard, and when by the store's clock, where it has one.
    """

    def __init__(
        self, store: Store, replica_id: str, said: Callable[[], Mapping[str, Any]], *, ttl_s: float = TTL_S
    ) -> None:
        self._store = store
        self._said = said
        self._ttl_s = ttl_s
        self._news = asyncio.Event()
        self.replica_id = replica_id
        self.on_heard: Callable[[Mapping[str, Any], float], None] = _unheard

    def change(self) -> None:
        """What is said has changed; several changes in a row are told at once."""
        self._news.set()

    async def keep(self) -> None:
        """Renew for ever."""
        while True:
            self._news.clear()
            wait_s = self._ttl_s / BEATS
            try:
                said = self._said()
                at_s = await self._store.put_presence(
                    self.replica_id, orjson.dumps({**said, "ttl_s": self._ttl_s}), self._ttl_s
                )
                if at_s is not None:
                    self.on_heard(said, at_s)
            except StoreUnavailable:
                await asyncio.sleep(min(RETRY_S, wait_s))
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()

    async def leave(self) -> None:
        """Take the word back, so that nobody waits for this replica."""
        with suppress(StoreUnavailable):
            await self._store.put_presence(self.replica_id, b"", 0)


def _unheard(_said: Mapping[str, Any], _at_s: float) -> None:
    return
