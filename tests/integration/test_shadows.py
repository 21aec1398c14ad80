"""Shadows on a real gateway: copies are sent and compared, and no client ever notices."""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from gateway.dataplane.mirror import CONCURRENT_COPIES
from tests.faults import FaultBackend
from tests.gateway_process import DEMO, GatewayProcess, corpus, eventually, statuses, storm

ROWS = corpus("credit")
BODY = ROWS[0]["request"]
NAMES = (f"credit-{n}" for n in itertools.count())
HANGS_S = 2.0
RATE = 150.0


@pytest.fixture(scope="module")
def backends() -> Iterator[tuple[FaultBackend, FaultBackend, FaultBackend]]:
    """Stable, canary, shadow."""
    with FaultBackend() as stable, FaultBackend() as canary, FaultBackend() as shadow:
        yield stable, canary, shadow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Credit 2 as 2 and again as 3, and with its columns swapped as 4."""
    folder = tmp_path_factory.mktemp("models") / "credit"
    good = DEMO / "models/credit/2/model.onnx"
    for version in ("2", "3"):
        (folder / version).mkdir(parents=True)
        (folder / version / "model.onnx").write_bytes(good.read_bytes())
    (folder / "4").mkdir()
    script = DEMO / "scripts/break_model.py"
    command = [sys.executable, str(script), "swapped", str(good), str(folder / "4/model.onnx")]
    subprocess.run(command, check=True, capture_output=True)
    return folder.parent


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(folder, models=models, settings={"store": {"url": "memory:"}}) as process:
        yield process


@pytest.fixture(autouse=True)
def healthy(backends: tuple[FaultBackend, ...]) -> None:
    for backend in backends:
        backend.set("ok")


class Rig:
    """One route of its own: ``1`` stable, ``2`` a canary with ``weight``, ``3`` the shadow, all on fault backends."""

    def __init__(
        self,
        gateway: GatewayProcess,
        backends: tuple[FaultBackend, ...],
        *,
        weight: float = 0,
        shadow: dict[str, Any] | None = None,
        **parts: Any,
    ) -> None:
        self.gateway = gateway
        self.model = next(NAMES)
        at = {"model": "credit", "version": "1", "kind": "oip"}
        self.create(
            {
                "model": self.model,
                "stable": "1",
                "variants": [{"version": "1", "weight": 100 - weight}, {"version": "2", "weight": weight}],
                "sticky": {"by": ["header:x-customer-id"]},
                "shadows": [{"version": "3", **(shadow or {})}],
                "backends": {str(n + 1): {**at, "url": backend.url} for n, backend in enumerate(backends)},
                **parts,
            }
        )

    def create(self, route: dict[str, Any]) -> None:
        with self.gateway.admin() as admin:
            made = admin.send("PUT", f"/admin/v1/routes/{self.model}", route, {"if-none-match": "*"})
            assert made.status == 201, made.body
        eventually(self._is_ready, what="all backends to be ready")

    def _is_ready(self) -> bool:
        status = self.status()
        return {v["state"] for v in [*status.get("variants", [{"state": "-"}]), *status.get("shadows", [])]} == {
            "ready"
        }

    def status(self) -> Any:
        return self.gateway.status(self.model)

    def shadow(self, index: int = 0) -> Any:
        return self.status()["shadows"][index]

    def settled(self, offered: int, index: int = 0) -> Any:
        """The shadow once every copy has ended and every pair was compared or not."""

        def all_ended() -> Any:
            found = self.shadow(index)
            table = found["table"]
            open_ = found["waiting"] + found["in_flight"] + table["both_ok"] - found["compared"] - found["not_compared"]
            return found if found["offered"] == offered and open_ == 0 else None

        found = eventually(all_ended, what=f"{offered} copies to end")
        assert found["offered"] == found["sent"] + sum(found["not_sent"].values())
        assert found["sent"] == sum(found["results"].values())
        return found

    def storm(self, requests: int, clients: int = 2, rate: float | None = None, **headers: str) -> list[Any]:
        return storm(
            self.gateway.data_port,
            lambda client, n: client.infer(self.model, BODY, key=f"c{n}", **headers),
            requests=requests,
            clients=clients,
            rate=rate,
        )


@pytest.mark.parametrize("mode", ["ok", "error_500", "wrong_shape", "not_json", "reset_after_head", "nan"])
def test_no_answer_of_a_shadow_reaches_a_client(
    gateway: GatewayProcess, backends: tuple[FaultBackend, ...], mode: str
) -> None:
    rig = Rig(gateway, backends)
    backends[2].set(mode)
    answers = rig.storm(30)
    assert statuses(answers) == {200: 30}
    assert {(a.version, a.role, a.json()["model_version"]) for a in answers} == {("1", "stable", "1")}
    found = rig.settled(30)
    assert found["sent"] == 30
    assert found["agree_share"] == (1.0 if mode == "ok" else 0.0)
    with gateway.admin() as admin:
        metrics = admin.send("GET", "/metrics").body.decode()
    agree = "true" if mode == "ok" else "false"
    assert f'turnout_mirror_pairs_total{{agree="{agree}",model="{rig.model}",version="3"}} 30' in metrics
    if mode in {"error_500", "reset_after_head"}:
        assert found["table"]["shadow_failed"] == 30
    if mode in {"wrong_shape", "not_json"}:
        assert set(found["mismatches"]) == {"unreadable"}
    if mode == "nan":
        assert found["outputs"]["probabilities"]["not_finite"] == 60
    guarded = {v["version"]: v["counters"] for v in rig.status()["variants"]}
    assert guarded["1"]["outcomes"] == {"ok": 30}
    assert guarded["3"]["outcomes"] == {}


def test_a_canarys_answers_make_no_pairs_and_a_failover_makes_one_copy(
    gateway: GatewayProcess, backends: tuple[FaultBackend, ...]
) -> None:
    rig = Rig(gateway, backends, weight=50, enforce=False)
    by_canary = sum(answer.version == "2" for answer in rig.storm(40))
    assert 0 < by_canary < 40
    found = rig.settled(40)
    assert (found["not_paired"], found["compared"]) == (by_canary, 40 - by_canary)
    backends[1].set("error_500")
    answers = rig.storm(40)
    assert statuses(answers) == {200: 40}
    assert sum(answer.headers["x-turnout-attempts"] == "2" for answer in answers) == by_canary
    found = rig.settled(80)
    assert (found["sent"], found["not_paired"], found["compared"]) == (80, by_canary, 80 - by_canary)
    assert found["agree_share"] == 1.0


def test_pins_and_sequences_are_not_copied(gateway: GatewayProcess, backends: tuple[FaultBackend, ...]) -> None:
    rig = Rig(gateway, backends)
    with gateway.client() as client:
        assert client.infer(rig.model, BODY, version="1").status == 200
        assert client.infer(rig.model, BODY, version="3").role == "pinned"
        assert client.infer(rig.model, {**BODY, "parameters": {"sequence_id": 7}}).status == 200
        assert client.infer(rig.model, BODY).status == 200
    found = rig.settled(4)
    assert (found["sent"], found["not_sent"]) == (1, {"pinned": 2, "sequence": 1})


def test_side_effects_large_bodies_and_a_dead_shadow_are_not_copied(
    gateway: GatewayProcess, backends: tuple[FaultBackend, ...]
) -> None:
    before = backends[2].counts()["requests"]
    effects = Rig(gateway, backends, side_effects=True)
    effects.storm(3)
    assert effects.settled(3)["not_sent"] == {"side_effects": 3}
    large = Rig(gateway, backends, shadow={"max_body_kb": 1})
    with gateway.client() as client:
        assert client.infer(large.model, {**BODY, "parameters": {"padding": "x" * 1024}}).status == 200
    assert large.settled(1)["not_sent"] == {"too_large": 1}
    assert backends[2].counts()["requests"] == before
    backends[2].set("not_ready")
    route = gateway.document(large.model)["route"]
    dead = {**route["backends"]["3"], "url": "http://127.0.0.1:9"}
    assert gateway.edit(large.model, {"backends": {"3": dead}}).status == 200
    eventually(lambda: large.shadow()["state"] == "failed", what="the shadow to be known dead")
    large.storm(2)
    found = large.settled(2)
    assert found["not_sent"] == {"not_ready": 2}
    (told,) = [warning for warning in large.status()["warnings"] if "'3'" in warning]
    assert told.startswith("version '3' is not ready: http://127.0.0.1:9 refused connections")


def test_each_shadow_has_its_own_sample(gateway: GatewayProcess, backends: tuple[FaultBackend, ...]) -> None:
    rig = Rig(gateway, backends[:1] + backends[:1] + backends[2:], shadow={"sample": 50})
    shadows = [{"version": "3", "sample": 50}, {"version": "4"}]
    at = gateway.document(rig.model)["route"]["backends"]["3"]
    assert gateway.edit(rig.model, {"shadows": shadows, "backends": {"4": at}}).status == 200
    eventually(lambda: len(rig.status()["shadows"]) == 2 and rig._is_ready(), what="the second shadow")
    rig.storm(60)
    with gateway.admin() as admin:
        copied = [
            admin.send("GET", f"/admin/v1/routes/{rig.model}/explain?key=c{n}").json()["shadows"] for n in range(60)
        ]
    assert rig.settled(sum("3" in versions for versions in copied))["sent"] < 60
    assert rig.settled(60, index=1)["sent"] == 60


def test_the_same_model_agrees_and_a_swapped_one_does_not(gateway: GatewayProcess) -> None:
    rig = Rig.__new__(Rig)
    rig.gateway, rig.model = gateway, "credit"
    shadows = [{"version": "3"}, {"version": "4"}]
    variants = [{"version": "2", "weight": 100}]
    rig.create({"model": "credit", "stable": "2", "variants": variants, "shadows": shadows})
    storm(gateway.data_port, lambda c, n: c.infer("credit", ROWS[n % len(ROWS)]["request"]), requests=100, clients=2)
    same, swapped = rig.settled(100), rig.settled(100, index=1)
    assert (same["results"], same["not_compared"]) == ({"ok": 100}, 0)
    assert (same["agree_share"], same["label_agree_share"]) == (1.0, 1.0)
    assert same["latency_ratio"]["count"] == 100
    assert all(output["max_abs"] == 0 for output in same["outputs"].values())
    binary = {**BODY, "parameters": {"binary_data_output": True}}
    answers = storm(gateway.data_port, lambda c, n: c.infer("credit", binary), requests=10, clients=1)
    assert all("inference-header-content-length" in answer.headers for answer in answers)
    same, swapped = rig.settled(110), rig.settled(110, index=1)
    assert (same["compared"], same["agree_share"], same["results"]) == (110, 1.0, {"ok": 110})
    assert swapped["agree_share"] < 0.1
    assert swapped["label_agree_share"] < 0.1
    assert swapped["outputs"]["probabilities"]["max_abs"] > 0.5


def test_a_hanging_shadow_costs_neither_memory_nor_time(
    gateway: GatewayProcess, backends: tuple[FaultBackend, ...]
) -> None:
    rig = Rig(gateway, backends, shadow={"timeout_ms": 300})
    requests = int(HANGS_S * RATE)
    rig.storm(int(RATE), clients=4, rate=RATE)
    before = rig.storm(requests, clients=4, rate=RATE)
    backends[2].set("never")
    rig.storm(int(RATE), clients=4, rate=RATE)
    (worker,) = gateway.worker_pids
    rss = _rss_bytes(worker)
    beside = rig.storm(requests, clients=4, rate=RATE)
    grown = _rss_bytes(worker) / rss - 1
    assert statuses(beside) == {200: requests}
    assert grown < 0.02, f"grew by {grown:.1%}"
    assert median(a.seconds for a in beside) < 2 * median(a.seconds for a in before) + 0.002
    found = rig.settled(2 * int(RATE) + 2 * requests)
    assert set(found["not_sent"]) == {"expired"}
    assert found["results"]["timeout"] > CONCURRENT_COPIES
    most = backends[2].counts()["most_in_flight"]
    assert most <= 2 * CONCURRENT_COPIES, "the bound, and those that it has not noticed were given up"


def test_draining_does_not_wait_for_a_shadow(tmp_path: Path, backends: tuple[FaultBackend, ...], models: Path) -> None:
    settings = {"store": {"url": "memory:"}, "server": {"listen": "127.0.0.1:0", "drain_notice_ms": 0}}
    with GatewayProcess(tmp_path, models=None, settings=settings) as gateway:
        rig = Rig(gateway, backends, shadow={"timeout_ms": 60_000})
        backends[2].set("never")
        rig.storm(40)
        begin = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - begin < 3


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
