"""Ordinary work for long, with a canary, a shadow and edits: memory, connections and tasks stay what they are."""

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from types import TracebackType
from typing import Any, Self

from loadtests.options import Options
from loadtests.result import Result, at_most, none_of
from loadtests.samples import percentile
from tests.chaos.client import Client
from tests.chaos.fleet import Fleet
from tests.chaos.operators import Operators
from tests.chaos.replica import Replica
from tests.chaos.subject import MODEL
from tests.gateway_process import eventually

SECONDS = 3600.0
SHARE = 0.6  # of capacity
RATES = (200, 300, 400, 600, 800, 1000, 1300, 1600, 2000)  # tried in turn, until one is too much
TRIAL_S = 3.0
LATE_MS = 100.0  # p90 of a rate that is too much: the queue grows
LOOK_S = 2.0
SETTLE = 0.25  # of the run does not count: caches and allocators fill
EDIT_PAUSE_S = 0.5
SLOPE_PERCENT = 2.0
PAGE_BYTES = 4096
REST_S = 3.0
EXECUTOR_THREADS = min(32, (os.cpu_count() or 1) + 4)  # of a supervisor, made as they are first needed
REDIS_POOL = 8  # connections that a gateway may keep to Redis beside its watches


@dataclass(frozen=True, slots=True)
class Look:
    """The gateways' processes at one time.

    Attributes:
        rss_mib: Of every process, by name.
        descriptors: Of all processes, without the connections that are kept to the versions' servers: a bounded pool.
        threads: Of all processes.
        tasks: Of every worker's and supervisor's loop, all added up.
    """

    at_s: float
    rss_mib: dict[str, float]
    descriptors: int
    threads: int
    tasks: int


def soak(options: Options) -> Result:
    """Promises: every answer right, memory within 2 % over the run, nothing left behind when the traffic is over."""
    result, seconds = Result("soak"), options.seconds or SECONDS
    with (
        tempfile.TemporaryDirectory(prefix="turnout-load-") as folder,
        Fleet(Path(folder), count=options.replicas, workers=1) as fleet,
    ):
        capacity = options.rate / SHARE if options.rate else _capacity(fleet)
        time.sleep(REST_S)
        before = look(fleet.replicas, 0.0)
        document = fleet.replicas[0].read(f"/routes/{MODEL}")
        operators = Operators(fleet.replicas, document, pause_s=EDIT_PAUSE_S)
        with Looks(fleet.replicas) as looks, operators, fleet.client(capacity * SHARE) as client:
            time.sleep(seconds)
        agreed = eventually(lambda: not fleet.disagreement(), 10, "agreement at the end")
        time.sleep(REST_S)
        after = look(fleet.replicas, 0.0)
        lost = operators.problems(fleet.replicas[0].read(f"/routes/{MODEL}"))
    took_ms = [entry.took_s * 1000 for entry in client.ledger.entries]
    slopes = {name: slope_percent(looks.after(seconds * SETTLE), name) for name in before.rss_mib}
    total = slope_percent(looks.after(seconds * SETTLE))
    result.promises = [
        none_of("client errors", client.ledger.problems()),
        none_of("edits lost", lost),
        at_most("memory of all gateways grows over the run by", SLOPE_PERCENT, total, " %"),
        at_most(
            "descriptors left behind, above the store's pool",
            REDIS_POOL * options.replicas,
            after.descriptors - before.descriptors,
        ),
        at_most(
            "threads left behind, executors filling up",
            EXECUTOR_THREADS * options.replicas,
            after.threads - before.threads,
        ),
        at_most("tasks left behind", 0, after.tasks - before.tasks),
    ]
    result.figures = {
        "seconds": seconds,
        "replicas": options.replicas,
        "capacity, requests a second": capacity,
        "requests a second": capacity * SHARE,
        "requests": len(took_ms),
        "edits": operators.writes,
        "agreed at the end": agreed,
        "p50 ms": percentile(took_ms, 0.5),
        "p99 ms": percentile(took_ms, 0.99),
        **{f"memory of {name} grows by %": slope for name, slope in slopes.items()},
        "before": vars_of(before),
        "after": vars_of(after),
        "looks": [vars_of(one) for one in looks.found],
    }
    return result


def vars_of(one: Look) -> dict[str, Any]:
    """As plain data."""
    plain = {name: getattr(one, name) for name in ("at_s", "descriptors", "threads", "tasks")}
    return plain | {"rss_mib": {name: round(size, 2) for name, size in one.rss_mib.items()}}


def slope_percent(looks: Sequence[Look], name: str = "") -> float:
    """Growth over the time of the looks, by the line that fits them best, of one process or of all."""
    sizes = [one.rss_mib[name] if name else sum(one.rss_mib.values()) for one in looks]
    slope, begin = linear_regression([one.at_s for one in looks], sizes)
    first_s, last_s = looks[0].at_s, looks[-1].at_s
    return 100 * slope * (last_s - first_s) / (begin + slope * first_s)


def look(replicas: Sequence[Replica], at_s: float) -> Look:
    """Read it."""
    sizes, descriptors, threads, tasks = {}, 0, 0, 0
    for replica in replicas:
        overview, route = replica.read("/status"), replica.read(f"/routes/{MODEL}/status")
        kept = [instance for variant in route["variants"] for instance in variant.get("instances", ())]
        descriptors -= sum(instance["connections"] for instance in kept)
        pids = {f"replica {replica.number}": replica.pid}
        pids |= {f"worker {replica.number}.{worker['worker']}": worker["pid"] for worker in overview["workers"]}
        tasks += overview["tasks"] + sum(worker["tasks"] for worker in overview["workers"])
        for name, pid in pids.items():
            place = Path(f"/proc/{pid}")
            sizes[name] = int((place / "statm").read_text().split()[1]) * PAGE_BYTES / 2**20
            descriptors += len(list((place / "fd").iterdir()))
            threads += len(list((place / "task").iterdir()))
    return Look(at_s, sizes, descriptors, threads, tasks)


class Looks:
    """Looks every now and then, and says how far the run is.

    Attributes:
        found: In order.
    """

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.found: list[Look] = []
        self._replicas = replicas
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._begin_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.found.append(one := look(self._replicas, time.monotonic() - self._begin_s))
            if len(self.found) % 15 == 0:
                total = sum(one.rss_mib.values())
                print(f"{one.at_s:7.0f} s {total:8.1f} MiB {one.descriptors} descriptors {one.tasks} tasks", flush=True)

    def after(self, at_s: float) -> list[Look]:
        """Those from then on."""
        return [one for one in self.found if one.at_s >= at_s]


def _capacity(fleet: Fleet) -> float:
    """The largest of the rates that the machine serves, client included, without a queue that grows."""
    best = RATES[0]
    for rate in RATES:
        with fleet.client(rate) as client:
            time.sleep(TRIAL_S)
        if not _is_served(client):
            break
        best = rate
    return best


def _is_served(client: Client) -> bool:
    took_ms = [entry.took_s * 1000 for entry in client.ledger.entries]
    return percentile(took_ms, 0.9) < LATE_MS and median(took_ms[-50:]) < LATE_MS
