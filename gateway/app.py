"""The one place that builds concrete parts and joins them."""

import asyncio
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from starlette.types import ASGIApp

from gateway import __version__
from gateway.admin.auth import ensure_token
from gateway.admin.endpoints import admin_app
from gateway.admin.refusals import RefusedLogins
from gateway.admin.scrape import scrape_app
from gateway.backends.base import Backend, State
from gateway.backends.http import HttpBackend
from gateway.backends.instance import Bounds
from gateway.backends.onnx import OnnxBackend, loading_threads
from gateway.backends.registry import BackendKey, Registry, Slot
from gateway.control.disk_copy import DiskCopy
from gateway.control.link import Link, Lowered
from gateway.control.presence import make_replica_id
from gateway.control.supervisor import Supervisor
from gateway.control.sync import Sync
from gateway.dataplane.admission import Gate, RequestIds
from gateway.dataplane.comparison import Comparison
from gateway.dataplane.doorkeeper import Doorkeeper, admin_bounds, data_bounds
from gateway.dataplane.endpoints import DataPlane
from gateway.dataplane.fastlane import Lane, fast_lane
from gateway.dataplane.frontdoor import FrontDoor, front_door
from gateway.dataplane.infer_heads import HeadReader
from gateway.dataplane.mirror import Mirror
from gateway.dataplane.observer import Breach, Observer
from gateway.dataplane.pipeline import Pipeline
from gateway.dataplane.sweeper import Sweeper
from gateway.dataplane.tally import Tally
from gateway.errors import CannotStart
from gateway.metrics.block import shared_block
from gateway.metrics.collector import Mirrored, Scraper
from gateway.metrics.families import (
    BUILD_INFO,
    CONNECTIONS,
    INFLIGHT,
    LOGINS_REFUSED,
    LOOP_LAG,
    MIRROR,
    MIRROR_PAIRS,
)
from gateway.metrics.ledger import Ledger
from gateway.metrics.totals import Blocks, Samples
from gateway.route_files import problems_of_backends
from gateway.runtime.arms import Arm, Evidence
from gateway.runtime.measured import measured_routes
from gateway.runtime.snapshot import Runtime
from gateway.runtime.status import route_status
from gateway.settings import Settings, Token
from routing.store import store_from_url
from routing.table import NAME_PATTERN, OnnxSpec, RemoteSpec, Route, TritonSpec

NAME = re.compile(NAME_PATTERN)
SETTLE_S = 10.0  # how long the first words on the terminal wait for versions that are still being loaded
SETTLE_POLL_S = 0.02


