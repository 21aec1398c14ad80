"""Versions that break stable's contract, on a real gateway: refused, held back, accepted; what a status warns of."""

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.faults import FaultBackend
from tests.gateway_process import SECRET, GatewayProcess, corpus, eventually, storm

SENTIMENT = corpus("sentiment")[0]["request"]
CREDIT = corpus("credit")[0]["request"]
SLO = {"errors": {"max_rate": 0.01}}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultBackend]:
    with FaultBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    settings = {"store": {"url": "memory:"}, "guards": {"idle_s": 1.0}}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings=settings) as process:
        yield process


@pytest.fixture(autouse=True)
def healthy(server: FaultBackend) -> None:
    server.set("ok")


def put(gateway: GatewayProcess, route: dict[str, Any]) -> Any:
    with gateway.admin() as admin:
        return admin.send("PUT", f"/admin/v1/routes/{route['model']}", route, {"if-none-match": "*"})


def turnout(gateway: GatewayProcess, *arguments: str, route: Any) -> Result:
    reach = {"TURNOUT_ADMIN_URL": f"http://127.0.0.1:{gateway.admin_port}", "TURNOUT_TOKEN": SECRET}
    return CliRunner().invoke(main, ["routes", *arguments], input=json.dumps(route), env=reach)


def routed(model: str, server: FaultBackend, weight: float, **parts: Any) -> dict[str, Any]:
    """Stable in process, version 2 on the fault server, which describes the model `credit`."""
    return {
        "model": model,
        "stable": "1",
        "variants": [{"version": "1", "weight": 100 - weight}, {"version": "2", "weight": weight}],
        "slo": SLO,
        "backends": {"2": {"kind": "oip", "model": "credit", "version": "1", "url": server.url}},
        **parts,
    }


def test_a_version_that_comes_up_breaking_the_contract_gets_no_traffic_until_that_is_accepted(
    gateway: GatewayProcess, server: FaultBackend
) -> None:
    server.set("not_ready")
    made = put(gateway, routed("sentiment", server, 50))
    assert made.status == 201, made.body
    assert "'2' is not known yet" in made.json()["warnings"][0]
    eventually(lambda: gateway.arm("sentiment", "2")["state"] == "failed", what="the version to be known down")
    server.set("ok")
    held = eventually(lambda: gateway.arm("sentiment", "2")["contract"]["verdict"] == "broken", what="the check")
    assert held
    before = server.counts()["requests"]
    answers = storm(gateway.data_port, lambda client, _: client.infer("sentiment", SENTIMENT), requests=60)
    assert {(answer.status, answer.version) for answer in answers} == {(200, "1")}
    assert server.counts()["requests"] == before
    assert gateway.arm("sentiment", "2")["counters"]["redirected"] > 0
    (warning,) = [said for said in gateway.status("sentiment")["warnings"] if "'2'" in said]
    assert "breaks stable's contract" in warning
    assert "input 'text' is not there" in warning
    # No more weight for it, with every difference; less is no question.
    refused = gateway.edit("sentiment", {"variants": routed("", server, 60)["variants"]})
    assert (refused.status, refused.json()["code"]) == (409, "contract")
    differences = {problem["difference"] for problem in refused.json()["problems"]}
    assert differences >= {"/inputs/text", "/inputs/numeric", "/inputs/categorical", "/outputs/label/datatype"}
    lower = gateway.edit("sentiment", {"variants": routed("", server, 40)["variants"]})
    assert lower.status == 200, lower.body
    more = routed("sentiment", server, 45)
    told = turnout(gateway, "put", "-", route=more)
    assert (told.exit_code, "/variants/1: version '2': input 'text' is not there" in told.output) == (1, True)
    assert turnout(gateway, "put", "-", "--override-contract", route=more).exit_code == 2
    accepted = turnout(gateway, "put", "-", "--override-contract", "--reason", "a test", route=more)
    assert accepted.exit_code == 0, accepted.output
    eventually(lambda: gateway.arm("sentiment", "2")["contract"]["verdict"] == "accepted", what="the override")
    storm(gateway.data_port, lambda client, _: client.infer("sentiment", SENTIMENT), requests=60)
    assert server.counts()["requests"] > before
    with gateway.admin() as admin:
        entries = admin.send("GET", "/admin/v1/routes/sentiment/history").json()["entries"]
    newest = next(entry for entry in entries if entry["verb"] == "put")  # the guard has acted on what it got since
    assert (newest["actor"], newest["reason"], set(newest["evidence"]["breaks"])) == ("tester", "a test", {"2"})


