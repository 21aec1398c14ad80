"""The one place that builds the concrete parts of a worker and joins them."""

import asyncio
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import orjson
from starlette.types import ASGIApp

from gateway import __version__
from gateway.backends.base import Backend, State
from gateway.backends.description import Describer
from gateway.backends.health import HealthRules
from gateway.backends.http import HttpBackend
from gateway.backends.inquiry import Inquiry
from gateway.backends.onnx import OnnxBackend, loading_threads
from gateway.backends.registry import BackendKey, Registry, Slot
from gateway.backends.transport import Bounds
from gateway.control.keeper import places_of
from gateway.control.link import End
from gateway.control.messages import Ask, Down, Drain, Lowered, Ping, Pong, Serve, StoreAway, Told
from gateway.control.sync import Sync
from gateway.control.teller import TELL_S, Teller
from gateway.dataplane.admission import Gate, RequestIds
from gateway.dataplane.budget import RetryBudgets, RetryLimits
from gateway.dataplane.comparison import Comparison
from gateway.dataplane.doorkeeper import Doorkeeper, data_bounds
from gateway.dataplane.endpoints import DataPlane
from gateway.dataplane.fastlane import fast_lane
from gateway.dataplane.frontdoor import FrontDoor, front_door
from gateway.dataplane.infer_heads import HeadReader
from gateway.dataplane.lane import Lane
from gateway.dataplane.mirror import Mirror
from gateway.dataplane.observer import Breach, Observer
from gateway.dataplane.pipeline import Pipeline
from gateway.dataplane.servers import Servers
from gateway.dataplane.sweeper import Sweeper
from gateway.dataplane.tally import Tally
from gateway.metrics.block import Block
from gateway.metrics.families import BUILD_INFO, CONNECTIONS, INFLIGHT, LOOP_LAG
from gateway.metrics.ledger import Ledger
from gateway.metrics.totals import Samples
from gateway.runtime.arms import Arm, Evidence
from gateway.runtime.compile import CompiledRoute
from gateway.runtime.measured import measured_routes
from gateway.runtime.shadows import MirrorCounts
from gateway.runtime.snapshot import Runtime
from gateway.runtime.status import route_facts, route_signs
from gateway.settings import Settings
from routing.table import NAME_PATTERN, OnnxSpec, RemoteSpec, TritonSpec

NAME = re.compile(NAME_PATTERN)
SETTLE_S = 10.0  # how long the first words on the terminal wait for versions that are still being loaded
SETTLE_POLL_S = 0.02
ROUTES_A_TURN = 8  # routes that are told of before the loop may do something else


