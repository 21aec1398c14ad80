"""The process that sends: ``python -m loadtests.generator OUT`` reads a plan on standard input.

It prints ``begin TIME`` (wall clock) when traffic begins and writes samples and locust's statistics to OUT. It is a
process of its own because locust patches sockets, threads and time.
"""

# ruff: noqa: I001
from loadtests.users import ClosedUser, CheckedUser, OpenUser, user_class  # patches first

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment

from loadtests.oracle import rows
from loadtests.plan import Plan
from loadtests.samples import Collector, as_columns

GRACE_S = 60.0


def users_of(plan: Plan, collector: Collector) -> list[type[CheckedUser]]:
    """One class for each kind of traffic."""
    models = {traffic.model for traffic in (*plan.open, *plan.closed)}
    corpora = {model: rows(model, plan.fault_versions if model == "credit" else ()) for model in models}
    shared: dict[str, Any] = {"gateways": plan.gateways, "seconds": plan.seconds, "collector": collector}
    found = []
    for n, arrivals in enumerate(plan.open):
        values = {"traffic": arrivals, "corpus": corpora[arrivals.model], **shared}
        found.append(user_class(OpenUser, f"Open{n}", **values))
    for n, regulars in enumerate(plan.closed):
        values = {"traffic": regulars, "corpus": corpora[regulars.model], "fixed_count": regulars.users, **shared}
        found.append(user_class(ClosedUser, f"Closed{n}", **values))
    return found


def send(plan: Plan) -> dict[str, Any]:
    """Run a plan to its end; samples and locust's statistics as plain data.

    Raises:
        TimeoutError: Answers were still missing ``GRACE_S`` after the last request was due.
    """
    collector = Collector()
    classes = users_of(plan, collector)
    environment = Environment(user_classes=classes)  # type: ignore[arg-type]
    runner = environment.create_local_runner()
    gc.collect()
    gc.disable()  # a run is short, and a pause of the sender would count as the gateway's
    begin_at = time.time()
    CheckedUser.begin_s = time.perf_counter()
    print(f"begin {begin_at:.6f}", flush=True)
    users = sum(kind.fixed_count for kind in classes)
    runner.start(users, spawn_rate=users)
    deadline = time.perf_counter() + plan.seconds + GRACE_S
    while time.perf_counter() - CheckedUser.begin_s < plan.seconds or runner.user_count:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{runner.user_count} users have not ended")
        gevent.sleep(0.02)
    runner.quit()
    statistics = [
        {"name": entry.name, "requests": entry.num_requests, "failures": entry.num_failures}
        | {f"p{q:g}_ms": entry.get_response_time_percentile(q / 100) for q in (50, 99)}
        for entry in environment.stats.entries.values()
    ]
    return {"begin_at": begin_at, "samples": as_columns(collector.samples), "locust": statistics}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(send(Plan.decode(sys.stdin.read()))))
