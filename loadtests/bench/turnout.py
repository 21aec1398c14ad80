"""turnout itself, started as anybody would: ``turnout serve`` with settings and routes."""

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loadtests.bench.machine import ROOT, Lab, on_core
from loadtests.bench.upstream import ARMS, MODEL, Upstream
from tests.gateway_process import GatewayProcess, eventually

READY_S = 120.0
END_S = 10.0


def commit() -> str:
    """Of the gateway that is measured; raw results that were just written do not make it another one."""
    described = _git("describe", "--always").stdout.strip() or "?"
    return described + ("-dirty" if _git("diff", "--quiet", "HEAD", "--", "gateway", "routing").returncode == 1 else "")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def gateway(
    lab: Lab, routes: Sequence[Mapping[str, Any]], models: Path | None = None, settings: Mapping[str, Any] | None = None
) -> GatewayProcess:
    """A gateway on the core of the system under test, with every version of its routes ready."""
    process = GatewayProcess(
        lab.folder("turnout"),
        routes=routes,
        models=models,
        settings={"store": {"url": "memory:"}, "log_level": "warning", **(settings or {})},
    )
    with on_core(lab.sut_core):
        lab.keep(process)
    lab.keep(_asked_to_end(process))
    for route in routes:
        eventually(lambda model=route["model"]: _is_ready(process, model), READY_S, f"{route['model']} ready")
    return process


@contextmanager
def _asked_to_end(process: GatewayProcess) -> Iterator[None]:
    """At the end it may drain, and its workers with it, before it is killed."""
    yield
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        process.signal(signal.SIGTERM)
        process.wait(END_S)


def _is_ready(process: GatewayProcess, model: str) -> bool:
    status = process.status(model)
    arms = [*status.get("variants", []), *status.get("shadows", [])]
    return bool(arms) and all(arm["state"] == "ready" for arm in arms)


def proxy_route(upstream: Upstream, *, mirror: bool = False, compare: bool = False, **more: Any) -> dict[str, Any]:
    """95/5, sticky by customer, guarded; to the fixed upstream. A mirror's answers are thrown away, or compared."""
    arms = ARMS if mirror else {arm: ARMS[arm] for arm in ("stable", "canary")}
    shadows = {"shadows": [{"version": ARMS["shadow"], "sample": 100, "compare": compare}]} if mirror else {}
    return {
        "model": MODEL,
        "stable": "1",
        "variants": [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}],
        "sticky": {"by": ["header:x-customer-id"]},
        "slo": {"errors": {"max_rate": 0.01}, "latency": {"p99_ms": 1000}},
        "backends": {
            version: {"kind": "oip", "url": f"http://127.0.0.1:{getattr(upstream, arm)}"}
            for arm, version in arms.items()
        },
        **shadows,
        **more,
    }
