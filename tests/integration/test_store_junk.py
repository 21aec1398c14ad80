"""A real gateway on a Redis where somebody else writes, or that refuses what comes after a write."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import Client, GatewayProcess, corpus, eventually
from tests.redis_server import RedisServer

BODY = corpus("credit")[0]["request"]
ROUTE = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
    "slo": {"errors": {"max_rate": 0.01}},
}
DOCUMENTS = "~{turnout}:meta ~{turnout}:routes ~{turnout}:history:* ~{turnout}:changes ~{turnout}:void:*"
TOLD = "the store holds what no gateway wrote"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def gateway(tmp_path: Path, redis: RedisServer) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path, routes=[ROUTE], settings={"store": {"url": redis.url}}) as process:
        with process.client() as client:
            assert {client.infer("credit", BODY).status for _ in range(20)} == {200}
        yield process


def read(admin: Client) -> list[Any]:
    """What an operator looks at; all of it must answer."""
    answers = [admin.send("GET", f"/admin/v1{path}") for path in ("/routes/credit/status", "/status")]
    assert [answer.status for answer in answers] == [200, 200], [answer.body for answer in answers]
    return [answer.json() for answer in answers]


def junk_counted(admin: Client) -> float:
    lines = admin.send("GET", "/metrics").body.decode().splitlines()
    return float(next(line for line in lines if line.startswith("turnout_store_junk_total")).split()[-1])


@pytest.mark.parametrize("name", ["judged", "presence", "lease", "evidence"])
def test_a_key_of_another_type_breaks_no_status_and_is_taken_away(
    gateway: GatewayProcess, redis: RedisServer, name: str
) -> None:
    assert redis.call(b"SET {turnout}:%s junk\r\n" % name.encode()) == b"+OK\r\n"
    with gateway.admin() as admin:
        route, whole = read(admin)
        assert "store_error" not in whole
        assert route["replicas"] is not None
        eventually(lambda: redis.call(b"TYPE {turnout}:%s\r\n" % name.encode()) != b"+string\r\n", what="the repair")
        assert eventually(lambda: junk_counted(admin), what="the metric") == 1
    assert gateway.errors.read_text().count(TOLD) == 1


def test_values_that_nobody_of_ours_wrote_break_neither_status_nor_the_lookout(
    gateway: GatewayProcess, redis: RedisServer
) -> None:
    place = next(key for key in keys(redis) if b":totals:credit:version:" in key)
    words = [
        b"HSET {turnout}:judged credit {",
        b"HSET {turnout}:presence somebody junk",
        b"HSET {turnout}:lease fence sharp beat slow",
        b"HSET %s counters.outcomes many counters.drawn.x 7 cells 3" % place,
    ]
    with gateway.admin() as admin:
        for word in words:
            assert redis.call(word + b"\r\n").startswith(b":")
            read(admin)
        begin = junk_counted(admin)
        eventually(lambda: junk_counted(admin) > begin, what="the next look for warnings")  # it goes on looking
    errors = gateway.errors.read_text()
    assert "warnings could not be looked for" not in errors
    assert "the judge over all gateways broke" not in errors
    assert "request failed" not in errors
    assert errors.count(TOLD) <= len(words), "once for each place"


@pytest.mark.parametrize("junk", [b"9223372036854775807", b"-7", b"1e300"])
def test_sums_that_no_gateway_can_have_added_up_break_no_status(
    gateway: GatewayProcess, redis: RedisServer, junk: bytes
) -> None:
    for place in keys(redis):
        for field in redis.call(b"HKEYS %s\r\n" % place).split(b"\r\n")[2::2]:
            words = (b"HSET", place, field, junk)
            redis.call(b"*4\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    with gateway.admin() as admin, gateway.client() as client:
        route, _ = read(admin)
        assert "store_error" not in route
        assert junk_counted(admin) > 0
        assert {client.infer("credit", BODY).status for _ in range(10)} == {200}
        route, _ = read(admin)
        assert sum(variant["counters"]["drawn"] for variant in route["variants"]) == 10, "they began anew"


def keys(redis: RedisServer) -> list[bytes]:
    """Once the collector has flushed."""

    def found() -> list[bytes]:
        return [line for line in redis.call(b"KEYS *\r\n").split(b"\r\n") if line.startswith(b"{turnout}:totals:")]

    found_keys: list[bytes] = eventually(found, what="a flush")
    return found_keys


def test_a_write_that_was_made_says_so_when_the_wait_for_replicas_cannot_go_on(
    gateway: GatewayProcess, redis: RedisServer
) -> None:
    rights = f"ACL SETUSER default resetkeys {DOCUMENTS}\r\n".encode()
    with gateway.admin() as admin:
        assert redis.call(rights) == b"+OK\r\n"
        try:
            begin_s = time.monotonic()
            path = "/admin/v1/routes/credit?wait=applied&timeout_ms=5000"
            answer = admin.send("PATCH", path, {"enforce": False}, {"if-match": '"1"'})
            assert time.monotonic() - begin_s < 4
        finally:
            redis.call(b"ACL SETUSER default allkeys\r\n")
        assert (answer.status, answer.json()["revision"]) == (200, 2)
        applied = answer.json()["applied"]
        assert applied["all"] is False
        assert applied["problem"].startswith("the edit is stored; who serves it could not be found out")
        assert "nothing was changed" not in applied["problem"]
        assert admin.send("GET", "/admin/v1/routes/credit").json()["revision"] == 2