class App:
    """A whole gateway in one process and one loop.

    Attributes:
        data_app: ASGI application of the data plane.
        admin_app: ASGI application of the admin plane.
        replica_id: Name of this process among those on the store.
        draining: Set when the process is about to end: whatever streams or waits on the admin plane ends too.
        metrics_app: ASGI application of ``/metrics`` alone.
        doors: Protocol class of each listener.
        connections: Counts open connections by listener; the server's.
        mirrored: Counts of mirroring; the mirror's.
        token_file: Where the admin token of an embedded gateway is; ``None`` when tokens were configured.
    """

    def __init__(
        self, settings: Settings, seeds: Sequence[Route] = (), own_ports: Collection[int] = frozenset()
    ) -> None:
        """Build everything; must run on the loop that will serve. ``own_ports`` are those the process listens on."""
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._seeds = tuple(seeds)
        self._loop = loop
        self.link = Link(loop)
        self.runtime = Runtime()
        self._loaders = loading_threads()
        self.registry = Registry(self._make_backend)
        self.observer = Observer(self._breached, time.monotonic)
        self.mirror = Mirror(
            Comparison(loop.call_soon_threadsafe), time.monotonic, loop.call_later, settings.mirror.max_queue_bytes
        )
        block, reader = shared_block()
        self._ledger = Ledger(block)
        tally = Tally(self.runtime, self._ledger)
        self.pipeline = Pipeline(self.runtime, self.observer, tally, self.mirror, time.monotonic)
        self._sweeper = Sweeper(
            self.pipeline,
            self.runtime,
            self.observer,
            self.mirror,
            loop,
            time.monotonic,
            settings.guards.unready_flip_s,
        )
        self._repository = self._scan_repository()
        self.sync = Sync(
            self.runtime, self.registry, self._repository, self.link.up, self._ledger, opaque=settings.headers.opaque
        )
        self.link.on_down = self.sync.receive
        try:
            self.store = store_from_url(settings.store_url)
        except ValueError as error:
            raise CannotStart(f"store.url: {error}") from None
        self.replica_id = make_replica_id()
        self.draining = asyncio.Event()
        keeps = self.store.kind != "memory"
        self.supervisor = Supervisor(
            self.store,
            self.link,
            DiskCopy(settings.state_dir if keeps else None),
            time.time,
            check_s=settings.store.check_s,
            replica_id=self.replica_id,
        )
        self.gate, ids = Gate(settings.server.max_concurrency), RequestIds()
        self.data_plane = DataPlane(
            settings,
            self.runtime,
            self.pipeline,
            tally,
            lambda: not self.supervisor.is_store_reachable,
            self.replica_id,
            self.gate,
            ids,
        )
        admin_doors = Doorkeeper(admin_bounds(settings.server), self._ledger.bound_hit)
        self.doors: Mapping[str, type[FrontDoor]] = {
            "data": self._data_door(ids, tally),
            "admin": front_door(admin_doors),
            "metrics": front_door(admin_doors),
        }
        self._refusals = RefusedLogins(settings.state_dir, time.time, time.monotonic)
        self.token_file: Path | None = None
        self.connections: Callable[[], Mapping[str, int]] = dict
        self.mirrored: Mirrored = self.mirror.counts
        self.data_app: ASGIApp = self.data_plane.app()
        tokens, self._refused = self._tokens(), Counter[str]()
        self.scraper = Scraper(Blocks([reader]), self.facts)
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
        )
        self.metrics_app: ASGIApp = scrape_app(
            tokens, self.scraper.scrape, self._refused, self._refusals, metrics_are_open=settings.metrics.open
        )

    def _data_door(self, ids: RequestIds, tally: Tally) -> type[FrontDoor]:
        keeper = Doorkeeper(data_bounds(self._settings.server), self._ledger.bound_hit)
        if not self._settings.server.fast_lane:
            return front_door(keeper)
        heads = HeadReader(self._settings, self.replica_id)
        return fast_lane(keeper, Lane(self.gate, heads, ids, self.pipeline, tally, time.monotonic))

    async def start(self) -> None:
        """Read the table and apply it. Backends are being opened when this returns.

        Raises:
            CannotStart: There is no table to serve from.
        """
        self._sweeper.start()
        await self.supervisor.start(self._seeds)
        await asyncio.sleep(0)  # the documents are on the link: let them be applied

    async def settle(self) -> None:
        """Be ready once no stable is being loaded; return when nothing else is either, or after ``SETTLE_S`` more."""
        while self._is_loading(route.stable.slot for route in self.runtime.current.routes.values()):
            await asyncio.sleep(SETTLE_POLL_S)
        self.data_plane.is_started = True
        end_s = time.monotonic() + SETTLE_S
        while self._is_loading(self.registry.slots()) and time.monotonic() < end_s:
            await asyncio.sleep(SETTLE_POLL_S)

    @staticmethod
    def _is_loading(slots: Iterable[Slot]) -> bool:
        return any(slot.backend.state is State.LOADING for slot in slots)

    def drain(self) -> None:
        """Say on every path that this process is about to end; end the work that no client waits for."""
        self.gate.is_draining = True
        self.mirror.drain()
        self.draining.set()

    async def stop(self) -> None:
        """Leave the store, close the backends."""
        await self._refusals.flushed()
        await self.supervisor.stop()
        self._sweeper.stop()
        self.data_plane.close()
        self.mirror.stop()
        await self.registry.close()
        self._loaders.shutdown(wait=False)

    def status(self, model: str) -> Mapping[str, Any] | None:
        """Live status of one route on this replica."""
        route = self.runtime.current.routes.get(model)
        if route is None:
            return None
        plain = route_status(route, time.monotonic())
        if (refusal := self.supervisor.refused.get(model)) is not None:
            problems = "; ".join(f"{p.pointer}: {p.message}" for p in refusal.problems)
            plain["refused"] = {"revision": refusal.revision, "problems": problems}
            plain["warnings"].append(f"revision {refusal.revision} was refused: {problems}")
        if not self.supervisor.is_store_reachable:
            plain["warnings"].append(f"the store cannot be reached: {self.supervisor.store_problem}")
        return plain

    def overview(self) -> Mapping[str, Any]:
        """What the process says of itself."""
        return {
            "ready": self.data_plane.is_started and not self.gate.is_draining,
            "draining": self.gate.is_draining,
            "in_work": len(self.pipeline.in_work),
            "mirror_bytes": self.mirror.held_bytes,
            "loop_lag_ms": round(self.observer.lag_s * 1000, 3),
            **self.supervisor.overview(),
        }

    async def facts(self) -> Samples:
        """What is true now, for a scrape; lets go of the loop between routes."""
        self.pipeline.settle()
        found: Samples = {
            **await measured_routes(self.runtime.current),
            **self.supervisor.samples(),
            INFLIGHT.name: {(): len(self.pipeline.in_work)},
            LOOP_LAG.name: {(): max(0.0, self.observer.lag_s)},
            CONNECTIONS.name: {(listener,): count for listener, count in self.connections().items()},
            LOGINS_REFUSED.name: {(why,): count for why, count in self._refused.items()},
            BUILD_INFO.name: {(__version__, platform.python_version(), onnxruntime.__version__): 1},
        }
        found[MIRROR.name], found[MIRROR_PAIRS.name] = dict(self.mirrored.results), dict(self.mirrored.pairs)
        return found

    def _breached(self, breach: Breach) -> None:
        self.link.up(Lowered(breach.model, breach.version, breach.epoch, breach.reason, breach.evidence))

    def _tokens(self) -> Sequence[Token]:
        if self._settings.admin.tokens:
            return self._settings.admin.tokens
        _, token = ensure_token(self._settings.state_dir)
        self.token_file = self._settings.state_dir / "admin.token"
        return (token,)

    def _make_backend(self, key: BackendKey) -> Backend:
        if isinstance(key.spec, RemoteSpec):
            return self._make_remote(key, key.spec)
        return OnnxBackend(
            model_file(self._settings, key.model, key.version),
            key.model,
            key.version,
            device=key.spec.device,
            threads=key.spec.threads,
            batching=key.spec.batching == "auto",
            inline=not key.is_shadow,
            loaders=self._loaders,
        )

    def _make_remote(self, key: BackendKey, spec: RemoteSpec) -> Backend:
        bounds = self._settings.backends
        return HttpBackend(
            spec.addresses(),
            spec.model or key.model,
            spec.version or key.version,
            public_model=key.model,
            public_version=key.version,
            holds_to_version=isinstance(spec, TritonSpec),
            bounds=Bounds(max_connections=bounds.max_connections, max_waiting=bounds.max_waiting),
        )

    def _scan_repository(self) -> dict[tuple[str, str], Arm]:
        """Every version of the model repository, open for pins."""
        folder = self._settings.models.dir
        found: dict[tuple[str, str], Arm] = {}
        for file in sorted(folder.glob("*/*/model.onnx")) if folder else ():
            model, version = file.parts[-3:-1]
            if NAME.match(model) and NAME.match(version):
                slot = self.registry.acquire(BackendKey(model, version, OnnxSpec()))
                found[model, version] = Arm(
                    model,
                    version,
                    "pinned",
                    slot,
                    Evidence(0, (), self._ledger.version(model, version)),
                    weight_ppm=0,
                    revision=None,
                    opaque=self._settings.headers.opaque,
                )
        return found


def model_file(settings: Settings, model: str, version: str) -> Path:
    """Where the model repository keeps a version."""
    return (settings.models.dir or Path("models")) / model / version / "model.onnx"