def test_a_version_that_keeps_the_contract_gets_its_share_when_it_comes_up(
    gateway: GatewayProcess, server: FaultBackend
) -> None:
    server.set("not_ready")
    assert put(gateway, routed("credit", server, 50)).status == 201
    server.set("ok")
    eventually(lambda: gateway.arm("credit", "2")["state"] == "ready", what="the version")
    assert gateway.arm("credit", "2")["contract"] == {"verdict": "kept", "breaks": []}
    answers = storm(gateway.data_port, lambda client, _: client.infer("credit", CREDIT), requests=40)
    assert {answer.version for answer in answers} == {"1", "2"}


def test_what_is_idle_or_unreachable_is_one_warning_one_metric_and_one_event(
    gateway: GatewayProcess, server: FaultBackend
) -> None:
    events = Events(gateway)
    at = {"kind": "oip", "model": "credit", "version": "1"}
    route = routed("credit", server, 0) | {
        "model": "idle",
        "variants": [{"version": v, "weight": w} for v, w in (("1", 80), ("2", 10), ("3", 10))],
        "shadows": [{"version": "4"}, {"version": "5"}],
        "backends": {
            **{version: {**at, "url": server.url} for version in ("1", "2", "4")},
            **{version: {**at, "url": "http://127.0.0.1:9"} for version in ("3", "5")},
        },
    }
    assert put(gateway, route).status == 201
    expected = {("variant_idle", "2"), ("unreachable", "3"), ("shadow_idle", "4"), ("unreachable", "5")}

    def of_status() -> list[str]:
        return sorted(gateway.status("idle")["warnings"])

    warnings = eventually(lambda: (found := of_status()) and len(found) == 4 and found, what="four warnings")
    assert [sum(f"'{version}'" in said for said in warnings) for version in "2345"] == [1, 1, 1, 1]
    eventually(lambda: events.of("idle") == {key: ["warning"] for key in expected}, what="an event each")
    assert measured(gateway, "idle") == dict.fromkeys(expected, 1.0)
    with gateway.client() as client:
        answered = [client.infer("idle", CREDIT) for _ in range(200)]
    assert {answer.status for answer in answered} == {200}
    eventually(lambda: not any("'2'" in said for said in of_status()), what="the canary to be idle no more")
    with gateway.admin() as admin:
        revision = admin.send("GET", "/admin/v1/routes/idle").headers["etag"]
        assert admin.send("DELETE", "/admin/v1/routes/idle", headers={"if-match": revision}).status == 200
    done = {key: ["warning", "cleared"] for key in expected}
    eventually(lambda: events.of("idle") == done, what="an event each that they are over")
    assert measured(gateway, "idle") == {}
    events.close()


def measured(gateway: GatewayProcess, model: str) -> dict[tuple[str, str], float]:
    with gateway.admin() as admin:
        lines = admin.send("GET", "/metrics").body.decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("turnout_warnings{") and f'model="{model}"' in line:
            labels = dict(part.split("=") for part in line[line.index("{") + 1 : line.index("}")].split(","))
            found[labels["kind"].strip('"'), labels["version"].strip('"')] = float(line.split()[-1])
    return found


class Events:
    """What the stream of events has said of warnings."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=60)
        self._connection.request("GET", "/admin/v1/events", headers={"authorization": f"Bearer {SECRET}"})
        self._answer = self._connection.getresponse()
        self._seen: list[tuple[str, dict[str, Any]]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        kind = ""
        for line in self._answer:
            name, _, value = line.decode().strip().partition(": ")
            if name == "event":
                kind = value
            elif name == "data" and kind in {"warning", "cleared"}:
                self._seen.append((kind, json.loads(value)))

    def of(self, model: str) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for kind, data in list(self._seen):
            if data["model"] == model:
                found.setdefault((data["kind"], data["version"]), []).append(kind)
        return found

    def close(self) -> None:
        self._connection.close()
