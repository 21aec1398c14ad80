"""What split, sticky key, metrics, guard and a mirror's offer add to a request inside the pipeline, in microseconds.

One process, no sockets: the gateway's own parts as ``gateway.app`` joins them, with backends that answer at once. The
plain side has one variant, no key, no SLO, no shadow, and counts nothing. Prints JSON.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from gateway.backends.base import Reply, State
from gateway.backends.statistics import Statistics
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.infer_heads import InferHead
from gateway.dataplane.pipeline import Pipeline
from gateway.settings import Settings
from loadtests.bench.upstream import MODEL, answer_of, request_body
from routing.analysis.outcome import Kind
from routing.parse import parse_route
from tests.joined import Joined

REQUESTS = 4000
ROUNDS = 15
BODY = request_body()
GOOD = Reply(Kind.OK, 200, answer_of("1"), is_checked=True)
HEADERS = [{b"x-customer-id": b"customer-%d" % n} for n in range(256)]
VARIANTS = [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}]
FULL = {
    "model": MODEL,
    "stable": "1",
    "variants": VARIANTS,
    "sticky": {"by": ["header:x-customer-id"]},
    "slo": {"errors": {"max_rate": 0.01}, "latency": {"p99_ms": 1000}},
    "shadows": [{"version": "3", "sample": 100}],
}
PLAIN = {"model": "plain", "stable": "1", "variants": [{"version": "1", "weight": 100}]}
NOWHERE = {"kind": "oip", "url": "http://127.0.0.1:9"}


def nothing(*_: Any, **__: Any) -> None:
    """In place of what is not counted, and of what cancels an attempt that is over."""


class Instant:
    """A version that answers at once, or never."""

    engine = reason = public_reason = ""
    signature = None
    state = State.READY

    def __init__(self, *, hangs: bool = False) -> None:
        self.statistics = Statistics()
        self._hangs = hangs

    async def close(self) -> None:
        """There is nothing to give back."""

    def submit(self, _call: Any, _deadline_s: float, on_reply: Callable[[Reply], None]) -> Callable[[], None]:
        """Answer."""
        if not self._hangs:
            on_reply(GOOD)
        return nothing


def route(plain: dict[str, Any]) -> Any:
    """A parsed route whose versions are remote."""
    names = [entry["version"] for entry in [*plain["variants"], *plain.get("shadows", [])]]
    return parse_route({**plain, "backends": dict.fromkeys(names, NOWHERE)})


def once(pipeline: Pipeline, model: str) -> float:
    """Microseconds of one request, on average over ``REQUESTS``."""
    clock = time.process_time_ns
    begin = clock()
    for n in range(REQUESTS):
        now = time.monotonic()
        head = InferHead((model, None), HEADERS[n % len(HEADERS)], len(BODY), None, 30.0, "1.1 turnout", False)
        pipeline.begin(Exchange(head, BODY, "0123456789abcdef", nothing, now, now))
    return (clock() - begin) / 1000 / REQUESTS


async def measure(folder: Path) -> dict[str, float]:
    """Medians of both sides, run in turn."""
    settings = Settings(store={"url": "memory:"}, state_dir=folder)
    both = Joined(settings, [route(FULL), route(PLAIN)])
    await both.host.start()
    await asyncio.sleep(0.2)
    worker = both.worker
    compiled = worker.runtime.current.routes
    for found in compiled.values():
        for arm in found.arms:
            arm.slot.backend = Instant()
        for shadow in found.shadows:
            shadow.slot.backend = Instant(hangs=True)
    counts_nothing: Any = SimpleNamespace(
        answered=nothing, added=nothing, out_of_time=nothing, left=nothing, unsettled=[]
    )
    bare = Pipeline(
        worker.runtime,
        worker.observer,
        counts_nothing,
        worker.mirror,
        worker.gate,
        worker.pipeline.budgets,
        time.monotonic,
    )
    took: dict[str, list[float]] = {"full": [], "plain": []}
    for _ in range(ROUNDS):
        took["full"].append(once(worker.pipeline, MODEL))
        took["plain"].append(once(bare, "plain"))
        worker.pipeline.settle()
        await asyncio.sleep(0)
    return {name: median(values[1:]) for name, values in took.items()}


def main() -> None:
    """Measure and print."""
    with TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(Path(folder)))), flush=True)


if __name__ == "__main__":
    main()
