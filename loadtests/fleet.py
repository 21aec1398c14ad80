"""What traffic is sent to: gateways, a Redis, fault backends; and somebody who watches a gateway's revision."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadtests.oracle import rows
from tests.faults import FaultBackend
from tests.gateway_process import GatewayProcess, eventually
from tests.redis_server import RedisServer

CHECK_S = 60.0  # long, so that only the watch can have brought a change
POLL_S = 0.004


def url(gateway: GatewayProcess) -> str:
    """Of the data plane."""
    return f"http://127.0.0.1:{gateway.data_port}"


def credit_route(canary_percent: float, **more: Any) -> dict[str, Any]:
    """Credit with 1 as stable and 2 as canary, sticky by customer."""
    return {
        "model": "credit",
        "stable": "1",
        "variants": [{"version": "1", "weight": 100 - canary_percent}, {"version": "2", "weight": canary_percent}],
        "sticky": {"by": ["header:x-customer-id"]},
        **more,
    }


@contextmanager
def fleet(count: int, routes: Sequence[Mapping[str, Any]]) -> Iterator[list[GatewayProcess]]:
    """``count`` gateways whose versions are ready: one on an embedded store in memory, more on one Redis."""
    with ExitStack() as stack:
        store = stack.enter_context(RedisServer()).url if count > 1 else "memory:"
        yield stack.enter_context(gateways_on(store, count, routes))


@contextmanager
def gateways_on(
    store: str, count: int, routes: Sequence[Mapping[str, Any]], **more: Any
) -> Iterator[list[GatewayProcess]]:
    """The same on a store that somebody else has started; ``more`` are settings of the store."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="turnout-load-")))
        gateways = [
            stack.enter_context(
                GatewayProcess(
                    folder / f"gateway-{n}",
                    routes=routes,
                    settings={"store": {"url": store, "check_s": CHECK_S, **more}},
                )
            )
            for n in range(count)
        ]
        for gateway in gateways:
            for route in routes:
                await_ready(gateway, route["model"])
        yield gateways


def await_ready(gateway: GatewayProcess, model: str) -> None:
    """Until every version of the route can answer, and stable has answered once."""

    def is_ready() -> bool:
        variants = gateway.status(model).get("variants", [])
        return bool(variants) and all(variant["state"] == "ready" for variant in variants)

    eventually(is_ready, 30, f"every version of {model} ready")
    stable = gateway.document(model)["route"]["stable"]
    with gateway.client() as client:
        assert client.infer(model, rows(model)[0].body, version=stable).status == 200


@contextmanager
def canary_backend() -> Iterator[FaultBackend]:
    """A healthy fault backend that serves credit 2."""
    with FaultBackend("credit", "2") as backend:
        yield backend


class RevisionWatch:
    """Asks a gateway again and again, by requests that pin stable and so are no evidence, which revision answers.

    Attributes:
        seen: Wall clock at which the first answer of each revision had come.
    """

    def __init__(self, gateway: GatewayProcess, model: str, version: str) -> None:
        self.seen: dict[int, float] = {}
        self._gateway = gateway
        self._model = model
        self._version = version
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> "RevisionWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        body = rows(self._model)[0].body
        with self._gateway.client() as client:
            while not self._stop.wait(POLL_S):
                answer = client.infer(self._model, body, version=self._version)
                self.seen.setdefault(int(answer.headers["x-turnout-revision"]), time.time())
