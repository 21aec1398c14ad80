"""More work than there is room for, on a real gateway: what goes first, and what failures may cost stable."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from typing import Any

import pytest

from tests.faults import FaultBackend
from tests.gateway_process import Answered, Client, GatewayProcess, corpus, eventually, statuses, storm

BODY = corpus("credit")[0]["request"]
LIMIT = 12
SETTINGS = {
    "store": {"url": "memory:"},
    "server": {"max_concurrency": LIMIT},
    "overload": {"mirrors": 0.25, "canaries": 0.5, "low_priority": 0.75, "lag_ms": 60_000},
    "retries": {"ratio": 0.1, "min_per_s": 0.5, "burst_s": 2},
    "consumers": [{"name": "batch", "sha256": sha256(b"secret").hexdigest(), "may": ["priority"]}],
}
LOW = {"x-turnout-priority": "low", "x-turnout-key": "secret"}


@pytest.fixture(scope="module")
def stable() -> Iterator[FaultBackend]:
    with FaultBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def canary() -> Iterator[FaultBackend]:
    with FaultBackend() as backend:
        yield backend


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "asgi"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    settings = {**SETTINGS, "server": {**SETTINGS["server"], "fast_lane": request.param}}  # type: ignore[dict-item]
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings=settings) as process:
        yield process


def add_route(gateway: GatewayProcess, model: str, backends: dict[str, FaultBackend], **parts: Any) -> None:
    """A route whose versions are served there, and wait until all are ready."""
    at = {"model": "credit", "version": "1", "kind": "oip"}
    route = {
        "model": model,
        "stable": "1",
        "enforce": False,
        "backends": {version: {**at, "url": backend.url} for version, backend in backends.items()},
        **parts,
    }
    with gateway.admin() as admin:
        made = admin.send("PUT", f"/admin/v1/routes/{model}", route, {"if-none-match": "*"})
        assert made.status == 201, made.body

    def is_ready() -> bool:
        status = gateway.status(model)
        states = [part["state"] for kind in ("variants", "shadows") for part in status.get(kind, [])]
        return bool(states) and set(states) == {"ready"}

    eventually(is_ready, what="the backends to be ready")


def bound_hits(gateway: GatewayProcess, bound: str) -> int:
    with gateway.admin() as admin:
        lines = admin.send("GET", "/metrics").body.decode().splitlines()
    found = [line for line in lines if line.startswith(f'turnout_bound_hits_total{{bound="{bound}"')]
    return int(float(found[0].split()[-1])) if found else 0


@contextmanager
def held(gateway: GatewayProcess, model: str, count: int) -> Iterator[list[Answered]]:
    """So many requests are in work inside, for as long as their backend lets them; answers are there afterwards."""
    answers: list[Answered] = []

    def wait(client: Client) -> None:
        answers.append(client.infer(model, BODY))

    before = gateway.overview()["in_work"]
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.client()) for _ in range(count)]
        threads = [threading.Thread(target=wait, args=[client]) for client in clients]
        for thread in threads:
            thread.start()
        eventually(lambda: gateway.overview()["in_work"] == before + count, what=f"{count} requests in work")
        try:
            yield answers
        finally:
            for thread in threads:
                thread.join(10)


def test_copies_go_first_then_canaries_then_low_priority_then_the_rest(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    stable.set("ok")
    canary.set("ok")
    slow: dict[str, Any] = {"variants": [{"version": "1", "weight": 100}]}
    add_route(gateway, "slow", {"1": stable}, **slow)
    parts: dict[str, Any] = {
        "variants": [{"version": "1", "weight": 0}, {"version": "2", "weight": 100}],
        "shadows": [{"version": "3", "sample": 100}],
    }
    add_route(gateway, "quick", {"1": canary, "2": canary, "3": canary}, **parts)
    before = {bound: bound_hits(gateway, bound) for bound in ("overload.canaries", "overload.low_priority")}
    said = []
    with gateway.client() as client, ExitStack() as stack:
        holding: Callable[[int], Any] = lambda count: stack.enter_context(held(gateway, "slow", count))  # noqa: E731
        stable.pause()
        kept = []
        try:
            for in_work in (0, 4, 4, 3, 1):  # 0, 4, 8, 11, 12 beside what is asked now
                kept.append(holding(in_work))
                usual = client.infer("quick", BODY)
                low = client.infer("quick", BODY, **LOW)
                unknown = client.infer("quick", BODY, **{**LOW, "x-turnout-key": "wrong"})
                said.append((usual.status, usual.role, low.status, unknown.status))
        finally:
            stable.resume()
    assert said == [
        (200, "canary", 200, 200),
        (200, "canary", 200, 200),  # and no copies
        (200, "stable", 200, 200),
        (200, "stable", 503, 200),
        (503, None, 503, 503),
    ]
    assert {answer.status for answers in kept for answer in answers} == {200}
    counts = gateway.status("quick")["shadows"][0]
    assert counts["offered"] == 3 + 3 + 3 + 2
    assert counts["not_sent"] == {"overload": 3 + 3 + 2}
    after = {bound: bound_hits(gateway, bound) - count for bound, count in before.items()}
    assert after == {"overload.canaries": 3 + 2, "overload.low_priority": 1}


def test_a_dead_canary_costs_stable_no_more_than_the_budget(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    stable.set("ok")
    canary.set("error_500")
    add_route(
        gateway,
        "half",
        {"1": stable, "2": canary},
        variants=[{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
    )
    before, asked = bound_hits(gateway, "retries.ratio"), stable.counts()["requests"]
    answers = storm(gateway.data_port, lambda client, n: client.infer("half", BODY), requests=400, clients=4)
    count, seconds = statuses(answers), sum(answer.seconds for answer in answers) / 4
    drawn = {version: gateway.arm("half", version)["counters"]["drawn"] for version in ("1", "2")}
    retried = gateway.arm("half", "1")["counters"]["failovers"]
    assert drawn["1"] + drawn["2"] == 400
    assert 40 <= retried <= 400 * 0.1 + (seconds + 3) * 0.5 + 1
    assert stable.counts()["requests"] - asked == drawn["1"] + retried
    assert count == {200: drawn["1"] + retried, 500: drawn["2"] - retried}
    assert bound_hits(gateway, "retries.ratio") - before == drawn["2"] - retried
    charged = gateway.arm("half", "2")["counters"]["charged"]
    assert charged == drawn["2"], "a failure that stable was not asked about is charged at once"


def test_what_is_on_its_way_when_a_canary_is_lowered_by_hand_is_asked_of_stable_without_a_budget(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    stable.set("ok")
    canary.set("error_500")
    variants = [{"version": "1", "weight": 0}, {"version": "2", "weight": 100}]
    add_route(gateway, "lowered", {"1": stable, "2": canary}, variants=variants)
    spent = storm(gateway.data_port, lambda client, n: client.infer("lowered", BODY), requests=20, clients=1)
    assert spent[-1].status == 500, "nothing of the budget is left, and no pause gives more than 3 back"
    before, failed_over = bound_hits(gateway, "retries.ratio"), gateway.arm("lowered", "1")["counters"]["failovers"]
    canary.pause()
    try:
        with held(gateway, "lowered", 5) as answers:
            with gateway.admin() as admin:
                assert admin.send("POST", "/admin/v1/routes/lowered/flip", {"reason": "enough"}).status == 200
            eventually(lambda: gateway.arm("lowered", "2")["weight_ppm"] == 0, what="the flip to be served")
            canary.resume()
    finally:
        canary.resume()
    assert {(answer.status, answer.role) for answer in answers} == {(200, "stable")}
    assert len(answers) == gateway.arm("lowered", "1")["counters"]["failovers"] - failed_over == 5
    assert bound_hits(gateway, "retries.ratio") == before
