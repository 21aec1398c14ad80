"""What can be read of a real gateway while its Redis is away, and what an operator sees of that."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.gateway_process import SECRET, Client, GatewayProcess, eventually
from tests.redis_server import RedisServer

ROUTE = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}],
    "sticky": {"by": ["header:x-customer-id"]},
}
AWAY = "warning: the store is away: this is what the gateway serves, it may be old"
READS = ("/routes", "/routes/credit", "/routes/credit/explain?key=a", "/routes/credit/status", "/status")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(save=True) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[GatewayProcess]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(folder, routes=[ROUTE], settings={"store": {"url": redis.url}}) as process:
        yield process


def turnout(gateway: GatewayProcess, *arguments: str, given: str | None = None) -> Result:
    reach = {"TURNOUT_ADMIN_URL": f"http://127.0.0.1:{gateway.admin_port}", "TURNOUT_TOKEN": SECRET}
    return CliRunner().invoke(main, [*arguments], input=given, env=reach)


def test_reads_answer_from_the_table_that_is_held_and_say_so(gateway: GatewayProcess, redis: RedisServer) -> None:
    with gateway.admin() as admin:
        there = {path: admin.send("GET", f"/admin/v1{path}") for path in READS}
        assert {answer.status for answer in there.values()} == {200}
        assert not any("x-turnout-store" in answer.headers for answer in there.values())
        redis.stop()
        try:
            away = {path: admin.send("GET", f"/admin/v1{path}") for path in READS}
            assert {path: answer.status for path, answer in away.items()} == dict.fromkeys(READS, 200)
            for path in READS:
                assert away[path].headers["x-turnout-store"] == "away", path
                assert "etag" not in away[path].headers, "nothing may be written on top of what is held"
            for path in READS[:3]:
                assert away[path].json() == there[path].json()
            in_body = admin.send("POST", "/admin/v1/routes/credit/explain", {"key": "a"})
            assert in_body.json() == away[READS[2]].json()
            assert admin.send("GET", "/admin/v1/routes/nobody").status == 503
            write = admin.send("PUT", "/admin/v1/routes/credit", ROUTE, {"if-match": '"1"'})
            assert (write.status, write.json()["code"]) == (503, "store_unavailable")
            operator_sees(gateway, admin)
        finally:
            redis.start()
        eventually(lambda: "etag" in admin.send("GET", "/admin/v1/routes/credit").headers, what="the store to be back")


def operator_sees(gateway: GatewayProcess, admin: Client) -> None:
    """The commands while the store is away: a warning on stderr once, the answer as always on stdout."""
    for arguments in (("routes", "list"), ("routes", "get", "credit"), ("routes", "explain", "credit", "a")):
        told = turnout(gateway, *arguments)
        assert (told.exit_code, told.stderr.count(AWAY)) == (0, 1), told.output
        assert AWAY not in told.stdout
    told = turnout(gateway, "routes", "--json", "get", "credit")
    assert (json.loads(told.stdout)["revision"], told.stderr.count(AWAY)) == (1, 1)
    for arguments in (("status",), ("status", "credit")):
        told = turnout(gateway, *arguments)
        assert (told.exit_code, told.stderr.count(AWAY)) == (0, 1), told.output
        assert "store redis cannot be reached" in told.stdout
    put = turnout(gateway, "routes", "put", "-", given=json.dumps(ROUTE))
    assert (put.exit_code, "takes no edits until the store is back" in put.stderr) == (1, True)
    assert admin.send("GET", "/admin/v1/routes/credit").json()["revision"] == 1
