"""Who serves what by their own word, and waiting until all of them serve a write."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.errors import Overloaded
from routing.errors import StoreUnavailable
from routing.store import Store, Word

MAX_WAITS = 64  # writes that wait for replicas at one time
DEFAULT_WAIT_MS = 10_000
MAX_WAIT_MS = 60_000
POLL_FIRST_S = 0.005
POLL_MAX_S = 0.2
POLL_GROWTH = 1.5
NOTHING_CHANGED = "; nothing was changed"  # how a store ends what it says of a command that it refused


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica said last: revisions by model.

    Attributes:
        unready: By model and version, why stable answers the version's share there.
        age_s: Time since it said so, by the store's clock; ``None`` where it did not say how long its word counts.
        is_silent: Its word counts no more: it is cut off from the store, stopped or dead.
    """

    name: str
    applied: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    unready: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    age_s: float | None = None
    is_silent: bool = False

    def has_applied(self, model: str, revision: int) -> bool:
        """Whether it serves this revision or a later one."""
        return self.applied.get(model, 0) >= revision

    def has_refused(self, model: str, revision: int) -> bool:
        """Whether it refused this revision or a later one, and serves an older one."""
        return not self.has_applied(model, revision) and self.refused.get(model, 0) >= revision

    def state(self, model: str, revision: int) -> str:
        """Where it stands against the revision that is stored: ``serves``, ``behind``, ``refused`` or ``silent``."""
        if self.is_silent:
            return "silent"
        if self.has_applied(model, revision):
            return "serves"
        return "refused" if self.has_refused(model, revision) else "behind"


class Replicas:
    """The replicas on one store.

    Args:
        store: Open.
        own: Name of this process, which is waited for even when its word is not there yet; empty: none.
        draining: Ends all waiting.
    """

    def __init__(self, store: Store, own: str, draining: asyncio.Event) -> None:
        self._store = store
        self._own = own
        self._draining = draining
        self._waits = 0

    async def alive(self) -> list[Replica]:
        """All whose time is not over, by name.

        Raises:
            StoreUnavailable: As the store.
        """
        return [replica for replica in await self.known() if not replica.is_silent]

    async def known(self) -> list[Replica]:
        """These, and those that fell silent not long ago, as far as the store remembers.

        Raises:
            StoreUnavailable: As the store.
        """
        return [_replica(name, word) for name, word in sorted((await self._store.words()).items())]

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room for one more who waits; taken before the write, so that a refusal changes nothing.

        Raises:
            Overloaded: ``MAX_WAITS`` wait already.
        """
        if self._waits >= MAX_WAITS:
            raise Overloaded(f"{MAX_WAITS} writes wait for replicas already: nothing was changed, try again")
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1

    async def wait(self, model: str, revision: int, timeout_s: float) -> dict[str, Any]:
        """Wait until every live replica has applied the revision or refused it, or the time is over."""
        loop = asyncio.get_running_loop()
        end_s, delay_s = loop.time() + timeout_s, POLL_FIRST_S
        while True:
            try:
                found = await self._seen(model, revision)
            except StoreUnavailable as error:
                return {"all": False, "waiting_for": [], "refused_by": [], "problem": _unseen(error)}
            left_s = end_s - loop.time()
            if not found["waiting_for"] or left_s <= 0 or self._draining.is_set():
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(min(delay_s, left_s)):
                    await self._draining.wait()
            delay_s = min(delay_s * POLL_GROWTH, POLL_MAX_S)

    async def _seen(self, model: str, revision: int) -> dict[str, Any]:
        alive = await self.alive()
        if self._own and all(replica.name != self._own for replica in alive):
            alive.append(Replica(self._own))
        applied = [replica.name for replica in alive if replica.has_applied(model, revision)]
        refused = [replica.name for replica in alive if replica.has_refused(model, revision)]
        waiting = [replica.name for replica in alive if replica.name not in {*applied, *refused}]
        seen: dict[str, Any] = {"all": not waiting and not refused, "waiting_for": waiting, "refused_by": refused}
        if unready := {replica.name: replica.unready[model] for replica in alive if model in replica.unready}:
            seen["unready"] = unready
        return seen


def _unseen(error: StoreUnavailable) -> str:
    """Why nobody knows who serves a write; what the store says of the question is not true of the write."""
    said = str(error).removesuffix(NOTHING_CHANGED)
    return f"the edit is stored; who serves it could not be found out, the wait ended: {said}"


def _replica(name: str, word: Word) -> Replica:
    """What a replica said; one of another release that cannot be understood has applied nothing."""
    is_silent = word.left_s <= 0
    try:
        plain = orjson.loads(word.data)
        unready = {str(model): _sentences(versions) for model, versions in plain.get("unready", {}).items()}
        ttl_s = plain.get("ttl_s")
        age_s = None if ttl_s is None else round(max(0.0, float(ttl_s) - word.left_s), 3)
        return Replica(name, _revisions(plain["applied"]), _revisions(plain["refused"]), unready, age_s, is_silent)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Replica(name, is_silent=is_silent)


def _revisions(plain: Any) -> Mapping[str, int]:
    return {str(model): int(revision) for model, revision in plain.items()}


def _sentences(plain: Any) -> Mapping[str, str]:
    return {str(version): str(why) for version, why in plain.items()}
