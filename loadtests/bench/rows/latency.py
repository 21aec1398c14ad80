"""Added latency at a fixed rate, and a shadow that hangs."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from loadtests.bench.machine import Lab
from loadtests.bench.measure import Summary
from loadtests.bench.openloop import driver
from loadtests.bench.row import Contest, Figure, Goal, Start
from loadtests.bench.rows.proxy import PEERS
from loadtests.bench.target import Target
from loadtests.bench.turnout import commit, gateway
from loadtests.bench.upstream import MODEL, question, start_upstream
from tests.faults import FaultBackend

RATE = 400.0
GROWTH_LIMIT_MB = 64.0  # the queue of copies, ``mirror.max_queue_bytes``
P99_NOISE = 1.25  # between two undisturbed medians of p99


def latency() -> Contest:
    """Open loop; the same upstream, straight and through proxies."""
    upstream = cache(start_upstream)
    asked = question()

    def direct(lab: Lab) -> Target:
        port = upstream(lab).stable
        return Target("direct", "", upstream(lab).pid, driver(lab, port, asked, RATE), port, rests=False)

    def through(name: str) -> Start:
        def start(lab: Lab) -> Target:
            target = PEERS[name](lab, upstream(lab), asked)
            return replace(target, drive=driver(lab, target.port, asked, RATE))

        return start

    starts = {"direct": direct, **{name: through(name) for name in ("turnout", "nginx", "haproxy")}}
    goals = [Goal("nginx", 1.0, "p50_us"), Goal("nginx", 1.0, "p99_us")]
    what = f"{RATE:g} requests a second, open loop, to the fixed upstream"
    return Contest("latency-400", what, starts, goals, "Both cores idle between requests: CPU holds their wake-ups.")


def shadow_hung() -> Contest:
    """Every request is copied to a shadow that never answers."""
    upstream = cache(start_upstream)
    asked = question()
    route = {"model": MODEL, "stable": "1", "variants": [{"version": "1", "weight": 100}]}

    def start(name: str, *, shadow: bool) -> Start:
        def started(lab: Lab) -> Target:
            urls = {"1": f"http://127.0.0.1:{upstream(lab).stable}"}
            more: dict[str, object] = {}
            if shadow:
                hanging = lab.keep(FaultBackend(MODEL, "3"))
                hanging.set("never")
                urls["3"] = hanging.url
                more = {"shadows": [{"version": "3", "sample": 100}]}
            backends = {version: {"kind": "oip", "url": url} for version, url in urls.items()}
            process = gateway(lab, [{**route, "backends": backends, **more}])
            drive = driver(lab, process.data_port, asked, RATE)
            return Target(name, commit(), process.pid, drive, process.data_port, rests=False)

        return started

    def derive(_lab: Lab, found: Mapping[str, Summary]) -> list[Figure]:
        if len(found) < 2:
            return []
        hung, alone = found["turnout"], found["without a shadow"]
        return [
            Figure("p99 with / without", hung.p99_us / alone.p99_us, P99_NOISE),
            Figure("RSS with - without, MB", (hung.rss_bytes - alone.rss_bytes) / 1e6, GROWTH_LIMIT_MB),
        ]

    starts = {"turnout": start("turnout", shadow=True), "without a shadow": start("without a shadow", shadow=False)}
    what = f"a shadow of 100 % that hangs, {RATE:g} requests a second, open loop"
    note = "A minute at 500 requests a second, memory second by second: python -m loadtests.run shadow-hangs"
    return Contest("shadow-hung", what, starts, note=note, derive=derive)
