"""Several workers on one socket: killed, stopped, drained; what one knows reaches the others."""

import itertools
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from os import kill
from pathlib import Path
from typing import Any

import pytest

from tests.faults import FaultBackend
from tests.gateway_process import DEMO, Client, GatewayProcess, corpus, eventually

CREDIT = corpus("credit")[0]["request"]
ROUTE = {"model": "credit", "stable": "1", "variants": [{"version": "1", "weight": 100}]}
SLO = {"errors": {"max_rate": 0.02}}


def serving(gateway: GatewayProcess, count: int) -> list[Mapping[str, Any]]:
    """All workers, once so many serve."""

    def found() -> list[Mapping[str, Any]]:
        workers = gateway.overview()["workers"]
        return workers if [w["state"] for w in workers] == ["serving"] * count else []

    return eventually(found, 60, f"{count} serving workers")


def start(folder: Path, workers: int, routes: Any = (ROUTE,), **settings: Any) -> GatewayProcess:
    server = {"workers": workers, "drain_notice_ms": 0} | settings.pop("server", {})
    return GatewayProcess(folder, routes=routes, settings={"server": server, **settings})


def ask(gateway: GatewayProcess, **headers: str) -> Any:
    """One request on a connection of its own."""
    with gateway.client() as client:
        return client.infer("credit", CREDIT, **headers)


def one_for_each_worker(gateway: GatewayProcess, count: int) -> list[Client]:
    """A connection to each worker; which one took it is seen by what it holds."""
    found: dict[int, Client] = {}

    def held() -> dict[int, int]:
        return {worker["worker"]: worker["connections"] for worker in gateway.overview()["workers"]}

    def opened() -> bool:
        before, client = held(), gateway.client()
        assert client.infer("credit", CREDIT, version="1").status == 200
        (taker,) = (number for number, connections in held().items() if connections > before[number])
        if taker in found:
            client.close()
            eventually(lambda: held() == before, 10)
        else:
            found[taker] = client
        return len(found) == count

    eventually(opened, 60, "a connection to each worker")
    return list(found.values())


def nobody_answers(gateway: GatewayProcess) -> None:
    with suppress(OSError):
        ask(gateway)


def drawn(gateway: GatewayProcess, version: str) -> list[int]:
    """What each worker drew of a version."""
    return [
        variant["drawn"]
        for worker in gateway.status("credit")["workers"]
        for variant in worker["variants"]
        if variant["version"] == version
    ]


