"""The one place that builds what there must be one of on a machine, beside the workers, and joins it."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from gateway.admin.auth import ensure_token
from gateway.admin.endpoints import admin_app
from gateway.admin.feed import Feed
from gateway.admin.refusals import RefusedLogins
from gateway.admin.scrape import scrape_app
from gateway.control.disk_copy import DiskCopy
from gateway.control.keeper import Keeper
from gateway.control.loaded import LoadedModels
from gateway.control.messages import Refused
from gateway.control.notices import Notices
from gateway.control.presence import make_replica_id
from gateway.control.supervisor import Supervisor
from gateway.control.workers import Workers, missing
from gateway.dataplane.doorkeeper import Doorkeeper, admin_bounds
from gateway.dataplane.frontdoor import front_door
from gateway.errors import CannotStart
from gateway.metrics.block import shared_block
from gateway.metrics.collector import Scraper
from gateway.metrics.families import CONNECTIONS, DESCRIBED, INFLIGHT, LOGINS_REFUSED, LOOP_LAG, WORKERS, WORKERS_LATE
from gateway.metrics.ledger import Ledger
from gateway.metrics.totals import Blocks, Samples, across
from gateway.route_files import problems_of_backends
from gateway.runtime.summed import Totals, route_status, worker_status
from gateway.runtime.warnings import REFUSED, RouteWarning, route_warnings, unready
from gateway.settings import Settings, Token
from routing.errors import StoreUnavailable
from routing.store import store_from_url
from routing.table import Route

log = logging.getLogger("turnout.warnings")

LOOK_S = 3.0  # between two looks for warnings
Shared = tuple[Totals | None, Mapping[str, Mapping[str, Any]], str]
STATES = ("serving", "starting", "silent")
DESCRIBED_AS = {True: "described", False: "unknown"}


class Host:
    """Store, watch, disk copy, admin plane and metrics of one gateway, whatever the number of its workers.

    Args:
        own_ports: Those that the gateway listens on.

    Attributes:
        workers: Those that are linked.
        blocks: Where they count.
        door: Protocol class of its listeners.
        admin_app: ASGI application of the admin plane.
        metrics_app: ASGI application of ``/metrics`` alone.
        replica_id: Name of the gateway among those on the store.
        draining: Set when the gateway is about to end: whatever streams or waits on the admin plane ends too.
        connections: Says how many connections are open on the listeners of this process; the server's.
        of_processes: What is known of the workers' processes, by slot, and as samples.
        feed: Events, of the store's changes and of warnings.
        token_file: Where the admin token of an embedded gateway is; ``None`` when tokens were configured.
    """

    def __init__(
        self, settings: Settings, seeds: Sequence[Route] = (), own_ports: Collection[int] = frozenset()
    ) -> None:
        """Build everything; must run on the loop that will serve."""
        self._settings = settings
        self._seeds = tuple(seeds)
        self.workers = Workers()
        block, reader = shared_block()
        self.blocks = Blocks([reader])
        self.door = front_door(Doorkeeper(admin_bounds(settings.server), Ledger(block).bound_hit))
        try:
            self.store = store_from_url(settings.store_url, timeout_s=settings.store.timeout_s)
        except ValueError as error:
            raise CannotStart(f"store.url: {error}") from None
        self.replica_id = make_replica_id()
        self.draining = asyncio.Event()
        keeps = self.store.kind != "memory"
        self.supervisor = Supervisor(
            self.store,
            self.workers,
            DiskCopy(settings.state_dir if keeps else None),
            time.time,
            check_s=settings.store.check_s,
            replica_id=self.replica_id,
            workers_expected=settings.server.workers,
            stale_after_s=settings.store.stale_after_s,
        )
        self.keeper = Keeper(
            self.workers,
            lambda: self.supervisor.judge.routes,
            lambda: self.supervisor.stored,
            time.monotonic,
            settings.backends.unload_after_s,
            LoadedModels(settings.state_dir if keeps else None, lambda: self.supervisor.store_id),
            lambda: self.supervisor.reach.is_there,
        )
        self._keeping: asyncio.Task[None] | None = None
        self.feed = Feed(self.store)
        self._notices = Notices()
        self._lookout: asyncio.Task[None] | None = None
        self._refusals = RefusedLogins(settings.state_dir, time.time, time.monotonic)
        self.token_file: Path | None = None
        self.connections: Callable[[], Mapping[str, int]] = dict
        self.of_processes: Callable[[], tuple[Mapping[int, Mapping[str, Any]], Samples]] = lambda: ({}, {})
        tokens, self._refused = self._tokens(), Counter[str]()
        self.scraper = Scraper(self.blocks, self.facts)
        self.admin_app: ASGIApp = admin_app(
            store=self.store,
            tokens=tokens,
            check_route=lambda route: problems_of_backends(route, settings, own_ports),
            status=self.status,
            overview=self.overview,
            metrics=self.scraper.scrape,
            now=time.time,
            replica_id=self.replica_id,
            draining=self.draining,
            refusals=self._refusals,
            refused=self._refused,
            metrics_are_open=settings.metrics.open,
            held=self.supervisor.held,
            known=self.supervisor.known,
            keep=self.supervisor.keep,
            signatures=self.workers.signatures,
            describe=self.workers.describe,
            feed=self.feed,
        )
        self.metrics_app: ASGIApp = scrape_app(
            tokens, self.scraper.scrape, self._refused, self._refusals, metrics_are_open=settings.metrics.open
        )

    async def start(self) -> None:
        """Read the table; workers get it as soon as they are linked.

        Raises:
            CannotStart: There is no table to serve from.
        """
        await self.supervisor.start(self._seeds)
        loop = asyncio.get_running_loop()
        self._keeping = loop.create_task(self.keeper.keep())
        self._lookout = loop.create_task(self._look_out())

    async def stop(self) -> None:
        """Leave the store. What was loaded elsewhere stays."""
        for task in (self._keeping, self._lookout):
            if task is not None:
                task.cancel()
        await self._refusals.flushed()
        await self.supervisor.stop()

    @property
    def models(self) -> list[str]:
        """Models that have a route."""
        return self.supervisor.judge.models

    async def status(self, models: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Live status of routes on this replica; without those that all workers know nothing of."""
        told = await self.workers.ask("routes", models)
        silent = missing(self.workers.members, told)
        totals, joint, problem = await self._shared(models, told.values())
        found: dict[str, Mapping[str, Any]] = {}
        for model in models:
            facts = {number: routes[model] for number, routes in told.items() if model in routes}
            if facts:
                found[model] = self._route(model, facts, silent, totals, joint.get(model, {}))
                if problem:
                    found[model]["warnings"].append(f"counts are those of this gateway alone: {problem}")
            elif (refusal := self.supervisor.refused.get(model)) is not None:
                found[model] = {"applied_revision": None, "warnings": [_refused(refusal).sentence, *_unheard(silent)]}
            elif silent:
                found[model] = {"applied_revision": None, "warnings": _unheard(silent)}
        return found

    async def _shared(self, models: Sequence[str], told: Iterable[Mapping[str, Any]]) -> Shared:
        """Totals of all gateways by place, what their judge says by model, and why these are missing."""
        sharing = self.supervisor.sharing
        places = {
            part["place"]
            for routes in told
            for route in routes.values()
            for part in (*route["variants"], *route["shadows"])
        }
        try:
            return await sharing.totals(sorted(places)), await sharing.judged(models), ""
        except StoreUnavailable as error:
            return None, {}, str(error)

    def _route(
        self,
        model: str,
        facts: Mapping[int, Mapping[str, Any]],
        silent: Sequence[int],
        totals: Totals | None,
        joint: Mapping[str, Any],
    ) -> dict[str, Any]:
        told, merged = list(facts.values()), self.supervisor.judge.status(model)
        idle_s = self._settings.guards.idle_s
        try:
            plain = route_status(told, merged, totals, joint, idle_s=idle_s)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):  # somebody else wrote there too
            self.supervisor.sharing.unreadable(model)
            plain = route_status(told, merged, None, {}, idle_s=idle_s)
            plain["warnings"].append("counts are those of this gateway alone: the sums in the store cannot be read")
        plain["workers"] = [{"worker": number, **worker_status(one)} for number, one in facts.items()]
        warnings = plain["warnings"]
        if (refusal := self.supervisor.refused.get(model)) is not None:
            plain["refused"] = {"revision": refusal.revision, "problems": _problems(refusal)}
            warnings.append(_refused(refusal).sentence)
        if not self.supervisor.reach.is_there:
            warnings.append(f"the store cannot be reached: {self.supervisor.reach.problem}")
        warnings += [*self.keeper.warnings(model), *_unheard(silent)]
        return plain

    async def _look_out(self) -> None:
        """Look for warnings for ever, and tell of those that come and go."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:  # the top of a task that must not end
                log.exception("warnings could not be looked for")

    async def look(self) -> None:
        """Look for warnings once."""
        models = list(dict.fromkeys([*self.models, *self.supervisor.refused]))
        told = await self.workers.ask("signs", models)
        if not told:
            return  # nobody can say anything
        joint: Mapping[str, Mapping[str, Any]] = {}
        with suppress(StoreUnavailable):  # then this gateway speaks for itself
            joint = await self.supervisor.sharing.judged(models)
        found = {model: self._warnings(model, list(told.values()), joint.get(model, {})) for model in models}
        self.supervisor.note_unready({model: away for model, warnings in found.items() if (away := unready(warnings))})
        for notice in self._notices.look(found, time.monotonic()):
            plain = notice.as_json(self.replica_id)
            log.warning("a warning is over" if notice.is_over else "a warning", extra=plain)
            self.feed.tell(notice.event, plain)

    def _warnings(self, model: str, told: Sequence[Mapping[str, Any]], joint: Mapping[str, Any]) -> list[RouteWarning]:
        facts = [routes[model] for routes in told if model in routes]
        merged, idle_s = self.supervisor.judge.status(model), self._settings.guards.idle_s
        found = route_warnings(facts, merged, joint, idle_s=idle_s) if facts else []
        if (refusal := self.supervisor.refused.get(model)) is not None:
            found.append(_refused(refusal))
        return found

    async def overview(self) -> Mapping[str, Any]:
        """What the gateway says of itself."""
        told = await self.workers.ask("overview")
        processes, _ = self.of_processes()
        members = {member.number: member for member in self.workers.members}
        return {
            "ready": bool(told) and all(one["ready"] for one in told.values()) and not self.draining.is_set(),
            "draining": self.draining.is_set(),
            "in_work": sum(one["in_work"] for one in told.values()),
            "tasks": len(asyncio.all_tasks()),
            "mirror_bytes": sum(one["mirror_bytes"] for one in told.values()),
            "loop_lag_ms": max((one["loop_lag_ms"] for one in told.values()), default=0.0),
            "workers": [
                {
                    "worker": number,
                    "state": self._state(number),
                    **processes.get(number, {}),
                    **told.get(number, {}),
                }
                for number in sorted({*members, *processes})
            ],
            **self.supervisor.overview(),
            "managed": self.keeper.status(),
        }

    def _state(self, number: int) -> str:
        member = next((member for member in self.workers.members if member.number == number), None)
        if member is None or not member.is_serving:
            return "starting"
        return "silent" if member.is_silent else "serving"

    async def facts(self) -> Samples:
        """What is true now, for a scrape."""
        told = await self.workers.ask("facts")
        parts = [
            {name: {tuple(labels): value for labels, value in held} for name, held in samples.items()}
            for samples in told.values()
        ]
        here: Samples = {
            INFLIGHT.name: {(): 0},
            LOOP_LAG.name: {(): 0.0},
            CONNECTIONS.name: {(listener,): count for listener, count in self.connections().items()},
        }
        processes, of_processes = self.of_processes()
        states = Counter(self._state(number) for number in {*processes, *(m.number for m in self.workers.members)})
        return {
            **across([here, *parts]),
            **self.supervisor.samples(),
            **self._notices.samples(),
            **of_processes,
            LOGINS_REFUSED.name: {(why,): count for why, count in self._refused.items()},
            WORKERS.name: {(state,): states[state] for state in STATES},
            WORKERS_LATE.name: {(): self.workers.late_answers},
            DESCRIBED.name: {(DESCRIBED_AS[is_done],): n for is_done, n in self.workers.described.items()},
        }

    def _tokens(self) -> Sequence[Token]:
        if self._settings.admin.tokens:
            return self._settings.admin.tokens
        _, token = ensure_token(self._settings.state_dir)
        self.token_file = self._settings.state_dir / "admin.token"
        return (token,)


def _unheard(silent: Sequence[int]) -> list[str]:
    return [f"worker {number} does not answer: its numbers are missing" for number in silent]


def _refused(refusal: Refused) -> RouteWarning:
    return RouteWarning(REFUSED, "", f"revision {refusal.revision} was refused: {_problems(refusal)}")


def _problems(refusal: Refused) -> str:
    return "; ".join(f"{problem.pointer}: {problem.message}" for problem in refusal.problems)
