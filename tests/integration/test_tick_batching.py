"""Shared runs on a real gateway: an equal canary is never called slow for the company of others, a slow one is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import DEMO, Answered, GatewayProcess, corpus, eventually, statuses, storm

ROWS = [row["request"] for row in corpus("credit")]
P99_MS = 250  # a thousand times what one run takes: a machine that others use may hold one up
CLIENTS = 64
REQUESTS = 1500


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Credit 1 as ``1`` and as ``2``, and slowed down as ``3``."""
    models = tmp_path_factory.mktemp("models")
    good = DEMO / "models/credit/1/model.onnx"
    for name in ("equal", "slower"):
        for version in ("1", "2"):
            (models / name / version).mkdir(parents=True)
            (models / name / version / "model.onnx").write_bytes(good.read_bytes())
    script, target = DEMO / "scripts/break_model.py", models / "slower/2/model.onnx"
    command = [sys.executable, str(script), "slow", str(good), str(target), "--rounds", "400"]
    subprocess.run(command, check=True, capture_output=True)
    folder: Path = tmp_path_factory.mktemp("gateway")
    routes = [
        {
            "model": name,
            "stable": "1",
            "variants": [{"version": "1", "weight": 99}, {"version": "2", "weight": 1}],
            "slo": {"latency": {"p99_ms": P99_MS}},
        }
        for name in ("equal", "slower")
    ]
    with GatewayProcess(folder, models=models, routes=routes, settings={"store": {"url": "memory:"}}) as process:
        yield process


def loaded(gateway: GatewayProcess, model: str) -> list[Answered]:
    return storm(
        gateway.data_port,
        lambda client, n: client.infer(model, ROWS[n % len(ROWS)]),
        requests=REQUESTS,
        clients=CLIENTS,
    )


def ran(gateway: GatewayProcess, model: str) -> dict[str, Any]:
    with gateway.client() as client:
        return client.send("GET", f"/v2/models/{model}/versions/1/stats").json()["model_stats"][0]  # type: ignore[no-any-return]


def test_an_equal_canary_at_one_percent_under_load_raises_no_latency_alarm(gateway: GatewayProcess) -> None:
    answers = loaded(gateway, "equal")
    assert statuses(answers) == {200: REQUESTS}
    arm = gateway.arm("equal", "2")
    assert arm["counters"]["drawn"] > 3
    assert not arm["alarm"]
    assert not gateway.document("equal")["guard"]["latched"]
    stats = ran(gateway, "equal")
    assert stats["execution_count"] < stats["inference_count"], "runs were shared"
    assert stats["inference_stats"]["success"]["count"] == stats["inference_count"]


def test_a_slower_canary_at_one_percent_under_the_same_load_is_flipped(gateway: GatewayProcess) -> None:
    for _ in range(3):
        assert statuses(loaded(gateway, "slower")) == {200: REQUESTS}
        if gateway.arm("slower", "2")["lowered"]:
            break
    if alarm := gateway.arm("slower", "2")["alarm"]:
        pytest.skip(f"this machine is too busy for stable itself: {alarm}")
    latched = eventually(lambda: gateway.document("slower")["guard"]["latched"], what="the latch")
    assert latched["2"]["evidence"]["objective"] in {"latency_p99", "fuse"}, "by its slowness, or by its time-outs"