def requests_total(gateway: GatewayProcess) -> float:
    with gateway.admin() as admin:
        lines = admin.send("GET", "/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("turnout_requests_total{"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with start(tmp_path_factory.mktemp("pair"), 2, server={"spare_worker": True}) as gateway:
        yield gateway


def test_one_status_and_one_scrape_see_all_workers(pair: GatewayProcess) -> None:
    serving(pair, 2)
    before = requests_total(pair)
    each = eventually(lambda: ask(pair).status == 200 and all(n := drawn(pair, "1")) and n, 30, "both to serve")
    variant = pair.arm("credit", "1")
    assert variant["counters"]["drawn"] == sum(each)
    assert variant["latency"]["count"] == sum(each)
    assert requests_total(pair) == before + sum(each)
    assert pair.status("credit")["warnings"] == []


def test_an_edit_is_applied_when_all_workers_serve_it(pair: GatewayProcess) -> None:
    with pair.admin() as admin:
        etag = admin.send("GET", "/admin/v1/routes/credit").headers["etag"]
        said = admin.send("PATCH", "/admin/v1/routes/credit?wait=applied", {"enforce": False}, {"if-match": etag})
    assert said.json()["applied"]["all"] is True
    assert {worker["revision"] for worker in pair.status("credit")["workers"]} == {said.json()["revision"]}


def test_a_killed_worker_is_replaced_and_nothing_it_counted_is_lost(pair: GatewayProcess) -> None:
    """Only what was in flight on it may fail: a connection that breaks, never a wrong answer."""
    victim = serving(pair, 2)[0]
    over = threading.Event()
    statuses: list[int] = []
    broken: list[float] = []
    totals: list[float] = []

    def load() -> None:
        while not over.is_set():
            try:
                with Client(pair.data_port, timeout_s=20) as client:
                    for _ in range(20):
                        statuses.append(client.infer("credit", CREDIT).status)
            except OSError:
                broken.append(time.monotonic())

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(statuses) > 100, 30)
        totals.append(requests_total(pair))
        at_s = time.monotonic()
        kill(victim["pid"], signal.SIGKILL)

        def replaced() -> bool:
            totals.append(requests_total(pair))
            workers = pair.overview()["workers"]
            return workers[0]["pid"] not in {None, victim["pid"]} and workers[0]["state"] == "serving"

        eventually(replaced, 30, "another worker in its place")
        took_s = time.monotonic() - at_s
        eventually(lambda: len(statuses) > 400, 30)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    totals.append(requests_total(pair))
    print(f"replaced after {took_s:.2f} s, {len(broken)} broken connections, {len(statuses)} answers")
    assert set(statuses) == {200}
    assert len(broken) <= len(threads)
    assert totals == sorted(totals)
    assert totals[-1] >= len(statuses)
    assert serving(pair, 2)[0]["restarts"] == 1


def test_a_stopped_worker_takes_no_new_connection_and_is_replaced(tmp_path: Path) -> None:
    with start(tmp_path, 2, server={"worker_silent_s": 3}) as gateway:
        victim = serving(gateway, 2)[1]
        kill(victim["pid"], signal.SIGSTOP)
        took = [ask(gateway).seconds for _ in range(20)]
        assert max(took) < 2, "no connection went to the one that is stopped"
        eventually(lambda: serving(gateway, 2)[1]["pid"] not in {None, victim["pid"]}, 60, "another in its place")
        with gateway.admin() as admin:
            metrics = admin.send("GET", "/metrics").body.decode()
        assert 'turnout_workers_ended_total{why="silent"} 1.0' in metrics
        assert gateway.stop() == 0


def test_a_lower_reaches_siblings_while_the_store_is_dead_and_comes_home_later(tmp_path: Path) -> None:
    """Each worker's guard trips on its own draws; here one trips, and the others draw no more."""
    with FaultBackend("credit", "2") as canary:
        canary.set("error_500")
        route = {
            **ROUTE,
            "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
            "backends": {"2": {"kind": "oip", "url": canary.url}},
        }
        with start(tmp_path, 3, [route], server={"reuse_port": True}) as gateway:
            serving(gateway, 3)
            eventually(lambda: gateway.arm("credit", "2")["state"] == "ready", 30)
            siblings = [gateway.client() for _ in range(24)]
            for client in siblings:
                assert client.infer("credit", CREDIT, version="1").status == 200
            lock = sqlite3.connect(tmp_path / "state" / "turnout.db", isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")  # nothing can be written any more
            try:
                with gateway.client() as client:  # one connection is one worker
                    for _ in range(100):
                        assert client.infer("credit", CREDIT).status == 200
                    at_s = time.monotonic()
                    sent = canary.counts()["requests"]
                    assert sent >= 4
                    for _ in range(3):
                        assert [one.infer("credit", CREDIT).status for one in siblings] == [200] * 24
                    print(f"asked siblings {time.monotonic() - at_s:.3f} s after")
                assert canary.counts()["requests"] == sent, "no worker draws it any more"
            finally:
                lock.execute("ROLLBACK")
                lock.close()
            assert len([n for n in drawn(gateway, "1") if n]) > 1, "siblings were asked"
            eventually(lambda: gateway.document("credit")["guard"]["latched"], 20, "the latch in the store")
            for one in siblings:
                one.close()


def test_what_no_worker_has_evidence_of_is_judged_over_all(tmp_path: Path) -> None:
    """Four workers, each with too little to trip on: one failure in eight where 2 % are promised."""
    with FaultBackend("credit", "2") as canary:
        route = {
            **ROUTE,
            "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
            "backends": {"2": {"kind": "oip", "url": canary.url}},
            "slo": SLO,
        }
        canary.set("error_500", key="poison")
        with start(tmp_path, 4, [route], server={"reuse_port": True}) as gateway:
            serving(gateway, 4)
            eventually(lambda: gateway.arm("credit", "2")["state"] == "ready", 30)
            clients = one_for_each_worker(gateway, 4)
            numbers = itertools.count()

            def latched() -> Any:
                name = "poison" if next(numbers) % 8 == 0 else "good"
                for client in clients:
                    assert client.infer("credit", CREDIT, x_request_id=name).status == 200
                return gateway.document("credit")["guard"]["latched"]

            latch = eventually(latched, 40, "the merged trip")["2"]
            for client in clients:
                client.close()
            assert latch["evidence"]["merged"] is True
            assert latch["evidence"]["objective"] == "errors"
            assert gateway.status("credit")["variants"][1]["guard"]["tripped"] is False


def test_one_bad_customer_alone_on_a_worker_flips_only_what_nobody_else_is_served_by(tmp_path: Path) -> None:
    with FaultBackend("credit", "2") as canary:
        route = {
            **ROUTE,
            "variants": [{"version": "1", "weight": 1}, {"version": "2", "weight": 99}],
            "sticky": {"by": ["header:x-customer"]},
            "backends": {"2": {"kind": "oip", "url": canary.url}},
        }
        canary.set("error_500", key="poison")
        with start(tmp_path, 2, [route], server={"reuse_port": True}) as gateway:
            serving(gateway, 2)
            eventually(lambda: gateway.arm("credit", "2")["state"] == "ready", 30)
            alone, others = one_for_each_worker(gateway, 2)
            bad = {"x_request_id": "poison", "x_customer": customer_of(alone, "2")}
            for number in range(30):
                assert alone.infer("credit", CREDIT, **bad).headers["x-turnout-attempts"] == "2"
                others.infer("credit", CREDIT, x_customer=f"somebody {number}")
            time.sleep(0.8)  # its run would have settled
            assert gateway.document("credit")["guard"]["latched"] == {}, "others know of good answers in between"
            for _ in range(5):
                alone.infer("credit", CREDIT, **bad)
            latch = eventually(lambda: gateway.document("credit")["guard"]["latched"], 5, "the flip")["2"]
            assert latch["reason"].startswith("fuse: ")
            alone.close()
            others.close()


def customer_of(client: Client, version: str) -> str:
    """A customer whom the split gives this version."""
    names = (f"customer {number}" for number in range(100))
    return next(name for name in names if client.infer("credit", CREDIT, x_customer=name).version == version)


def test_a_signal_drains_all_and_the_second_one_ends_at_once(tmp_path: Path) -> None:
    with FaultBackend("credit", "1") as slow:
        route = {**ROUTE, "backends": {"1": {"kind": "oip", "url": slow.url}}}
        with start(tmp_path, 2, [route]) as gateway:
            serving(gateway, 2)
            pids = gateway.worker_pids
            eventually(lambda: ask(gateway).status == 200, 30)
            slow.set(delay_ms=1_500)
            answers: list[Any] = []
            threads = [threading.Thread(target=lambda: answers.append(ask(gateway))) for _ in range(6)]
            for thread in threads:
                thread.start()
            eventually(lambda: gateway.overview()["in_work"] == 6, 10)
            for pid in pids:
                kill(pid, signal.SIGINT)  # as a terminal does, to the whole group
            gateway.signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            assert [answer.status for answer in answers] == [200] * 6
            assert gateway.wait(20) == 0
            assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
            gateway.start()
            slow.set("never")
            threading.Thread(target=nobody_answers, args=(gateway,), daemon=True).start()
            eventually(lambda: gateway.overview()["in_work"] == 1, 10)
            gateway.signal(signal.SIGTERM)
            time.sleep(0.5)
            gateway.signal(signal.SIGTERM)
            assert gateway.wait(15) == 0


def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    with start(tmp_path, 2) as gateway:
        pids = [worker["pid"] for worker in serving(gateway, 2)]
        gateway.kill()
        eventually(lambda: not any(_lives(pid) for pid in pids), 20, "the end of the workers")


def test_a_worker_that_was_stopped_does_not_outlive_its_supervisor_either(tmp_path: Path) -> None:
    with start(tmp_path, 2) as gateway:
        pids = [worker["pid"] for worker in serving(gateway, 2)]
        kill(pids[0], signal.SIGSTOP)
        gateway.kill()
        eventually(lambda: not any(_lives(pid) for pid in pids), 20, "the end of the workers")


def test_a_gateway_whose_workers_do_not_come_up_says_so(tmp_path: Path) -> None:
    gateway = start(tmp_path, 1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "onnxruntime.py").write_text("raise SystemExit(3)")
    gateway._env["PYTHONPATH"] = f"{tmp_path / 'broken'}:{DEMO.parent.parent}"
    with pytest.raises(AssertionError, match=r"worker 0 ended 3 times before it was ready: exit code 3"):
        gateway.start()
    assert gateway.wait(20) == 1


def test_a_socket_for_each_worker(tmp_path: Path) -> None:
    with start(tmp_path, 2, server={"reuse_port": True}) as gateway:
        serving(gateway, 2)
        eventually(lambda: ask(gateway).status == 200 and all(drawn(gateway, "1")), 30, "both to serve")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
