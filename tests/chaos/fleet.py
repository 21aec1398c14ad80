"""Everything that runs: replicas on one Redis, a canary, and proxies in between."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.chaos.background import Background
from tests.chaos.client import Client
from tests.chaos.proxy import Proxy
from tests.chaos.replica import Replica
from tests.chaos.subject import CANARY, MODEL, STABLE, CreditSubject, credit_route, variants
from tests.faults import FaultBackend
from tests.gateway_process import DEMO, eventually
from tests.ports import free_ports
from tests.redis_server import RedisServer

WEIGHT = 20
UNREADY_FLIP_S = 1.0
WORKER_SILENT_S = 1.5
READY_S = 40.0


class Fleet:
    """A context manager that leaves nothing behind.

    Args:
        count: Replicas.
        workers: Of each.
        store_url: Of all, instead of a Redis of their own.
        env: More environment of the replicas.
        unready_flip_s: Of the replicas.
        is_direct: No proxy between them and the canary, so that nobody listens when it is dead.

    Attributes:
        store: Between the replicas and Redis, one for each.
        wire: Between the replicas and the canary.
    """

    def __init__(
        self,
        folder: Path,
        *,
        count: int = 2,
        workers: int = 2,
        store_url: str | None = None,
        env: Mapping[str, str] | None = None,
        unready_flip_s: float = UNREADY_FLIP_S,
        is_direct: bool = False,
    ) -> None:
        self._folder = folder
        self._count = count
        self._workers = workers
        self._store_url = store_url
        self._env = env
        self._unready_flip_s = unready_flip_s
        self._is_direct = is_direct
        self._stack = ExitStack()
        self.subject = CreditSubject()
        self.replicas: list[Replica] = []
        self.store: list[Proxy] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.background = stack.enter_context(Background())
            self.redis = stack.enter_context(RedisServer(save=True))
            self.canary = stack.enter_context(FaultBackend(MODEL, "1"))
            self.wire = Proxy(self.background, self.canary.port)
            for number, port in enumerate(free_ports(2 * self._count)[::2]):
                self.store.append(Proxy(self.background, self.redis.port))
                self.replicas.append(self._replica(number, port))
            for replica in self.replicas:
                stack.enter_context(replica)
            eventually(self.is_normal, READY_S, "the fleet is ready")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        self._stack.close()

    def _replica(self, number: int, port: int) -> Replica:
        server = {"listen": f"127.0.0.1:{port}", "workers": self._workers, "worker_silent_s": WORKER_SILENT_S}
        (folder := self._folder / f"replica-{number}").mkdir(parents=True)
        settings: dict[str, Any] = {
            "server": {**server, "spare_worker": True, "drain_notice_ms": 0},
            "store": {"url": self._store_url or f"redis://127.0.0.1:{self.store[number].port}/0"},
            "guards": {"unready_flip_s": self._unready_flip_s},
        }
        port_of_canary = self.canary.port if self._is_direct else self.wire.port
        route = credit_route(f"http://127.0.0.1:{port_of_canary}", WEIGHT)
        replica = Replica(folder, routes=[route], models=self._models(), settings=settings, env=self._env)
        replica.number, replica.data_port = number, port
        return replica

    def _models(self) -> Path:
        """What the drills need of the demo's: every worker loads all that is there."""
        folder = self._folder / "models"
        folder.mkdir(exist_ok=True)
        if not (place := folder / MODEL).exists():
            place.symlink_to(DEMO / "models" / MODEL)
        return folder

    def client(self, rate: float) -> Client:
        """Of all replicas."""
        return Client(self.background, [replica.data_port for replica in self.replicas], self.subject, rate)

    # What there is.

    def is_normal(self) -> bool:
        """The canary takes draws in every worker of every replica."""
        return all(self._serves(replica, WEIGHT) for replica in self.replicas)

    def _serves(self, replica: Replica, weight: int) -> bool:
        status = replica.read(f"/routes/{MODEL}/status")
        if status is None or len(status.get("workers", [])) < self._workers:
            return False
        weights = {STABLE: (100 - weight) * 10_000, CANARY: weight * 10_000}
        return all(
            variant["state"] == "ready"
            and not variant.get("lowered")
            and variant["weight_ppm"] == weights.get(version, 0)
            for version, variant in ((variant["version"], variant) for variant in status["variants"])
        )

    def disagreement(self) -> str:
        """Why the replicas do not serve one and the same document; empty when they do."""
        held = next((found for r in self.replicas if (found := r.read("/routes"))), None)
        if not held:
            return "the store does not answer"
        revision = held[0]["revision"]
        copies = {replica.copy(MODEL) for replica in self.replicas}
        if len(copies) != 1 or next(iter(copies))[0] != revision:
            return f"the store holds revision {revision}, the disk copies {sorted(copies)}"
        for replica in self.replicas:
            status, overview = replica.read(f"/routes/{MODEL}/status"), replica.read("/status")
            if status is None or overview is None:
                return f"replica {replica.number} does not answer"
            workers = {worker["worker"]: worker["revision"] for worker in status.get("workers", [])}
            if len(workers) < self._workers or set(workers.values()) != {revision}:
                return f"replica {replica.number} serves {workers}, not revision {revision}"
            if overview["unsent_lowers"] or not overview["store"]["reachable"]:
                return f"replica {replica.number} has {overview['unsent_lowers']} unsent, {overview['store']}"
        return ""

    def is_latched(self) -> bool:
        """Whether the store and every worker have the canary down."""
        for replica in self.replicas:
            document = replica.read(f"/routes/{MODEL}")
            if document is None or CANARY not in document["guard"]["latched"]:
                return False
            if weight_ppm(document):
                return False
        return True

    # Back to where a drill begins.

    def calm(self) -> None:
        """The canary is healthy, released and has its weight again, everywhere."""
        self.canary.set("ok")
        eventually(lambda: not self.disagreement(), READY_S, "agreement before the drill")
        deadline = time.monotonic() + READY_S
        while not self.is_normal():
            assert time.monotonic() < deadline, "the canary does not come back"
            self._raise()
            time.sleep(0.05)

    def _raise(self) -> None:
        first = self.replicas[0]
        document = first.read(f"/routes/{MODEL}")
        if document is None:
            return
        if CANARY in document["guard"]["latched"]:
            first.ask("POST", f"/routes/{MODEL}/release", {"reason": "the drill is over"})
        elif weight_ppm(document) != WEIGHT * 10_000:
            match = {"if-match": f'"{document["revision"]}"'}
            first.ask("PATCH", f"/routes/{MODEL}", {"variants": variants(WEIGHT)}, match)


def weight_ppm(document: Any) -> int:
    """Of the canary."""
    return next(int(v["weight_ppm"]) for v in document["route"]["variants"] if v["version"] == CANARY)
