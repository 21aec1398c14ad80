"""Three gateways on one real Redis: evidence, totals and the lease of the one that judges for all."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults import FaultBackend
from tests.gateway_process import GatewayProcess, corpus, eventually
from tests.redis_server import RedisServer

BODY = corpus("credit")[0]["request"]
REPLICAS = 3
HITS_EACH = 3  # one less than what trips a guard that has seen nothing else


def credit(url: str) -> dict[str, Any]:
    return {
        "model": "credit",
        "stable": "1",
        "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
        "sticky": {"by": ["header:x-customer-id"]},
        "slo": {"errors": {"max_rate": 0.01}},
        "backends": {"2": {"kind": "oip", "url": url, "model": "credit", "version": "1"}},
    }


class Fleet:
    """Gateways, their Redis and the canary behind them."""

    def __init__(self, folder: Path, redis: RedisServer, canary: FaultBackend, stack: ExitStack) -> None:
        self.redis = redis
        self.canary = canary
        self.gateways: list[GatewayProcess] = []
        for number in range(REPLICAS):
            place = folder / str(number)
            place.mkdir()
            routes = [credit(canary.url)] if number == 0 else []
            settings = {"store": {"url": redis.url, "stale_after_s": 2.0}}
            self.gateways.append(stack.enter_context(GatewayProcess(place, routes=routes, settings=settings)))

    def customers(self, count: int) -> list[str]:
        """Keys of the canary."""
        with self.gateways[0].admin() as admin:
            names = (f"customer-{number}" for number in range(10_000))
            path = "/admin/v1/routes/credit/explain?key="
            found = (name for name in names if admin.send("GET", path + name).json()["version"] == "2")
            return [next(found) for _ in range(count)]

    def ask(self, gateway: GatewayProcess, customers: Sequence[str]) -> list[int]:
        with gateway.client() as client:
            return [client.infer("credit", BODY, key=customer).status for customer in customers]

    def judges(self) -> list[GatewayProcess]:
        return [gateway for gateway in self.gateways if metric(gateway, "turnout_judges") == 1]


def metric(gateway: GatewayProcess, name: str) -> float:
    with gateway.admin() as admin:
        lines = admin.send("GET", "/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def counted(gateway: GatewayProcess) -> Any:
    """What adds up over gateways, as one of them tells it."""
    status = gateway.status("credit")
    assert status["counted_over"] == "gateways"
    return [(variant["version"], variant["counters"], variant["latency"]) for variant in status["variants"]]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        canary = stack.enter_context(FaultBackend())
        redis = stack.enter_context(RedisServer())
        yield Fleet(tmp_path, redis, canary, stack)


def test_three_that_each_saw_a_third_of_the_errors_flip_what_none_would_alone(fleet: Fleet) -> None:
    customers = fleet.customers(REPLICAS * HITS_EACH)
    fleet.canary.set("error_500")
    for number, gateway in enumerate(fleet.gateways):
        assert fleet.ask(gateway, customers[number::REPLICAS]) == [200] * HITS_EACH
    began_s = time.monotonic()
    latch = eventually(lambda: fleet.gateways[0].document("credit")["guard"]["latched"].get("2"), 5, "the flip")
    assert time.monotonic() - began_s < 2
    assert latch["reason"].startswith("errors: ")
    over = latch["evidence"]["over"]["gateways"]
    assert 2 <= over <= REPLICAS, "two of them together have enough, where the third one's word comes later"
    assert latch["reason"].endswith(f", over {over} gateways")
    assert latch["evidence"]["merged"] is True
    assert latch["evidence"]["guard"]["errors"]["charged"] >= 4
    asked = fleet.canary.counts()["requests"]
    for gateway in fleet.gateways:
        eventually(lambda gateway=gateway: gateway.status("credit")["revision"] == 2, 2, "the flip everywhere")
        assert fleet.ask(gateway, customers) == [200] * len(customers)
        assert not gateway.arm("credit", "2")["guard"]["tripped"]
    assert fleet.canary.counts()["requests"] == asked


def test_a_run_of_failures_over_gateways_flips_a_route_without_an_slo(fleet: Fleet) -> None:
    assert fleet.gateways[0].edit("credit", {"slo": None}).status == 200
    for gateway in fleet.gateways:
        eventually(lambda gateway=gateway: gateway.status("credit")["revision"] == 2, 2, "the edit everywhere")
    customers = fleet.customers(6)
    fleet.canary.set("error_500")
    for number, gateway in enumerate(fleet.gateways):
        assert fleet.ask(gateway, customers[number::REPLICAS]) == [200] * 2
    latch = eventually(lambda: fleet.gateways[0].document("credit")["guard"]["latched"].get("2"), 5, "the flip")
    assert latch["reason"].startswith("fuse: ")
    assert latch["reason"].endswith(" gateways")
    assert latch["evidence"]["guard"]["fuse"]["run"] >= 5


def test_every_gateway_tells_the_same_totals_within_a_second(fleet: Fleet) -> None:
    customers = fleet.customers(12)
    for number, gateway in enumerate(fleet.gateways):
        fleet.ask(gateway, [*customers[number:], "somebody"])
    time.sleep(1.0)
    first, second, third = (counted(gateway) for gateway in fleet.gateways)
    assert first == second == third
    drawn = {version: counters["drawn"] for version, counters, _ in first}
    assert drawn["2"] >= 12 + 11 + 10
    assert sum(drawn.values()) == 12 + 11 + 10 + REPLICAS
    assert sum(latency["count"] for _, _, latency in first) == sum(drawn.values())


def test_what_a_killed_gateway_has_told_stays_and_one_that_comes_again_begins_at_nothing(fleet: Fleet) -> None:
    customers = fleet.customers(5)
    victim = fleet.gateways[1]
    fleet.ask(victim, customers)
    assert counted(victim)[1][1]["drawn"] == 5
    victim.kill()
    assert counted(fleet.gateways[0])[1][1]["drawn"] == 5
    victim.start()
    fleet.ask(victim, customers)
    assert counted(victim)[1][1]["drawn"] == 10
    assert counted(fleet.gateways[0])[1][1]["drawn"] == 10


def test_when_the_one_that_judges_is_killed_another_goes_on_with_its_evidence(fleet: Fleet) -> None:
    customers = fleet.customers(6)
    (judge,) = eventually(fleet.judges, 10, "a judge")
    others = [gateway for gateway in fleet.gateways if gateway is not judge]
    fleet.canary.set("error_500")
    fleet.ask(judge, customers[:2])
    fleet.ask(others[0], customers[2:3])

    def known() -> int:
        judged = others[0].arm("credit", "2").get("over_gateways")
        return judged["evidence"]["errors"]["charged"] if judged else 0

    eventually(lambda: known() == 3, 5, "the evidence of the first three")
    judge.kill()
    fleet.gateways.remove(judge)
    eventually(lambda: len(fleet.judges()) == 1, 10, "another judge")
    assert others[0].document("credit")["revision"] == 1
    fleet.ask(others[1], customers[3:])
    latch = eventually(lambda: others[0].document("credit")["guard"]["latched"].get("2"), 5, "the flip")
    assert latch["evidence"]["over"] == {"gateways": REPLICAS}
    assert 4 <= latch["evidence"]["guard"]["errors"]["charged"] <= 6


def test_a_frozen_redis_stops_nobody_and_afterwards_every_count_is_there_once(fleet: Fleet) -> None:
    customers = fleet.customers(8)
    gateway = fleet.gateways[0]
    fleet.ask(gateway, customers[:4])
    fleet.redis.pause()
    try:
        for _ in range(3):
            assert fleet.ask(gateway, customers) == [200] * 8
            time.sleep(0.5)
        with gateway.client() as client:

            def health() -> Any:
                return client.send("GET", "/v2/health/ready").json()

            eventually(lambda: "stale" in health(), 10, "staleness in the health")
            assert health()["ready"] is True
        assert metric(gateway, "turnout_store_stale") == 1
        status = gateway.status("credit")
        assert status["replicas"] is None
        assert [said for said in status["warnings"] if said.startswith("the store cannot be asked")]
        with gateway.admin() as admin:
            whole = admin.send("GET", "/admin/v1/status").json()
            assert [route["model"] for route in whole["routes"]] == ["credit"]
            edit = admin.send("PATCH", "/admin/v1/routes/credit", {"enforce": False})
        assert (edit.status, edit.json()["code"]) in {(503, "store_unavailable"), (503, "outcome_unknown")}
    finally:
        fleet.redis.resume()
    began_s = time.monotonic()
    eventually(lambda: metric(gateway, "turnout_store_stale") == 0, 5, "the end of staleness")
    eventually(lambda: counted(gateway)[1][1]["drawn"] == 28, 5, "all counts")
    assert time.monotonic() - began_s < 5
    time.sleep(1)
    assert [counted(one)[1][1]["drawn"] for one in fleet.gateways] == [28] * REPLICAS
    eventually(lambda: len(fleet.judges()) == 1, 10, "one judge")


def test_one_that_was_stopped_loses_the_lease_and_does_not_judge_when_it_goes_on(fleet: Fleet) -> None:
    (judge,) = eventually(fleet.judges, 10, "a judge")
    judge.signal(signal.SIGSTOP)
    others = [gateway for gateway in fleet.gateways if gateway is not judge]
    try:
        eventually(lambda: any(metric(gateway, "turnout_judges") for gateway in others), 10, "another judge")
    finally:
        judge.signal(signal.SIGCONT)
    eventually(lambda: metric(judge, "turnout_judges") == 0, 5, "the first one knowing")
    assert len(fleet.judges()) == 1


def test_one_customer_that_fails_on_every_gateway_is_two_hits_and_no_more(fleet: Fleet) -> None:
    customer, other = fleet.customers(2)
    for gateway in fleet.gateways:
        fleet.canary.set("error_500")
        assert fleet.ask(gateway, [customer] * HITS_EACH) == [200] * HITS_EACH
        fleet.canary.set()
        assert fleet.ask(gateway, [other]) == [200], "or it would be a run, which the fuse is for"
    time.sleep(0.6)
    known = fleet.gateways[1].arm("credit", "2")["over_gateways"]
    assert known["evidence"]["errors"]["charged"] == 2
    assert len(known["sources"]) == REPLICAS
    assert fleet.gateways[0].document("credit")["revision"] == 1


def test_status_says_who_serves_what_and_who_fell_silent(fleet: Fleet) -> None:
    first, second, third = fleet.gateways
    eventually(lambda: states(first) == ["serves"] * REPLICAS, 5, "all of them serving")
    name = second.overview()["replica"]
    second.signal(signal.SIGSTOP)
    try:
        assert first.edit("credit", {"enforce": False}).status == 200
        eventually(lambda: sorted(states(third)) == ["behind", "serves", "serves"], 5, "one that is behind")
        (late,) = [one for one in third.status("credit")["replicas"] if one["state"] == "behind"]
        assert (late["name"], late["applied_revision"]) == (name, 1)
    finally:
        second.signal(signal.SIGCONT)
    eventually(lambda: states(third) == ["serves"] * REPLICAS, 5, "all of them again")
    assert metric(second, "turnout_convergence_seconds_count") == 1
    assert metric(third, "turnout_convergence_seconds_sum") < 1, "the first one loaded its models within its own"


def states(gateway: GatewayProcess) -> list[str]:
    return [replica["state"] for replica in gateway.status("credit")["replicas"]]
