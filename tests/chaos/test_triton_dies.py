"""A real Triton that runs canaries, by HTTP and by gRPC, dies or freezes under load: clients notice nothing of it."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.builders import scale_model
from tests.chaos.background import Background
from tests.chaos.client import Client
from tests.chaos.ledger import Entry, Fate, Ledger
from tests.chaos.subject import Asked, is_honest_error
from tests.gateway_process import GatewayProcess, eventually
from tests.redis_server import RedisServer
from tests.triton_server import TritonServer, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SCHEMES = ("http", "grpc")
STRIKES = ("kill", "stop")
RATE = 120.0
HEALTHY_S = 0.5
UNREADY_FLIP_S = 1.0
P99_MS = 250  # so that a canary's attempt may take a second, and the rest of the time is stable's
CAP_S = 4 * P99_MS / 1000
LATCH_S = 10.0
SLACK_S = 1.0  # of a machine that does other things as well


def route(model: str, triton: TritonServer) -> dict[str, Any]:
    """Stable in process, and on Triton the same arithmetic."""
    url = triton.grpc_url if model.endswith("grpc") else triton.url
    return {
        "model": model,
        "stable": "3",
        "variants": [{"version": "3", "weight": 80}, {"version": "triton", "weight": 20}],
        "slo": {"errors": {"max_rate": 0.01}, "latency": {"p99_ms": P99_MS}},
        "backends": {"triton": {"kind": "triton", "url": url, "model": "scale", "version": "3"}},
    }


class Scaled:
    """Two models in turn, whose answers are thrice what they were asked."""

    def __init__(self, models: list[str]) -> None:
        self._models = models

    def request(self, number: int) -> Asked:
        """The same one for the same number."""
        x = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [number % 1000, 1, 2, 3]}
        s = {"name": "s", "shape": [1], "datatype": "BYTES", "data": [f"word {number}"]}
        model = self._models[number % len(self._models)]
        return Asked(f"/v2/models/{model}/infer", json.dumps({"inputs": [x, s]}).encode(), (model, x, s))

    def judge(
        self, entry: Entry, asked: Asked, request_id: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Write down what the answer is."""
        if is_honest_error(entry, status, headers, body):
            return
        model, x, s = asked.row
        answer = json.loads(body)
        said = {output["name"]: output["data"] for output in answer.get("outputs", [])}
        wanted = {"y": [3.0 * value for value in x["data"]], "t": s["data"]}
        named = (answer.get("model_name"), answer.get("model_version"), headers.get("x-request-id"))
        is_right = status == 200 and said == wanted and named == (model, entry.version, request_id)
        entry.fate = Fate.RIGHT if is_right else Fate.WRONG
        entry.sentence = "" if is_right else f"{status} {body[:200]!r}"


class Rig:
    """Two replicas on one Redis, a Triton, and a model for each way to it and each strike."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        models = [f"{strike}-{scheme}" for strike in STRIKES for scheme in SCHEMES]
        scale_model(folder / "onnx" / "3")
        for model in models:
            (folder / "models").mkdir(exist_ok=True)
            (folder / "models" / model).symlink_to(folder / "onnx")
        self.background = stack.enter_context(Background())
        self.triton = stack.enter_context(TritonServer(folder / "triton", "scale", (3,)))
        redis = stack.enter_context(RedisServer())
        settings = {"store": {"url": redis.url}, "guards": {"unready_flip_s": UNREADY_FLIP_S}}
        self.replicas: list[GatewayProcess] = []
        for number in range(2):
            (place := folder / str(number)).mkdir()
            replica = GatewayProcess(place, models=folder / "models", settings=settings)
            self.replicas.append(stack.enter_context(replica))

    def is_ready(self, model: str) -> bool:
        return all(
            [variant["state"] for variant in replica.status(model).get("variants", [])] == ["ready", "ready"]
            for replica in self.replicas
        )

    def is_latched(self, model: str) -> bool:
        """The document says so, and both replicas serve it."""
        held = [(replica.document(model), replica.status(model)["revision"]) for replica in self.replicas]
        return all("triton" in document["guard"]["latched"] and document["revision"] == r for document, r in held)

    def storm(self, models: list[str], strike: Callable[[], None]) -> tuple[Ledger, float]:
        """Traffic around a strike, until all have turned to stable for good; when that began."""
        for model in models:
            with self.replicas[0].admin() as admin:
                made = admin.send("PUT", f"/admin/v1/routes/{model}", route(model, self.triton), {"if-none-match": "*"})
                assert made.status == 201, made.body
        for model in models:
            eventually(lambda model=model: self.is_ready(model), 20, "Triton to be ready")
        ports = [replica.data_port for replica in self.replicas]
        with Client(self.background, ports, Scaled(models), RATE) as client:
            time.sleep(HEALTHY_S)
            struck_s = time.monotonic()
            strike()
            for model in models:
                eventually(lambda model=model: self.is_latched(model), LATCH_S, f"the latch of {model}")
            time.sleep(HEALTHY_S)
        return client.ledger, struck_s


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(tmp_path_factory.mktemp("triton"), stack)


def shares(ledger: Ledger, until_s: float) -> set[str]:
    return {entry.version for entry in ledger.entries if entry.done_s and entry.done_s < until_s}


def test_a_triton_that_is_killed_costs_no_client_anything(rig: Rig) -> None:
    models = ["kill-http", "kill-grpc"]
    ledger, struck_s = rig.storm(models, rig.triton.kill)
    try:
        assert ledger.problems() == []
        assert shares(ledger, struck_s) == {"3", "triton"}
        late = [entry for entry in ledger.entries if entry.sent_s > struck_s + 0.5]
        assert {entry.version for entry in late} == {"3"}
        assert max(entry.took_s for entry in ledger.entries) < SLACK_S
        for model in models:
            reason = rig.replicas[0].document(model)["guard"]["latched"]["triton"]["reason"]
            assert reason.startswith(("unready: ", "errors: ", "fuse: ")), reason
    finally:
        rig.triton.start()


def test_a_triton_that_freezes_costs_clients_a_bounded_wait_and_no_answer(rig: Rig) -> None:
    models = ["stop-http", "stop-grpc"]
    ledger, struck_s = rig.storm(models, lambda: rig.triton.signal(signal.SIGSTOP))
    rig.triton.signal(signal.SIGCONT)
    assert ledger.problems() == []
    assert shares(ledger, struck_s) == {"3", "triton"}
    assert ledger.entries[-1].version == "3"
    assert max(entry.took_s for entry in ledger.entries) < CAP_S + SLACK_S
