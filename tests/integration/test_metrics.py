"""Metrics of a real gateway, as a real Prometheus sees them."""

import asyncio
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.backends.registry import BackendKey
from gateway.errors import InvalidSettings
from gateway.settings import Admin, Settings, Store
from gateway.settings_file import load_settings
from routing.table import OnnxSpec
from tests.faults import FaultBackend
from tests.gateway_process import SECRET, Client, GatewayProcess, corpus, eventually
from tests.joined import Joined
from tests.prometheus_server import PrometheusServer, Unobtainable, binary, check_metrics

ROWS = corpus("credit")
BODY = ROWS[0]["request"]
BEARER = {"authorization": f"Bearer {SECRET}"}
ROUTE: dict[str, Any] = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
    "slo": {"errors": {"max_rate": 0.01}, "latency": {"p99_ms": 612.5}},
}


@pytest.fixture(scope="module")
def prometheus_binary() -> str:
    try:
        return binary("prometheus")
    except Unobtainable as absent:
        pytest.skip(str(absent))


def scrape(port: int, headers: dict[str, str] | None = None) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """By name and labels."""
    with Client(port) as client:
        answer = client.send("GET", "/metrics", headers=BEARER if headers is None else headers)
    assert answer.status == 200, answer.body
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def labels(**named: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(named.items()))


