"""Models on Triton servers: loaded when the table gains a version there, unloaded when nothing uses them any more."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from gateway.backends.probe import NotReady
from gateway.backends.repository import Repository
from gateway.control.loaded import LoadedModels
from gateway.control.workers import Workers, missing
from gateway.settings import is_loopback
from routing.table import Route, TritonSpec

log = logging.getLogger("turnout.keeper")

LOOK_S = 1.0  # between two looks at what is there and what should be
RETRY_FIRST_S, RETRY_MAX_S = 2.0, 60.0  # between two tries to load or unload one model
LOADED_AFTER_S = 30.0  # how often a model that was ready is asked again


class Place(NamedTuple):
    """A model on a server."""

    url: str
    model: str


@dataclass(slots=True)
class Kept:
    """What is known of one place.

    Attributes:
        versions: Those that the table names.
        routes: Models whose routes name it.
        state: ``loading``, ``loaded``, ``failed``, ``leaving``.
        reason: Why it failed.
        gone_s: When the table stopped to name it.
        due_s: When it is looked at again.
        tries: That failed in a row.
    """

    versions: set[str] = field(default_factory=set)
    routes: set[str] = field(default_factory=set)
    state: str = "loading"
    reason: str = ""
    gone_s: float | None = None
    due_s: float = 0.0
    tries: int = 0


class Keeper:
    """Owner of the models that backends with ``manage: true`` name.

    A model is unloaded when the table has not named it for a while, no worker has a request for it in work, and no
    other version, managed or not, runs under that name on that host. So nothing that this gateway uses ever goes.

    Args:
        workers: Asked for what they still hold.
        routes: The newest of every route.
        documents: All stored ones, those that cannot be read too.
        clock: Monotonic seconds.
        unload_after_s: How long a model stays after the table has stopped to name it.
        loaded: What was loaded; that of an earlier run goes too when no table names it.
        is_current: Whether the table is as the store has it: an old one unloads nothing.
    """

    def __init__(
        self,
        workers: Workers,
        routes: Callable[[], Iterable[Route]],
        documents: Callable[[], Iterable[bytes]],
        clock: Callable[[], float],
        unload_after_s: float,
        loaded: LoadedModels,
        is_current: Callable[[], bool],
    ) -> None:
        self._workers = workers
        self._routes = routes
        self._documents = documents
        self._clock = clock
        self._unload_after_s = unload_after_s
        self._loaded = loaded
        self._is_current = is_current
        self._kept: dict[Place, Kept] = {}
        self._busy: dict[Place, asyncio.Task[None]] = {}

    async def keep(self) -> None:
        """Look for ever."""
        self._loaded.read()
        for place in self._loaded.places:
            self._kept[Place(*place)] = Kept()
        try:
            while True:
                try:
                    self.look()
                except Exception:  # the top of a task
                    log.exception("the models on Triton servers could not be looked at")
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._busy.values():
                task.cancel()

    def look(self) -> None:
        """Compare what should be with what is known, and begin what is due."""
        now_s = self._clock()
        wanted = managed(self._routes())
        for place, found in wanted.items():
            kept = self._kept.setdefault(place, Kept())
            if kept.gone_s is not None or not found.versions <= kept.versions:
                kept.state, kept.due_s, kept.tries, kept.gone_s = "loading", now_s, 0, None
            kept.versions, kept.routes = found.versions, found.routes
        for place, kept in list(self._kept.items()):
            if place not in wanted and kept.gone_s is None:
                kept.gone_s, kept.state, kept.tries = now_s, "leaving", 0
                kept.due_s = now_s + self._unload_after_s
            if now_s >= kept.due_s and place not in self._busy:
                work = self._ensure(place, kept) if kept.gone_s is None else self._let_go(place, kept)
                task = self._busy[place] = asyncio.get_running_loop().create_task(work)
                task.add_done_callback(lambda _, place=place: self._busy.pop(place, None))  # type: ignore[misc]

    def status(self) -> list[dict[str, Any]]:
        """Every place as plain data."""
        return [
            {
                "url": place.url,
                "model": place.model,
                "versions": sorted(k.versions),
                "state": k.state,
                "reason": k.reason,
            }
            for place, k in sorted(self._kept.items())
        ]

    def warnings(self, model: str) -> list[str]:
        """Sentences about a route."""
        return [
            f"model {place.model!r} cannot be loaded at {place.url}: it {kept.reason}"
            for place, kept in sorted(self._kept.items())
            if model in kept.routes and kept.state == "failed"
        ]

    # What is done with one place; never two things at a time.

    async def _ensure(self, place: Place, kept: Kept) -> None:
        repository = Repository(place.url)
        try:
            if not await _all_ready(repository, place.model, kept.versions):
                await self._loaded.add(place)
                await repository.load(place.model)
                log.info("a model was loaded", extra={"url": place.url, "remote_model": place.model})
                if not await _all_ready(repository, place.model, kept.versions):
                    self._failed(kept, "loads, and has no ready version " + " and ".join(sorted(kept.versions)))
                    return
        except NotReady as problem:
            self._failed(kept, str(problem))
            return
        if kept.gone_s is None:
            kept.state, kept.reason, kept.tries = "loaded", "", 0
            kept.due_s = self._clock() + LOADED_AFTER_S

    async def _let_go(self, place: Place, kept: Kept) -> None:
        kept.due_s = self._clock() + LOOK_S
        if await self._is_used(place) or kept.gone_s is None:
            kept.reason = "is still in use"
            return
        try:
            await Repository(place.url).unload(place.model)
        except NotReady as problem:
            self._failed(kept, str(problem))
            kept.state = "leaving"
            return
        log.info("a model was unloaded", extra={"url": place.url, "remote_model": place.model})
        if kept.gone_s is not None:
            self._kept.pop(place, None)
            await self._loaded.discard(place)

    async def _is_used(self, place: Place) -> bool:
        """Whether the table names it again or may do so, a worker still holds it, or one cannot say."""
        if not self._is_current() or is_named(place, self._documents()):
            return True
        members = self._workers.members
        if not members or not all(member.is_serving for member in members):
            return True
        told = await self._workers.ask("places")
        if missing(members, told) or is_named(place, self._documents()):
            return True
        return any(_same(place, Place(*held)) for one in told.values() for held in one["places"])

    def _failed(self, kept: Kept, reason: str) -> None:
        kept.state, kept.reason = "failed", reason
        kept.due_s = self._clock() + min(RETRY_FIRST_S * 2**kept.tries, RETRY_MAX_S)
        kept.tries = min(kept.tries + 1, 16)


async def _all_ready(repository: Repository, model: str, versions: Collection[str]) -> bool:
    return all([await repository.is_ready(model, version) for version in sorted(versions)])


def places_of(model: str, spec: object) -> list[Place]:
    """Where a version runs on Triton servers; of any other none."""
    return [Place(url, spec.model or model) for url in spec.addresses()] if isinstance(spec, TritonSpec) else []


def managed(routes: Iterable[Route]) -> Mapping[Place, Kept]:
    """Places of backends with ``manage: true``, and the versions there."""
    found: dict[Place, Kept] = {}
    for route in routes:
        for version in route.versions():
            spec = route.backend(version)
            if isinstance(spec, TritonSpec) and spec.manage:
                for place in places_of(route.model, spec):
                    kept = found.setdefault(place, Kept())
                    kept.versions.add(spec.version or version)
                    kept.routes.add(route.model)
    return found


def is_named(place: Place, documents: Iterable[bytes]) -> bool:
    """Whether a stored document names a place. One that a newer release wrote names it where it holds its name."""
    return any(_names(place, data) for data in documents)


def _names(place: Place, data: bytes) -> bool:
    try:
        route = orjson.loads(data).get("route") or {}
        specs = list(route.get("backends", {}).values())
        named = [
            Place(url, spec.get("model") or route["model"])
            for spec in specs
            if spec["kind"] == "triton"
            for url in spec.get("urls") or [spec["url"]]
        ]
        return any(_same(place, each) for each in named)
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        return place.model.encode() in data


def _same(place: Place, other: Place) -> bool:
    """The same model on the same host, on whichever port."""
    mine, its = (urlsplit(each.url).hostname or "" for each in (place, other))
    return place.model == other.model and (mine == its or (is_loopback(mine) and is_loopback(its)))
