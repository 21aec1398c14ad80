"""Two gateways on one real Redis: edits and flips cross over; the store may go away."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import FaultBackend
from tests.gateway_process import GatewayProcess, corpus, eventually, statuses, storm
from tests.redis_server import RedisServer

BODY = corpus("credit")[0]["request"]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def credit(canary_url: str | None = None, weight: float = 5) -> dict[str, Any]:
    backends = {"backends": {"2": {"kind": "oip", "url": canary_url, "model": "credit", "version": "1"}}}
    return {
        "model": "credit",
        "stable": "1",
        "variants": [{"version": "1", "weight": 100 - weight}, {"version": "2", "weight": weight}],
        "sticky": {"by": ["header:x-customer-id"]},
        "slo": {"errors": {"max_rate": 0.01}},
        **(backends if canary_url else {}),
    }


def gateway(folder: Path, redis: RedisServer, route: dict[str, Any] | None = None) -> GatewayProcess:
    """A replica; its periodic check is too rare to help the watch."""
    folder.mkdir()
    return GatewayProcess(
        folder, routes=[route] if route else [], settings={"store": {"url": redis.url, "check_s": 60}}
    )


def revision(replica: GatewayProcess) -> int:
    with replica.client() as client:
        return int(client.infer("credit", BODY, key="k").headers["x-turnout-revision"])


def test_an_edit_on_one_gateway_is_served_by_the_other(tmp_path: Path, redis: RedisServer) -> None:
    with gateway(tmp_path / "a", redis, credit()) as first, gateway(tmp_path / "b", redis) as second:
        assert revision(first) == revision(second) == 1
        edited = first.edit("credit", {"variants": [{"version": "1", "weight": 0}, {"version": "2", "weight": 100}]})
        assert edited.status == 200
        eventually(lambda: revision(second) == 2, 2, "the edit on the second gateway")
        with second.client() as client:
            assert client.infer("credit", BODY, key="k").version == "2"
        with second.admin() as admin:
            seen = admin.send("GET", "/admin/v1/routes/credit/history?verify=1").json()
        assert seen["verified"] is True
        assert [entry["actor"] for entry in seen["entries"]] == ["tester", "seed"]


def test_a_flip_by_one_gateway_is_obeyed_by_the_other(tmp_path: Path, redis: RedisServer) -> None:
    with FaultBackend() as canary:
        canary.set("error_500")
        with (
            gateway(tmp_path / "a", redis, credit(canary.url, 20)) as first,
            gateway(tmp_path / "b", redis) as second,
        ):
            answers = storm(
                first.data_port, lambda client, n: client.infer("credit", BODY, key=f"c{n}"), requests=200, clients=4
            )
            assert statuses(answers) == {200: 200}
            eventually(lambda: revision(second) == 2, 2, "the flip on the second gateway")
            asked = canary.counts()["requests"]
            calm = storm(
                second.data_port, lambda client, n: client.infer("credit", BODY, key=f"c{n}"), requests=200, clients=4
            )
            assert {answer.version for answer in calm} == {"1"}
            assert canary.counts()["requests"] == asked, "no canary request after the flip"
            latch = second.document("credit")["guard"]["latched"]["2"]
            assert latch["evidence"]["counters"]["charged"] <= 5


def test_two_operators_on_two_gateways_lose_no_update(tmp_path: Path, redis: RedisServer) -> None:
    with gateway(tmp_path / "a", redis, credit()) as first, gateway(tmp_path / "b", redis) as second:
        with first.admin() as a, second.admin() as b:
            etag = a.send("GET", "/admin/v1/routes/credit").headers["etag"]
            patch = {"on_failure": "pass"}
            one = a.send("PATCH", "/admin/v1/routes/credit", patch, {"if-match": etag})
            two = b.send("PATCH", "/admin/v1/routes/credit", {"enforce": False}, {"if-match": etag})
        assert (one.status, two.status) == (200, 412)


def test_the_gateway_serves_guards_and_recovers_while_redis_is_gone(tmp_path: Path, redis: RedisServer) -> None:
    with FaultBackend() as canary, gateway(tmp_path / "a", redis, credit(canary.url, 20)) as only:
        redis.kill()
        eventually(lambda: status_store(only)["reachable"] is False, 5, "the gateway noticing")
        with only.admin() as admin:
            etag = {"if-match": '"1"'}
            refused = admin.send("PATCH", "/admin/v1/routes/credit", {"enforce": False}, etag)
            assert refused.status == 503
            assert "retry-after" in refused.headers
        canary.set("error_500")
        answers = storm(
            only.data_port, lambda client, n: client.infer("credit", BODY, key=f"c{n}"), requests=200, clients=4
        )
        assert statuses(answers) == {200: 200}
        asked = canary.counts()["requests"]
        assert 1 <= asked <= 10, "the guard lowered the canary without the store"
        with only.admin() as admin:
            overview = admin.send("GET", "/admin/v1/status").json()
        assert overview["unsent_lowers"] == ["credit/2"]
        redis.start()  # empty: the route and the lower are brought back
        latched = eventually(lambda: only.document("credit").get("guard", {}).get("latched"), 10, "the latch")
        assert "2" in latched
        assert canary.counts()["requests"] == asked


def test_a_lower_survives_a_restart_while_redis_is_gone(tmp_path: Path, redis: RedisServer) -> None:
    with FaultBackend() as canary, gateway(tmp_path / "a", redis, credit(canary.url, 20)) as only:
        redis.kill()
        canary.set("error_500")
        storm(only.data_port, lambda client, n: client.infer("credit", BODY, key=f"c{n}"), requests=100, clients=2)
        eventually(lambda: "lowers" in (tmp_path / "a/state/table.json").read_text(), 5)
        time.sleep(0.2)
        assert only.stop() == 0
        asked = canary.counts()["requests"]
        only.start()
        answers = storm(only.data_port, lambda client, n: client.infer("credit", BODY, key=f"c{n}"), requests=100)
        assert statuses(answers) == {200: 100}
        assert canary.counts()["requests"] == asked, "the lower applies before the first request"
        redis.start()
        eventually(lambda: only.document("credit").get("guard", {}).get("latched"), 10, "the latch in the store")


def test_without_redis_and_without_a_copy_the_start_is_refused_in_one_sentence(
    tmp_path: Path, redis: RedisServer
) -> None:
    redis.kill()
    replica = gateway(tmp_path / "a", redis, credit())
    with pytest.raises(AssertionError, match=r"cannot be reached: .*; there is no disk copy to serve from"):
        replica.start()
    assert replica.wait() == 1
    said = replica.errors.read_text().strip().splitlines()
    assert len([line for line in said if line.startswith("Error: ")]) == 1
    assert "Traceback" not in replica.errors.read_text()


def test_a_flushed_redis_gets_every_route_back(tmp_path: Path, redis: RedisServer) -> None:
    (tmp_path / "a").mkdir()
    names = [f"credit-{n}" for n in range(40)]
    routes = [{**credit(), "model": name} for name in names]
    settings = {"store": {"url": redis.url, "check_s": 0.05}}
    with GatewayProcess(tmp_path / "a", routes=routes, settings=settings, models=None) as only, only.admin() as admin:

        def held() -> list[str]:
            answer = admin.send("GET", "/admin/v1/routes")
            return [route["model"] for route in answer.json()] if answer.status == 200 else []

        for _ in range(3):
            redis.flush()
            time.sleep(0.3)
            assert eventually(lambda: len(held()) == len(names), 10, "all routes in the store")
            assert only.edit(names[-1], {"enforce": bool(_ % 2)}).status == 200
        kept = (tmp_path / "a/state/table.json").read_text()
        assert all(f'"{name}"' in kept for name in names)
        assert "Traceback" not in only.errors.read_text()


def test_a_frozen_redis_stalls_nobody(tmp_path: Path, redis: RedisServer) -> None:
    with gateway(tmp_path / "a", redis, credit()) as only:
        redis.pause()
        try:
            answers = storm(only.data_port, lambda client, n: client.infer("credit", BODY, key=f"c{n}"), requests=300)
            assert statuses(answers) == {200: 300}
            assert max(answer.seconds for answer in answers) < 1
        finally:
            redis.resume()
        only.signal(signal.SIGTERM)
        assert only.wait() == 0


def status_store(replica: GatewayProcess) -> dict[str, Any]:
    with replica.admin() as admin:
        store = admin.send("GET", "/admin/v1/status").json()["store"]
    assert isinstance(store, dict)
    return store


def test_a_write_that_waited_is_served_everywhere_when_it_answers(tmp_path: Path, redis: RedisServer) -> None:
    with gateway(tmp_path / "a", redis, credit()) as first, gateway(tmp_path / "b", redis) as second:
        for number in range(1, 6):
            with first.admin() as admin:
                answer = admin.send(
                    "PATCH",
                    "/admin/v1/routes/credit?wait=applied&timeout_ms=10000",
                    {"enforce": number % 2 == 0},
                    {"if-match": f'"{number}"'},
                )
            assert (answer.status, answer.json()["applied"]) == (
                200,
                {"all": True, "waiting_for": [], "refused_by": []},
            )
            assert revision(first) == revision(second) == number + 1
        seen = first.status("credit")["replicas"]
        assert [(item["applied_revision"], item["refused_revision"]) for item in seen] == [(6, None)] * 2
        names = {item["name"] for item in seen}
        with second.admin() as admin:
            own = admin.send("GET", "/admin/v1/status").json()["replica"]
        assert own in names
        assert second.stop() == 0
        assert {item["name"] for item in first.status("credit")["replicas"]} == names - {own}, "a clean end is known"


def test_a_write_that_waits_for_a_stopped_gateway_says_so_and_a_drain_ends_the_wait(
    tmp_path: Path, redis: RedisServer
) -> None:
    with gateway(tmp_path / "a", redis, credit()) as first, gateway(tmp_path / "b", redis) as second:
        eventually(lambda: len(first.status("credit")["replicas"]) == 2)
        with second.admin() as admin:
            name = admin.send("GET", "/admin/v1/status").json()["replica"]
        second.signal(signal.SIGSTOP)
        try:
            with first.admin() as admin:
                path = "/admin/v1/routes/credit?wait=applied&timeout_ms="
                late = admin.send("PATCH", path + "50", {"enforce": False}, {"if-match": '"1"'})
                assert (late.status, late.json()["applied"]["waiting_for"]) == (200, [name])
                threading.Timer(0.2, first.signal, [signal.SIGTERM]).start()
                ended = admin.send("PATCH", path + "60000", {"enforce": True}, {"if-match": '"2"'})
                assert (ended.status, ended.json()["revision"]) == (200, 3)
                assert (ended.json()["applied"]["waiting_for"], ended.seconds < 3) == ([name], True)
            assert first.wait(5) == 0
        finally:
            second.signal(signal.SIGCONT)