class Worker:
    """What serves: data plane, backends and guards, on one loop.

    Args:
        settings: The admin plane's tokens are not among them.
        end: The link to the supervisor.
        block: Where this worker counts.
        replica_id: Name of the whole gateway among those on the store.
        workers: How many there are; one alone, and on a store of its own, needs nobody to add up its evidence.

    Attributes:
        data_app: ASGI application of the data plane.
        data_door: Protocol class of the data plane's listener.
        connections: Says how many connections of clients are open; the server's.
        on_serve: Told when the table is complete.
        on_drain: Told to end; ``True``: at once.
    """

    def __init__(self, settings: Settings, end: End, block: Block, *, replica_id: str, workers: int = 1) -> None:
        """Build everything; must run on the loop that will serve."""
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._loop = loop
        self._end = end
        self._is_alone = workers == 1 and settings.is_embedded
        self._is_store_away = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: asyncio.TimerHandle | None = None
        self.runtime = Runtime()
        self._teller = Teller(self.runtime, end.send, tells_totals=not settings.is_embedded)
        self._loaders = loading_threads()
        self.registry = Registry(self._make_backend)
        self._describer = Describer(self._make_backend, lambda model, version: model_file(settings, model, version))
        self.observer = Observer(self._breached, time.monotonic)
        self._ledger = Ledger(block)
        self.gate, ids = Gate(settings.server.max_concurrency, settings.overload), RequestIds()
        self.mirror = Mirror(
            Comparison(loop.call_soon_threadsafe),
            time.monotonic,
            loop.call_later,
            settings.mirror.max_queue_bytes,
            self.gate,
        )
        self.mirror.counts = MirrorCounts(self._ledger)
        tally = Tally(self.runtime, self._ledger)
        limits = RetryLimits(**settings.retries.model_dump())
        budgets = RetryBudgets(limits, lambda: self.runtime.current.routes)
        self.pipeline = Pipeline(self.runtime, self.observer, tally, self.mirror, self.gate, budgets, time.monotonic)
        self._sweeper = Sweeper(
            self.pipeline,
            self.runtime,
            self.observer,
            self.mirror,
            self.gate,
            loop,
            time.monotonic,
            settings.guards.unready_flip_s,
            settings.overload.lag_ms / 1000,
        )
        self._repository = self._scan_repository()
        self.sync = Sync(
            self.runtime,
            self.registry,
            self._repository,
            end.send,
            self._ledger,
            opaque=settings.headers.opaque,
            is_alone=self._is_alone,
        )
        self._sweeper.on_look = self.sync.look
        self._servers = Servers(Inquiry())
        self.data_plane = DataPlane(
            settings,
            self.runtime,
            self.pipeline,
            tally,
            lambda: self._is_store_away,
            replica_id,
            self.gate,
            ids,
            self._servers,
        )
        keeper = Doorkeeper(data_bounds(settings.server), self._ledger.bound_hit)
        self.data_door: type[FrontDoor] = front_door(keeper)
        if settings.server.fast_lane:
            heads = HeadReader(settings, replica_id)
            self.data_door = fast_lane(keeper, Lane(self.gate, heads, ids, self.pipeline, tally, time.monotonic))
        self.data_app: ASGIApp = self.data_plane.app()
        self.connections: Callable[[], int] = int
        self.on_serve: Callable[[], None] = _unheard
        self.on_drain: Callable[[bool], None] = _unheard
        end.on_message = self._receive

    def start(self) -> None:
        """Begin to hear the supervisor, and to sweep."""
        self._sweeper.start()
        if not self._is_alone:
            self._tell_evidence()
        self._end.start()

    async def stable_loaded(self, limit_s: float = float("inf")) -> None:
        """Wait until no stable is being loaded, and be ready then; or until the time is over."""
        end_s = time.monotonic() + limit_s
        while self._is_loading(route.stable.slot for route in self.runtime.current.routes.values()):
            if time.monotonic() >= end_s:
                return
            await asyncio.sleep(SETTLE_POLL_S)
        self.data_plane.is_started = True

    async def settle(self) -> None:
        """Wait until nothing is being loaded, or for ``SETTLE_S``."""
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

    async def stop(self) -> None:
        """Close the backends."""
        for task in self._tasks:
            task.cancel()
        if self._telling is not None:
            self._telling.cancel()
        self._sweeper.stop()
        self.data_plane.close()
        self.mirror.stop()
        await self._servers.close()
        await self.registry.close()
        self._loaders.shutdown(wait=False)
        self._describer.close()

    # To and from the supervisor.

    def _receive(self, message: Down) -> None:
        match message:
            case StoreAway():
                self._is_store_away = message.is_away
            case Ping():
                self._end.send(Pong())
            case Ask():
                self._answer(message)
            case Serve():
                self.on_serve()
            case Drain():
                self.on_drain(message.at_once)
            case _:
                self.sync.receive(message)

    def _answer(self, question: Ask) -> None:
        async def tell() -> None:
            found = await self._tell(question.about, question.models, question.data)
            self._end.send(Told(question.question, orjson.dumps(found)))

        task = self._loop.create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, about: str, models: Sequence[str], data: bytes) -> Mapping[str, Any]:
        match about:
            case "routes":
                self._teller.totals()  # before the answer, so that who asks knows all of it
                return await self._routes(models, self._facts_of)
            case "signs":
                return await self._routes(models, route_signs)
            case "signatures":
                return {model: self.registry.signatures(model) for model in models}
            case "describe":
                return {model: await self._describer.describe(model, data) for model in models}
            case "places":
                keys = [slot.key for slot in self.registry.slots()]
                return {"places": [list(place) for key in keys for place in places_of(key.model, key.spec)]}
            case "facts":
                samples = await self.facts()
                return {name: [[labels, value] for labels, value in held.items()] for name, held in samples.items()}
            case _:
                return self.overview()

    async def _routes(
        self, models: Sequence[str], told: Callable[[CompiledRoute, float], dict[str, Any]]
    ) -> dict[str, Any]:
        """Facts of some routes; lets go of the loop between them."""
        self.sync.look()  # what is told to be ready answers
        found = {}
        for index, model in enumerate(models, 1):
            route = self.runtime.current.routes.get(model)
            if route is not None:
                found[model] = told(route, time.monotonic())
            if index % ROUTES_A_TURN == 0:
                await asyncio.sleep(0)
        return found

    def _facts_of(self, route: CompiledRoute, now_s: float) -> dict[str, Any]:
        facts = route_facts(route, now_s)
        for arm, told in zip(route.by_version.values(), facts["variants"], strict=True):
            self._servers.tell(arm, told.get("instances", ()))
        return facts

    def overview(self) -> Mapping[str, Any]:
        """What the worker says of itself."""
        return {
            "ready": self.data_plane.is_started and not self.gate.is_draining,
            "in_work": len(self.pipeline.in_work),
            "connections": self.connections(),
            "tasks": len(asyncio.all_tasks()),
            "mirror_bytes": self.mirror.held_bytes,
            "loop_lag_ms": round(self.observer.lag_s * 1000, 3),
        }

    async def facts(self) -> Samples:
        """What is true now, for a scrape; lets go of the loop between routes."""
        self.pipeline.settle()
        return {
            **await measured_routes(self.runtime.current),
            INFLIGHT.name: {(): len(self.pipeline.in_work)},
            LOOP_LAG.name: {(): max(0.0, self.observer.lag_s)},
            CONNECTIONS.name: {("data",): self.connections()},
            BUILD_INFO.name: {(__version__, platform.python_version(), onnxruntime.__version__): 1},
        }

    def _breached(self, breach: Breach) -> None:
        self._end.send(Lowered(breach.model, breach.version, breach.epoch, breach.reason, breach.evidence))

    def _tell_evidence(self) -> None:
        """Send what the guards here have seen since the last time, for the detector over all workers."""
        self._telling = self._loop.call_later(TELL_S, self._tell_evidence)
        self._teller.turn()

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
            bounds=Bounds(
                max_connections=bounds.max_connections,
                max_waiting=bounds.max_waiting,
                check_s=bounds.check_s,
                health=HealthRules(bounds.eject_after, bounds.eject_s, bounds.slow_start_s, bounds.max_ejected),
            ),
            on_ejected=lambda: self._ledger.ejection(key.model, key.version),
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


def _unheard(*_told: bool) -> None:
    return
