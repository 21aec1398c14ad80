"""Starts, stops and restarts of one gateway."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from tests.faults import FaultBackend
from tests.gateway_process import DEMO, ROOT, Answered, GatewayProcess, corpus, eventually, statuses, storm

BODY = corpus("credit")[0]["request"]
CREDIT = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}],
    "sticky": {"by": ["header:x-customer-id"]},
}


def slow_route(url: str) -> dict[str, object]:
    backend = {"kind": "oip", "url": url, "model": "credit", "version": "1"}
    return {
        "model": "slow",
        "stable": "1",
        "variants": [{"version": "1", "weight": 100}],
        "backends": {"1": backend},
    }


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_both_planes_and_finishes_what_is_in_flight(tmp_path: Path, number: signal.Signals) -> None:
    with (
        FaultBackend() as backend,
        GatewayProcess(
            tmp_path, routes=[slow_route(backend.url)], settings={"server": {"drain_notice_ms": 400}}
        ) as gateway,
    ):
        backend.set("ok", delay_ms=1500)
        answers: list[Answered] = []
        with gateway.client() as client, gateway.client() as probe:
            assert probe.send("GET", "/v2/health/ready").status == 200
            request = threading.Thread(target=lambda: answers.append(client.infer("slow", BODY)))
            request.start()
            eventually(lambda: backend.counts()["in_flight"] == 1)
            gateway.signal(number)
            time.sleep(0.1)
            ready = probe.send("GET", "/v2/health/ready")
            assert (ready.status, ready.headers["connection"]) == (503, "close")
            time.sleep(0.7)
            assert not can_connect(gateway.data_port), "no new connection while a request is in flight"
            assert not can_connect(gateway.admin_port), "on neither plane"
            assert not answers
            request.join()
        assert gateway.wait() == 0
        assert (answers[0].status, answers[0].headers["connection"]) == (200, "close")


def test_requests_beyond_drain_s_are_given_up_and_the_exit_is_clean(tmp_path: Path) -> None:
    settings = {"drain_s": 1, "server": {"drain_notice_ms": 0}}
    with (
        FaultBackend() as backend,
        GatewayProcess(tmp_path, routes=[slow_route(backend.url)], settings=settings) as gateway,
    ):
        backend.set("never")
        with socket.create_connection(("127.0.0.1", gateway.data_port)) as connection:
            body = json.dumps(BODY).encode()
            head = f"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            eventually(lambda: backend.counts()["in_flight"] == 1)
            begin = time.monotonic()
            gateway.signal(signal.SIGTERM)
            answer = connection.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"x-request-id: " in answer
            assert b'{"error":"the gateway is stopping' in answer
            assert gateway.wait() == 0
            assert time.monotonic() - begin < 4
        assert "Traceback" not in gateway.errors.read_text()


def test_a_restart_keeps_the_table_and_its_latches(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, routes=[CREDIT]) as gateway:
        with gateway.admin() as admin:
            flipped = admin.send("POST", "/admin/v1/routes/credit/flip", {"reason": "a bad feeling"})
            assert flipped.status == 200
        gateway.signal(signal.SIGINT)
        assert gateway.wait() == 0
        gateway.start()
        document = gateway.document("credit")
        assert document["revision"] == 2
        assert document["guard"]["latched"]["2"]["reason"] == "a bad feeling"
        answers = storm(gateway.data_port, lambda client, n: client.infer("credit", BODY, key=f"c{n}"), requests=100)
        assert {answer.version for answer in answers} == {"1"}


def test_a_killed_gateway_loses_no_acknowledged_edit(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, routes=[CREDIT]) as gateway:
        assert gateway.edit("credit", {"on_failure": "pass"}).status == 200
        gateway.kill()
        gateway.start()
        assert gateway.document("credit")["route"]["on_failure"] == "pass"


def test_an_operator_edits_while_traffic_flows(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, routes=[CREDIT]) as gateway:
        stop = threading.Event()

        def operate() -> None:
            weight = 0
            while not stop.is_set():
                weight = (weight + 10) % 100
                variants = [{"version": "1", "weight": 100 - weight}, {"version": "2", "weight": weight}]
                assert gateway.edit("credit", {"variants": variants}).status == 200

        operator = threading.Thread(target=operate)
        operator.start()
        answers = storm(gateway.data_port, lambda client, n: client.infer("credit", BODY, key=f"c{n}"), requests=1_500)
        stop.set()
        operator.join()
        assert statuses(answers) == {200: 1_500}
        assert len({answer.headers["x-turnout-revision"] for answer in answers}) > 3


def run(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", **(env or {})},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_route_that_leads_back_to_its_own_gateway_ends_as_508(tmp_path: Path) -> None:
    def led_to(port: int) -> dict[str, object]:
        return {**slow_route(f"http://127.0.0.1:{port}"), "backends": {"1": loop(port)}}

    def loop(port: int) -> dict[str, object]:
        return {"kind": "oip", "url": f"http://127.0.0.1:{port}", "model": "slow", "version": "1"}

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with FaultBackend(model="slow") as backend, GatewayProcess(tmp_path / "b", routes=[slow_route(backend.url)]) as far:
        far.edit("slow", {"backends": {"1": loop(backend.port)}})
        with GatewayProcess(tmp_path / "a", routes=[led_to(far.data_port)]) as near:
            eventually(lambda: near.arm("slow", "1")["state"] == "ready")
            with near.client() as client:
                assert client.infer("slow", BODY).status == 200
                assert far.edit("slow", {"backends": {"1": loop(near.data_port)}}).status == 200
                epoch = far.document("slow")["epoch"]["1"]
                eventually(lambda: (far.arm("slow", "1")["epoch"], far.arm("slow", "1")["state"]) == (epoch, "ready"))
                looped = client.infer("slow", BODY)
            assert looped.status == 508
            assert "through this gateway already" in looped.json()["error"]


def test_a_connection_over_the_bound_is_told_so_and_closed_and_the_others_go_on(tmp_path: Path) -> None:
    settings = {"server": {"listen": "127.0.0.1:0", "max_connections": 3, "max_connections_per_client": 3}}
    with GatewayProcess(tmp_path, routes=[CREDIT], settings=settings) as gateway:
        with gateway.client() as one, gateway.client() as two, gateway.client() as three:
            assert [client.infer("credit", BODY).status for client in (one, two, three)] == [200] * 3
            with socket.create_connection(("127.0.0.1", gateway.data_port), timeout=5) as fourth:
                answer = fourth.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"x-request-id: " in answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
            assert [client.infer("credit", BODY).status for client in (one, two, three)] == [200] * 3
        with gateway.admin() as admin:
            metrics = admin.send("GET", "/metrics").body.decode()
        assert 'turnout_bound_hits_total{bound="server.max_connections"} 1' in metrics
        eventually(lambda: gateway.client().infer("credit", BODY).status == 200, 5, "room again")


def test_numbers_of_workers_out_of_range_are_refused(tmp_path: Path) -> None:
    for workers in ("0", "65"):
        refused = run(tmp_path, "serve", "--workers", workers)
        assert refused.returncode == 2
        assert "not in the range 1<=x<=64" in refused.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("server: {port: 1}", "/server/port: unknown key"),
        ("a: 1\na: 2", "stands twice"),
        ("admin: {listen: '0.0.0.0:8081'}", "admin.insecure"),
        ("admin: {listen: '127.0.0.1:8080'}", "never shares"),
        ("store: {url: 'redis://127.0.0.1:1'}", "a shared store needs tokens"),
        ("store: {url: 'mysql://x'}", "store.url is memory:"),
        ("routes: {dir: nowhere}", "no folder"),
        ("[", "no valid YAML"),
        ("server: {listen: '127.0.0.1:99999'}", "no port 99999"),
        ("server: {workers: true}", "/server/workers: a number belongs here"),
        ("server: {workers: two}", "/server/workers"),
    ],
)
def test_bad_settings_are_refused_with_every_problem(tmp_path: Path, settings: str, words: str) -> None:
    (tmp_path / "g.yaml").write_text(settings)
    refused = run(tmp_path, "serve", "--config", "g.yaml")
    assert refused.returncode == 1
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    checked = run(tmp_path, "check", "g.yaml")
    assert checked.returncode == 1
    assert words in checked.stdout


def test_a_misspelled_variable_is_refused(tmp_path: Path) -> None:
    refused = run(tmp_path, "serve", env={"TURNOUT_SERVR__LISTEN": "127.0.0.1:0"})
    assert refused.returncode == 1
    assert "TURNOUT_SERVR__LISTEN is no setting" in refused.stderr
    refused = run(tmp_path, "serve", env={"TURNOUT_BACKENDS__ALLOW_HOSTS": "10.0.0.5"})
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run(tmp_path, "serve", env={"TURNOUT_SERVER__LISTEN": f"127.0.0.1:{port}"})
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_check_accepts_what_the_demo_serves_and_names_each_mistake(tmp_path: Path) -> None:
    files = [DEMO / "gateway.yaml", *sorted((DEMO / "routes").glob("*.yaml"))]
    assert run(tmp_path, "check", *map(str, files)).returncode == 0
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**CREDIT, "stable": 1, "colour": "red"}))
    checked = run(tmp_path, "check", "r.yaml")
    assert checked.returncode == 1
    assert "/stable: a name is text" in checked.stdout
    assert "/colour: unknown key" in checked.stdout


def test_the_first_start_makes_a_token_that_only_its_owner_reads(tmp_path: Path) -> None:
    with GatewayProcess(
        tmp_path, routes=[CREDIT], settings={"admin": {"listen": "127.0.0.1:0", "tokens": []}}
    ) as gateway:
        token = tmp_path / "state/admin.token"
        assert token.stat().st_mode & 0o777 == 0o600
        with gateway.client() as _, gateway.admin() as admin:
            assert admin.send("GET", "/admin/v1/routes").status == 401
            good = {"authorization": f"Bearer {token.read_text().strip()}"}
            assert admin.send("GET", "/admin/v1/routes", None, good).status == 200
