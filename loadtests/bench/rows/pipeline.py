"""The cost of what the gateway does beside passing a request on."""

import json
import subprocess
import sys
from collections.abc import Mapping

from loadtests.bench.machine import ROOT, Lab, on_core
from loadtests.bench.measure import Summary
from loadtests.bench.row import Contest, Figure

LIMIT_US = 1.5


def pipeline_cost() -> Contest:
    """In one process, without sockets."""
    what = "split, sticky key, metrics, guard and a mirror's offer, in the pipeline alone"
    return Contest("pipeline-cost", what, {}, derive=_measured)


def _measured(lab: Lab, _summaries: Mapping[str, Summary]) -> list[Figure]:
    with on_core(lab.sut_core):
        done = subprocess.run(
            [sys.executable, "-m", "loadtests.bench.pipeline_cost"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return [
        Figure("a request with everything, µs", found["full"]),
        Figure("a request with nothing, µs", found["plain"]),
        Figure("added, µs", found["full"] - found["plain"], LIMIT_US),
    ]
