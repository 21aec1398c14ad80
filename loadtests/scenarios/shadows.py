"""A shadow that hangs must cost clients nothing; pairs are compared in a small share of a core."""

import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.fleet import await_ready, credit_route, fleet, url
from loadtests.options import Options
from loadtests.plan import Open, Plan
from loadtests.result import Result, at_most, none_of
from loadtests.samples import Sample, percentile, problems
from loadtests.traffic import Traffic
from tests.faults import FaultBackend
from tests.gateway_process import GatewayProcess, eventually

RATES = (500.0, 400.0, 300.0, 200.0, 100.0)  # the largest that the machine can send on time is taken
TRIAL_S = 3.0
LATE_MS = 25.0  # p99 of the sender's own delay that a rate may have
SECONDS = 60.0  # of each run
SETTLE_S = 5.0  # at the begin of a run: allocators and queues fill
WINDOW_S = 2.0
GROWTH_LIMIT_PERCENT = 2.0
LIMIT_MS = 3.0
TIMEOUT_MS = 1000
PAGE_BYTES = 4096


def shadow_hangs(options: Options) -> Result:
    """Promises: memory stays flat for a minute beside a shadow that hangs, and p99 stays where it is.

    Three runs on one gateway: without a shadow, with every request copied to one that never answers, and without again.
    """
    result = Result("shadow-hangs")
    seconds = options.seconds or SECONDS
    with FaultBackend("credit", "3") as hanging, fleet(1, [credit_route(0)]) as (gateway,):
        rate = options.rate or _largest_rate(gateway, options.seed)
        runs: dict[str, list[Sample]] = {}
        runs["without, before"] = _run(gateway, rate, seconds, options.seed)
        _mirror_to(gateway, hanging)
        with Memory(gateway.worker_pids[0]) as memory:
            runs["beside the hanging shadow"] = _run(gateway, rate, seconds, options.seed)
        shadow = gateway.status("credit")["shadows"][0]
        assert gateway.edit("credit", {"shadows": [], "backends": {"3": None}}).status == 200
        runs["without, after"] = _run(gateway, rate, seconds, options.seed)
    result.promises = [none_of("client errors", [p for run in runs.values() for p in problems(run)])]
    result.figures = {"requests a second": rate, "seconds of each run": seconds}
    p99_ms = {}
    for name, run in runs.items():
        windows = _windows(run, min(SETTLE_S, seconds / 2))
        p99_ms[name] = median(percentile(window, 0.99) for window in windows)
        took_ms = [ms for window in windows for ms in window]
        result.figures |= {
            f"p50 {name} ms": percentile(took_ms, 0.5),
            f"p99 {name} ms, median of windows": p99_ms[name],
            f"p99 {name} ms, of all": percentile(took_ms, 0.99),
        }
    flat = memory.after(min(SETTLE_S, seconds / 2))
    growth = (max(flat) / flat[0] - 1) * 100
    result.figures |= {
        "resident memory MiB, every second": [round(size / 2**20, 1) for size in flat],
        "resident memory MiB, first": flat[0] / 2**20,
        "resident memory MiB, largest": max(flat) / 2**20,
        **{f"copies {name}": shadow[name] for name in ("offered", "sent", "not_sent", "results")},
    }
    alone_ms = [p99_ms["without, before"], p99_ms["without, after"]]
    result.promises += [
        at_most("memory grows by", GROWTH_LIMIT_PERCENT, growth, " %"),
        at_most(
            "p99 above the larger one without", LIMIT_MS, p99_ms["beside the hanging shadow"] - max(alone_ms), " ms"
        ),
        at_most("copies unaccounted for", 0, abs(_unaccounted(shadow))),
    ]
    return result


def _windows(run: list[Sample], after_s: float) -> list[list[float]]:
    """Latencies in ms by window: a burst of whatever else the machine does is in one of them, not in the figure."""
    windows: dict[int, list[float]] = {}
    for sample in run:
        if sample.scheduled_s >= after_s:
            windows.setdefault(int(sample.scheduled_s // WINDOW_S), []).append(sample.latency_s * 1000)
    return list(windows.values())


def _run(gateway: GatewayProcess, rate: float, seconds: float, seed: int) -> list[Sample]:
    with Traffic(Plan([url(gateway)], seconds, open=[Open("credit", rate, seed)])) as traffic:
        return traffic.samples()


def _largest_rate(gateway: GatewayProcess, seed: int) -> float:
    for rate in RATES:
        trial = _run(gateway, rate, TRIAL_S, seed)
        if percentile([(s.sent_s - s.scheduled_s) * 1000 for s in trial], 0.99) < LATE_MS:
            return rate
    return RATES[-1]


def _mirror_to(gateway: GatewayProcess, backend: FaultBackend) -> None:
    at = {"kind": "oip", "url": backend.url, "model": "credit", "version": "3"}
    shadows = [{"version": "3", "sample": 100, "timeout_ms": TIMEOUT_MS}]
    assert gateway.edit("credit", {"shadows": shadows, "backends": {"3": at}}).status == 200
    await_ready(gateway, "credit")
    eventually(lambda: gateway.status("credit")["shadows"][0]["state"] == "ready", what="the shadow to be ready")
    backend.set("never")


def _unaccounted(shadow: dict[str, Any]) -> int:
    return int(shadow["offered"] - shadow["sent"] - sum(shadow["not_sent"].values()) - shadow["waiting"])


class Memory:
    """Resident memory of a process, read every second."""

    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/statm")
        self._sizes: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Memory":
        self._begin_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.wait(1):
            size = int(self._file.read_text().split()[1]) * PAGE_BYTES
            self._sizes.append((time.monotonic() - self._begin_s, size))

    def after(self, seconds: float) -> list[int]:
        """Sizes in bytes from then on."""
        return [size for at_s, size in self._sizes if at_s >= seconds]
