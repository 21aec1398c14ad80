"""Canaries that fail in every way a server can, on a real gateway: who is charged, and that no client sees it."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults import FaultBackend
from tests.gateway_process import Client, GatewayProcess, eventually, statuses, storm
from tests.integration.rig import BODY, MAX_CHARGED, NAMES, Rig


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


FAULTS = {
    "error_500": "error",
    "too_many_429": "error",
    "reset_before_head": "broken",
    "reset_after_head": "broken",
    "truncated_body": "broken",
    "wrong_shape": "contract",
    "wrong_name": "contract",
    "wrong_datatype": "contract",
    "nan": "contract",
    "not_json": "contract",
    "bad_request_400": "rejected",
}


@pytest.mark.parametrize(("mode", "kind"), FAULTS.items())
def test_each_fault_is_charged_and_flipped_and_hidden(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend, mode: str, kind: str
) -> None:
    rig = Rig(gateway, stable, canary, 50)
    canary.set(mode)
    answers = rig.storm(60)
    assert statuses(answers) == {200: 60}
    assert {answer.role for answer in answers} == {"stable"}
    assert {answer.json()["model_version"] for answer in answers} == {"1"}
    assert {answer.json()["model_name"] for answer in answers} == {rig.model}
    latch = rig.latch()
    assert latch["evidence"]["counters"]["charged"] <= MAX_CHARGED
    assert set(latch["evidence"]["counters"]["outcomes"]) == {kind}
    assert latch["evidence"]["counters"]["shared"] == 0


def test_pins_and_sequences_are_no_evidence(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 100)
    canary.set("error_500")
    with gateway.client() as client:
        for _ in range(8):
            pinned = client.infer(rig.model, BODY, version="2")
            assert (pinned.status, pinned.role, pinned.version) == (500, "pinned", "2")
        for _ in range(8):
            sequence = client.infer(rig.model, {**BODY, "parameters": {"sequence_id": 7}})
            assert (sequence.status, sequence.role, sequence.version) == (200, "stable", "1")
    counters = rig.counters()
    assert (counters["charged"], counters["pinned"], counters["drawn"]) == (0, 8, 0)
    assert not rig.is_latched()


def test_what_both_versions_fail_is_shared_and_nobodys_fault(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 50)
    canary.set("error_500")
    stable.set("error_500")
    answers = rig.storm(40)
    assert statuses(answers) == {500: 40}
    counters = rig.counters()
    assert counters["charged"] == 0
    assert counters["shared"] == counters["drawn"] > 10
    assert not rig.is_latched()


def test_a_request_that_stable_refuses_too_is_the_callers(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 100)
    canary.set("bad_request_400")
    stable.set("bad_request_400")
    assert statuses(rig.storm(20)) == {400: 20}
    counters = rig.counters()
    assert (counters["charged"], counters["excused"]) == (0, 20)
    assert not rig.is_latched()


@pytest.mark.parametrize("parts", [{"on_failure": "pass"}, {"side_effects": True}])
def test_without_failover_the_canary_is_charged_at_once_and_the_client_sees_it(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend, parts: dict[str, Any]
) -> None:
    rig = Rig(gateway, stable, canary, 100, **parts)
    canary.set("error_500")
    answers = rig.storm(20)
    failed = [answer for answer in answers if answer.status == 500]
    assert 1 <= len(failed) <= MAX_CHARGED
    assert {(a.role, a.version, a.headers["x-turnout-attempts"]) for a in failed} == {("canary", "2", "1")}
    assert statuses(answers)[200] == 20 - len(failed)
    assert rig.latch()["evidence"]["counters"]["failovers"] == 0
    assert rig.counters("1")["failovers"] == 0


def test_one_poisoned_caller_among_healthy_ones_cannot_flip_a_route(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 100)
    canary.set("error_500", key="poison")
    with gateway.client() as client:
        for n in range(150):
            poisoned = client.infer(rig.model, {**BODY, "id": "poison"}, key="the-one")
            healthy = client.infer(rig.model, BODY, key=f"c{n}")
            assert (poisoned.status, poisoned.role) == (200, "stable")
            assert (healthy.status, healthy.role) == (200, "canary")
    assert rig.counters()["charged"] == 150
    assert rig.arm()["guard"]["objectives"]["errors"]["capped"] == 148
    assert not rig.is_latched()


def test_a_dead_canary_flips_even_when_one_caller_sees_it(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 100)
    canary.set("error_500")
    with gateway.client() as client:
        assert {client.infer(rig.model, BODY, key="the-one").status for _ in range(10)} == {200}
    assert rig.latch()["evidence"]["objective"] == "fuse"


def test_enforce_false_reports_and_never_acts(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 50, enforce=False)
    canary.set("error_500")
    answers = rig.storm(60)
    assert statuses(answers) == {200: 60}
    arm = rig.arm()
    assert "attempts" in arm["would_have_flipped"]
    assert arm["lowered"] is False
    assert rig.counters()["charged"] == rig.counters()["drawn"] > 10
    assert not rig.is_latched()


def test_a_guard_that_only_reported_acts_once_it_is_told_to(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 50, enforce=False)
    canary.set("error_500")
    rig.storm(40)
    assert rig.arm()["would_have_flipped"]
    assert gateway.edit(rig.model, {"enforce": True}).status == 200
    rig.storm(40)
    assert rig.latch()


def test_a_canary_promoted_while_its_failures_are_in_flight_is_not_left_lowered(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 50)
    canary.set("error_500", delay_ms=600)
    background = threading.Thread(target=lambda: rig.storm(24, clients=24))
    background.start()
    eventually(lambda: rig.counters()["in_flight"] > 5)
    half = [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}]
    assert gateway.edit(rig.model, {"stable": "2"}).status == 200
    background.join()
    canary.set("ok")
    assert gateway.edit(rig.model, {"stable": "1", "variants": half}).status == 200
    eventually(lambda: "canary" in {answer.role for answer in rig.storm(20)}, 5, "canary answers")


def test_a_body_that_breaks_the_gateways_own_code_leaves_nothing_behind(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 50)
    with gateway.client() as client:
        for value in ([], {}, [1], {"a": 1}):
            poisoned = {**BODY, "parameters": {"sequence_id": value}}
            assert client.infer(rig.model, poisoned, x_request_timeout_ms="300").status in {200, 400}
    stable.set("never")
    canary.set("never")
    answers = rig.storm(6, clients=6, x_request_timeout_ms="300")
    assert statuses(answers) == {504: 6}
    assert max(answer.seconds for answer in answers) < 0.6
    with gateway.admin() as admin:
        assert admin.send("GET", "/admin/v1/status").json()["in_work"] == 0


def test_a_canary_that_refuses_connections_is_not_ready_and_comes_back_without_a_latch(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    with FaultBackend() as other:
        rig = Rig(gateway, stable, other, 50)
        assert {answer.role for answer in rig.storm(30)} == {"stable", "canary"}
        other.kill()
        answers = rig.storm(40)
        assert statuses(answers) == {200: 40}
        assert rig.counters()["charged"] == 0
        assert any("not ready" in warning for warning in gateway.status(rig.model)["warnings"])
        with gateway.client() as client:
            ready = client.send("GET", f"/v2/models/{rig.model}/versions/2/ready")
            assert ready.status == 503
            assert "127.0.0.1" not in ready.json()["error"], "clients learn nothing about addresses"
        other.start()
        eventually(lambda: rig.arm()["state"] == "ready", 5, "the probe to bring it back")
        eventually(lambda: "canary" in {answer.role for answer in rig.storm(20)}, 5, "canary answers")
        assert not rig.is_latched()


def test_a_canary_that_was_ready_and_is_gone_for_too_long_is_flipped(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    with FaultBackend() as other:
        rig = Rig(gateway, stable, other, 50)
        assert {answer.role for answer in rig.storm(30)} == {"stable", "canary"}
        other.kill()
        rig.storm(10)
        assert not rig.is_latched()
        assert rig.latch()["evidence"]["objective"] == "unready"


def test_a_canary_that_is_not_there_at_the_start_neither_latches_nor_blocks(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        model = next(NAMES)
        at = {"kind": "oip", "model": "credit", "version": "1"}
        route = {
            "model": model,
            "stable": "1",
            "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
            "backends": {
                "1": {**at, "url": stable.url},
                "2": {**at, "url": f"http://127.0.0.1:{taken.getsockname()[1]}"},
            },
        }
        with gateway.admin() as admin:
            assert admin.send("PUT", f"/admin/v1/routes/{model}", route, {"if-none-match": "*"}).status == 201
        eventually(lambda: gateway.arm(model, "1")["state"] == "ready")
        answers = storm(gateway.data_port, lambda client, n: client.infer(model, BODY), requests=40)
        assert statuses(answers) == {200: 40}
        time.sleep(1.5)
        assert gateway.document(model)["guard"]["latched"] == {}
        assert gateway.arm(model, "2")["counters"]["redirected"] > 5


def test_the_backends_names_are_spliced_and_its_bytes_are_left_alone(
    gateway: GatewayProcess, stable: FaultBackend, canary: FaultBackend
) -> None:
    rig = Rig(gateway, stable, canary, 100)
    with gateway.client() as client:
        answer = client.infer(rig.model, BODY, key="k")
    assert (answer.json()["model_name"], answer.json()["model_version"]) == (rig.model, "2")
    with Client(canary.port) as direct:
        bare = direct.send("POST", "/v2/models/credit/versions/1/infer", BODY)
    tail = bare.body[bare.body.index(b'"outputs"') :]
    assert answer.body.endswith(tail)