@contextmanager
def a_gateway(folder: Path, **settings: Any) -> Iterator[GatewayProcess]:
    with GatewayProcess(folder, routes=[ROUTE], settings=settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    metrics = {"listen": "127.0.0.1:0"}
    server = {"max_body_bytes": 4096}
    with a_gateway(tmp_path_factory.mktemp("metrics"), metrics=metrics, server=server) as running:
        yield running


def test_every_request_is_counted_once_by_what_the_client_saw(gateway: GatewayProcess) -> None:
    before = scrape(gateway.admin_port).get("turnout_requests_total", {})
    seen: dict[tuple[tuple[str, str], ...], int] = {}

    def saw(model: str, version: str, role: str, code: int) -> None:
        key = labels(model=model, version=version, role=role, code=str(code))
        seen[key] = seen.get(key, 0) + 1

    with gateway.client() as client:
        for _ in range(20):
            answer = client.infer("credit", BODY)
            saw("credit", answer.version or "", answer.role or "", answer.status)
        saw("credit", "2", "pinned", client.infer("credit", BODY, version="2").status)
        saw("credit", "1", "pinned", client.infer("credit", b"no json", version="1").status)
        saw("credit", "_none", "none", client.infer("credit", BODY, version="77").status)
        for nobody in ("made-up-1", "made-up-2", "_unknown"):
            saw("_unknown", "_none", "none", client.infer(nobody, BODY).status)
        saw("credit", "_none", "none", client.infer("credit", BODY, x_request_timeout_ms="soon").status)
    with gateway.client() as client:
        saw("credit", "_none", "none", client.infer("credit", b"x" * 5000).status)
    after = scrape(gateway.admin_port)
    assert "made-up" not in str(after)
    counted = {key: value - before.get(key, 0) for key, value in after["turnout_requests_total"].items()}
    assert {key: value for key, value in counted.items() if value} == seen
    assert after["turnout_bound_hits_total"] == {labels(bound="server.max_body_bytes"): 1}
    good = sum(after["turnout_attempts_total"][labels(model="credit", version=v, outcome="ok")] for v in "12")
    assert sum(after["turnout_attempt_seconds_count"].values()) == good


def test_a_routes_thresholds_are_edges_of_all_its_histograms(gateway: GatewayProcess) -> None:
    found = scrape(gateway.admin_port)
    for name in ("attempt", "request", "overhead"):
        edges = [dict(key) for key in found[f"turnout_{name}_seconds_bucket"] if dict(key)["model"] == "credit"]
        assert "0.6125" in {edge["le"] for edge in edges}


def test_what_the_metrics_say_of_a_route_through_a_flip_and_a_release(gateway: GatewayProcess) -> None:
    two = labels(model="credit", version="2")
    found = scrape(gateway.admin_port)
    assert found["turnout_route_weight_ratio"] == {labels(model="credit", version="1"): 0.5, two: 0.5}
    assert (found["turnout_route_revision"][labels(model="credit")], found["turnout_route_latched"][two]) == (1, 0)
    evidence = found["turnout_guard_evidence"]
    assert {dict(key)["objective"] for key in evidence} == {"errors", "latency_p99"}
    with gateway.client() as client:
        assert client.infer("credit", BODY).status == 200
    requests = scrape(gateway.admin_port)["turnout_requests_total"]
    with gateway.admin() as admin:
        assert admin.send("POST", "/admin/v1/routes/credit/flip", {"reason": "a test"}).status == 200
    found = eventually(lambda: (now := scrape(gateway.admin_port))["turnout_route_latched"][two] and now)
    assert found["turnout_route_weight_ratio"][two] == 0
    assert found["turnout_flips_total"] == {labels(model="credit", version="2", reason="operator"): 1}
    assert 0 < found["turnout_apply_lag_seconds"][()] < 5
    with gateway.admin() as admin:
        assert admin.send("POST", "/admin/v1/routes/credit/release", {"reason": "a test"}).status == 200
    found = eventually(lambda: (now := scrape(gateway.admin_port))["turnout_route_latched"][two] == 0 and now)
    assert all(found["turnout_requests_total"][key] >= count for key, count in requests.items())
    assert gateway.arm("credit", "2")["counters"]["drawn"] == 0  # the status counts the new epoch
    assert found["turnout_store_reachable"] == {(): 1}
    assert found["turnout_inflight"] == {(): 0}
    assert found["turnout_connections"][labels(listener="admin")] >= 1


def test_who_may_scrape(gateway: GatewayProcess) -> None:
    for port in (gateway.admin_port, gateway.metrics_port):
        with Client(port) as client:
            assert client.send("GET", "/metrics").status == 401
            assert client.send("POST", "/metrics", b"", BEARER).status == 405
            assert client.send("HEAD", "/metrics", headers=BEARER).status == 200
            asked = client.send("GET", "/metrics", headers={**BEARER, "accept": "application/openmetrics-text"})
            assert asked.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
            assert asked.body.endswith(b"# EOF\n")
    with Client(gateway.metrics_port, BEARER) as client:
        for path in ("/admin/v1/routes", "/admin/v1/status", "/v2", "/"):
            assert client.send("GET", path).status == 404
    with gateway.client() as client:
        assert client.send("GET", "/metrics", headers=BEARER).status == 404
    assert sum(scrape(gateway.metrics_port)["turnout_logins_refused_total"].values()) >= 2


def test_open_metrics_need_no_token_and_nothing_else_is_open(tmp_path: Path) -> None:
    with a_gateway(tmp_path, metrics={"open": True, "listen": "127.0.0.1:0"}) as running:
        for port in (running.admin_port, running.metrics_port):
            assert scrape(port, headers={})["turnout_store_reachable"] == {(): 1}
            with Client(port) as client:
                for path in ("/metrics/", "/metrics%2f", "//metrics", "/admin/v1/routes", "/admin/v1/status"):
                    assert client.send("GET", path).status in {401, 404}, path
                assert client.send("POST", "/metrics", b"").status == 401
        with socket.create_connection(("127.0.0.1", running.metrics_port)):
            running.signal(signal.SIGTERM)
            assert running.wait() == 0


def test_a_real_prometheus_scrapes_it_and_promtool_has_nothing_to_say(
    gateway: GatewayProcess, prometheus_binary: str
) -> None:
    assert prometheus_binary
    with gateway.client() as client:
        for _ in range(5):
            assert client.infer("credit", BODY, version="1").status == 200
    with Client(gateway.admin_port, BEARER) as client:
        text = client.send("GET", "/metrics").body
        expected = scrape(gateway.admin_port)["turnout_requests_total"]
    assert check_metrics(text) == ""
    with PrometheusServer(gateway.metrics_port, token=SECRET) as prometheus:
        found = eventually(lambda: prometheus.query("turnout_requests_total"), what="a scrape")
        assert found == expected
        assert set(prometheus.query("up").values()) == {1.0}
        assert prometheus.query('turnout_request_seconds_bucket{model="credit",le="0.6125"}')
        target = prometheus.get("targets")["activeTargets"][0]
        assert (target["health"], target["lastError"]) == ("up", "")


def test_two_hundred_routes_are_scraped_fast_and_beside_the_loop(tmp_path: Path) -> None:
    models = tmp_path / "models"
    source = Path(__file__).parents[2] / "configs" / "demo" / "models" / "credit"
    names = [f"credit-{n:03d}" for n in range(200)]
    for name in names:
        for version in "12":
            (models / name / version).mkdir(parents=True)
            (models / name / version / "model.onnx").symlink_to(source / "1" / "model.onnx")
    routes = [{**ROUTE, "model": name} for name in names]
    with GatewayProcess(tmp_path, routes=routes, models=models) as gateway:
        with gateway.client() as client:
            for name in names:
                for version in "12":
                    assert client.infer(name, BODY, version=version).status == 200
        with Client(gateway.admin_port, BEARER) as client:
            lines = client.send("GET", "/metrics").body.count(b"\n")
            begin_s = cpu_s(gateway)
            costs = sorted(client.send("GET", "/metrics").seconds for _ in range(20))
            each_s = (cpu_s(gateway) - begin_s) / 20
        took = f"fastest {costs[0] * 1000:.1f} ms, median {costs[10] * 1000:.1f} ms, CPU {each_s * 1000:.1f} ms"
        print(f"{lines} lines; {took}")
        quiet, scraped = infer_s(gateway, names), infer_s(gateway, names, scrapes=True)
        print(f"inference, p50 and p99: {spread(quiet)}; while scraped without a pause: {spread(scraped)}")
        assert len(scrape(gateway.admin_port)["turnout_route_revision"]) == 200
        assert each_s < 0.15  # less than 0.05 on a quiet machine; processor time, whatever else runs there


def cpu_s(gateway: GatewayProcess) -> float:
    """Processor time of the supervisor and its workers so far."""
    total = 0
    for pid in [gateway.pid, *gateway.worker_pids]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def infer_s(gateway: GatewayProcess, names: list[str], scrapes: bool = False) -> list[float]:
    """Sorted times of requests, while another client scrapes or does not."""
    over = threading.Event()

    def scrape_on() -> None:
        with Client(gateway.admin_port, BEARER) as client:
            while not over.is_set():
                client.send("GET", "/metrics")

    scraper = threading.Thread(target=scrape_on)
    if scrapes:
        scraper.start()
    try:
        with gateway.client() as client:
            return sorted(client.infer(name, BODY, version="1").seconds for name in names)
    finally:
        over.set()
        if scrapes:
            scraper.join()


def spread(costs: list[float]) -> str:
    return f"{costs[len(costs) // 2] * 1000:.1f} ms, {costs[len(costs) * 99 // 100] * 1000:.1f} ms"


def test_where_metrics_may_listen(tmp_path: Path) -> None:
    def problems(text: str) -> list[str]:
        file = tmp_path / "gateway.yaml"
        file.write_text(text)
        try:
            load_settings(file)
        except InvalidSettings as error:
            return [f"{problem.pointer} {problem.code}" for problem in error.problems]
        return []

    assert problems("metrics: {listen: '127.0.0.1:9100'}") == []
    for taken in ("127.0.0.1:8080", "127.0.0.1:8081"):
        assert problems(f"metrics: {{listen: '{taken}'}}") == ["/metrics/listen listen"]
    assert problems("metrics: {listen: '0.0.0.0:9100'}") == ["/metrics/listen insecure"]
    assert problems("metrics: {listen: '0.0.0.0:9100', open: true}") == []
    assert problems("{metrics: {listen: '0.0.0.0:9100'}, admin: {insecure: true}}") == []
    assert re.search("pattern", problems("metrics: {listen: 'nowhere'}")[0])


def test_what_a_guard_a_deadline_and_a_client_that_leaves_look_like(tmp_path: Path) -> None:
    with FaultBackend() as stable, FaultBackend() as canary:
        at = {"kind": "oip", "model": "credit", "version": "1"}
        backends = {"1": {**at, "url": stable.url}, "2": {**at, "url": canary.url}}
        with GatewayProcess(tmp_path, routes=[{**ROUTE, "backends": backends}], models=None) as gateway:
            canary.set("error_500")
            with gateway.client() as client:
                eventually(lambda: client.infer("credit", BODY).status != 200 or latched(gateway), what="a flip")
                stable.set("never")
                assert client.infer("credit", BODY, version="1", x_request_timeout_ms="100").status == 504
            with gateway.client() as client, pytest.raises(TimeoutError):
                Client(gateway.data_port, timeout_s=0.2).infer("credit", BODY, version="1")
            gone = labels(model="credit", version="1", role="pinned", code="499")
            found = eventually(lambda: gone in (now := scrape(gateway.admin_port))["turnout_requests_total"] and now)
        (flip,) = found["turnout_flips_total"]
        assert dict(flip)["reason"] in {"errors", "fuse"}
        two = labels(model="credit", version="2")
        assert found["turnout_route_lowered"][two] == found["turnout_route_latched"][two] == 1
        requests, attempts = found["turnout_requests_total"], found["turnout_attempts_total"]
        assert requests[labels(model="credit", version="1", role="pinned", code="504")] == 1
        failed = attempts[labels(model="credit", version="2", outcome="error")]
        assert failed >= 4
        assert found["turnout_routed_total"][labels(model="credit", version="1", how="failover")] == failed
        assert labels(model="credit", version="2", role="canary", code="500") not in requests
        assert found["turnout_bound_hits_total"] == {labels(bound="deadline"): 1}
        assert attempts[labels(model="credit", version="1", outcome="cancelled")] == 1


def latched(gateway: GatewayProcess) -> bool:
    return bool(gateway.document("credit")["guard"]["latched"])


def test_the_mirrors_counts_have_their_place(tmp_path: Path) -> None:
    async def scraped() -> str:
        settings = Settings(store=Store(url="memory:"), admin=Admin(tokens=()), state_dir=tmp_path)
        joined = Joined(settings)
        await joined.spoken()
        key = BackendKey("credit", "3", OnnxSpec(), is_shadow=True)
        for agrees in (True, True, False):
            joined.worker.mirror.counts.copy(key, "dropped")
            joined.worker.mirror.counts.pair(key, agrees=agrees)
        text, _ = await joined.host.scraper.scrape()
        await joined.worker.stop()
        return text.decode()

    text = asyncio.run(scraped())
    assert 'turnout_mirror_total{model="credit",result="dropped",version="3"} 3.0\n' in text
    assert 'turnout_mirror_pairs_total{agree="true",model="credit",version="3"} 2.0\n' in text
    assert 'turnout_mirror_pairs_total{agree="false",model="credit",version="3"} 1.0\n' in text
    assert re.search(r'turnout_build_info\{onnxruntime="[\d.]+",python="[\d.]+",version="[\w.]+"\} 1.0\n', text)
