"""Canaries and clients that hang, are slow or leave, on a real gateway: what is evidence, and what is noise."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.faults import FaultBackend
from tests.gateway_process import Answered, Client, GatewayProcess, eventually, statuses, storm
from tests.integration.rig import BODY, MAX_CHARGED, Rig


@pytest.fixture(scope="module")
def stable() -> Iterator[FaultBackend]:
    with FaultBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def canary() -> Iterator[FaultBackend]:
    with FaultBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    settings = {"store": {"url": "memory:"}, "guards": {"unready_flip_s": 1.0}}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings=settings) as process:
        yield process


@pytest.fixture(autouse=True)
def healthy(stable: FaultBackend, canary: FaultBackend) -> None:
    stable.set("ok")
    canary.set("ok")


@pytest.mark.parametrize("mode", ["never", "trickle"])
def test_a_hanging_canary_leaves_half_the_deadline_to_stable(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend, mode: str
) -> None:
    rig = Rig(gateway, stable, canary, 50)
    canary.set(mode)
    answers = rig.storm(40, clients=8, x_request_timeout_ms="600")
    assert statuses(answers) == {200: 40}
    assert max(answer.seconds for answer in answers) < 0.3 + 0.2
    latch = rig.latch()
    assert set(latch["evidence"]["counters"]["outcomes"]) == {"timeout"}
    assert latch["evidence"]["counters"]["charged"] <= MAX_CHARGED


def test_with_a_latency_slo_a_hang_is_known_at_the_threshold_not_at_the_timeout(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 50, slo={"latency": {"p99_ms": 60}})
    canary.set("never")
    begin = time.monotonic()
    answers = rig.storm(60, clients=12)
    assert statuses(answers) == {200: 60}
    assert max(answer.seconds for answer in answers) < 0.25 + 0.2, "4 x the threshold, 250 ms at least"
    latch = rig.latch()
    assert latch["evidence"]["objective"] == "latency_p99"
    assert latch["evidence"]["counters"]["charged"] == 0
    assert time.monotonic() - begin < 3


def test_a_slow_canary_is_flipped_for_its_latency_and_every_answer_is_good(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 50, slo={"latency": {"p99_ms": 50}})
    canary.set("ok", delay_ms=120)
    answers = rig.storm(60, clients=4)
    assert statuses(answers) == {200: 60}
    assert rig.latch()["evidence"]["objective"] == "latency_p99"


def test_a_caller_with_short_deadlines_neither_flips_a_healthy_canary_nor_blinds_its_guard(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 50)
    stable.set("ok", delay_ms=40)
    canary.set("ok", delay_ms=40)
    for patience_ms in ("5", "30", "60", "90"):
        rig.storm(30, clients=4, x_request_timeout_ms=patience_ms)
    assert rig.counters()["outcomes"]["timeout"] > 10
    assert rig.counters()["charged"] == 0
    assert not rig.is_latched()
    canary.set("error_500")
    assert statuses(rig.storm(40)) == {200: 40}
    assert rig.latch()["evidence"]["counters"]["charged"] <= MAX_CHARGED


def test_a_breach_that_stable_shares_keeps_the_weights_and_raises_an_alarm(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 30, slo={"latency": {"p99_ms": 100}})
    stable.set("ok", delay_ms=250)
    canary.set("ok", delay_ms=250)
    answers = rig.storm(200, clients=24)
    assert statuses(answers) == {200: 200}
    arm = rig.arm()
    assert "stable breaks latency_p99 too" in arm["alarm"]
    assert any("was not lowered" in warning for warning in gateway.status(rig.model)["warnings"])
    assert not rig.is_latched()
    assert {answer.role for answer in answers[-40:]} == {"stable", "canary"}


def test_a_client_that_leaves_early_is_no_outcome_and_one_that_waited_long_is_a_failure(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 100)
    canary.set("never")
    leave(gateway, rig.model, after_s=0.1, timeout_ms=1000)
    eventually(lambda: rig.counters()["outcomes"].get("cancelled") == 1)
    assert rig.counters()["charged"] == 0
    leave(gateway, rig.model, after_s=0.4, timeout_ms=1000)
    eventually(lambda: rig.counters()["outcomes"].get("cancelled") == 2)
    assert rig.counters()["charged"] == 1
    assert rig.counters()["in_flight"] == 0


def leave(gateway: GatewayProcess, model: str, after_s: float, timeout_ms: int) -> None:
    """Send a request and hang up."""
    body = json.dumps(BODY).encode()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        f"x-request-timeout-ms: {timeout_ms}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.data_port)) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(after_s)


@pytest.mark.parametrize("noise", ["mild errors", "bursty caller", "early errors beside slow answers"])
def test_a_healthy_canary_is_not_flipped_by(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend, noise: str
) -> None:
    rig = Rig(gateway, stable, canary, 50, slo={"errors": {"max_rate": 0.05}, "latency": {"p99_ms": 1000}})
    requests, clients = 1_000, 8
    if noise == "mild errors":
        canary.set("error_500", share=0.01, seed=7)
        stable.set("error_500", share=0.01, seed=8)
    elif noise == "bursty caller":
        canary.set("error_500", key="burst")
    else:
        requests, clients = 600, 48
        canary.set("error_500", share=0.02, seed=9, ok_delay_ms=300)
        stable.set("ok", ok_delay_ms=300)

    def send(client: Client, n: int) -> Answered:
        if noise == "bursty caller" and n % 60 < 4:
            return client.infer(rig.model, {**BODY, "id": "burst"}, key="bursty")
        return client.infer(rig.model, BODY, key=f"c{n}")

    answers = storm(gateway.data_port, send, requests=requests, clients=clients)
    assert statuses(answers)[500] == rig.counters("1")["outcomes"].get("error", 0), "only stable's own errors show"
    assert rig.counters()["drawn"] > requests / 3
    assert not rig.is_latched()
