"""Clients that people have: tritonclient as it is, the requests of perf_analyzer and of the KServe SDK, version 1."""

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.faults import FaultBackend, label_of, probability_of
from tests.gateway_process import GatewayProcess, corpus, stacked

CREDIT = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 50}, {"version": "2", "weight": 50}],
    "sticky": {"by": ["header:x-customer-id"]},
    "shadows": [{"version": "3", "sample": 0}],
}
SENTIMENT = {"model": "sentiment", "stable": "1", "variants": [{"version": "1", "weight": 100}]}
ROWS = corpus("credit")[:8]
TEXTS = corpus("sentiment")[:8]


@pytest.fixture(scope="module")
def remote() -> Iterator[FaultBackend]:
    with FaultBackend("credit", "1") as backend:
        yield backend


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, remote: FaultBackend) -> Iterator[GatewayProcess]:
    far = {
        "model": "far",
        "stable": "1",
        "variants": [{"version": "1", "weight": 100}],
        "backends": {"1": {"kind": "oip", "url": remote.url, "model": "credit", "version": "1"}},
    }
    folder: Path = tmp_path_factory.mktemp("gateway")
    settings = {"store": {"url": "memory:"}}
    with GatewayProcess(folder, routes=[CREDIT, SENTIMENT, far], settings=settings) as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{gateway.data_port}") as made:
        yield made


def tensors(body: dict[str, Any], *, binary: bool, module: Any = triton) -> list[Any]:
    """The inputs of a corpus request as tritonclient's."""
    made = []
    for item in body["inputs"]:
        tensor = module.InferInput(item["name"], item["shape"], item["datatype"])
        dtype = np.object_ if item["datatype"] == "BYTES" else np.float32
        tensor.set_data_from_numpy(np.array(item["data"], dtype).reshape(item["shape"]), binary_data=binary)
        made.append(tensor)
    return made


def wanted(*names: str, binary: bool, **more: Any) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary, **more) for name in names]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_tritonclient_gets_the_golden_answers(client: Any, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None if binary_out is None else wanted("probabilities", "label", binary=binary_out)
    for version in ("1", "2"):
        found = client.infer("credit", tensors(stacked(ROWS), binary=binary_in), version, outputs, request_id="r-7")
        assert found.get_response()["id"] == "r-7"
        assert (found.get_response()["model_name"], found.get_response()["model_version"]) == ("credit", version)
        probabilities, labels = found.as_numpy("probabilities"), found.as_numpy("label")
        assert probabilities.shape == (8, 2)
        assert labels.dtype == np.int64
        assert np.allclose(probabilities[:, 1], [row["golden"][version] for row in ROWS], atol=1e-3)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_sends_strings(client: Any, binary: bool) -> None:
    found = client.infer(
        "sentiment", tensors(stacked(TEXTS), binary=binary), outputs=wanted("probabilities", binary=binary)
    )
    assert np.allclose(found.as_numpy("probabilities")[:, 1], [row["golden"]["1"] for row in TEXTS], atol=1e-3)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_reaches_a_remote_version(client: Any, binary: bool) -> None:
    body = stacked(ROWS)
    outputs = wanted("probabilities", binary=binary)
    found = client.infer("far", tensors(body, binary=binary), outputs=outputs if not binary else None)
    rows = np.array(body["inputs"][0]["data"], np.float32).reshape(8, 7).tolist()
    assert np.allclose(found.as_numpy("probabilities")[:, 1], [probability_of(row) for row in rows], atol=1e-6)


def test_tritonclient_asks_for_classes(client: Any) -> None:
    found = client.infer(
        "credit", tensors(stacked(ROWS), binary=True), "1", wanted("probabilities", binary=True, class_count=1)
    )
    for (best,), row in zip(found.as_numpy("probabilities"), ROWS, strict=True):
        value, index = best.decode().split(":")
        assert int(index) == int(row["golden"]["1"] > 0.5)
        assert abs(float(value) - max(row["golden"]["1"], 1 - row["golden"]["1"])) < 1e-3


def test_tritonclient_reads_everything_about_a_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("credit")
    assert client.is_model_ready("credit", "3")
    assert not client.is_model_ready("nope")
    assert {"binary_tensor_data", "statistics"} <= set(client.get_server_metadata()["extensions"])
    assert client.get_model_metadata("credit")["inputs"][0] == {
        "name": "numeric",
        "datatype": "FP32",
        "shape": [-1, 7],
    }
    assert client.get_model_config("credit", "2") == {
        "name": "credit",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [
            {"name": "numeric", "data_type": "TYPE_FP32", "dims": [-1, 7]},
            {"name": "categorical", "data_type": "TYPE_STRING", "dims": [-1, 11]},
        ],
        "output": [
            {"name": "label", "data_type": "TYPE_INT64", "dims": [-1]},
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [-1, 2]},
        ],
    }
    with pytest.raises(InferenceServerException, match="no model 'nope'"):
        client.get_model_config("nope")
    index = {(entry["name"], entry["version"]): entry["state"] for entry in client.get_model_repository_index()}
    assert index["credit", "3"] == index["sentiment", "2"] == index["far", "1"] == "READY"


def test_statistics_move_with_every_request(client: Any) -> None:
    def stats(model: str, version: str) -> Any:
        (found,) = client.get_inference_statistics(model, version)["model_stats"]
        return found

    for model, version, rows in (("credit", "1", 8), ("far", "1", 1)):
        before = stats(model, version)
        for _ in range(3):
            client.infer(model, tensors(stacked(ROWS), binary=True), version)
        after = stats(model, version)
        assert (after["name"], after["version"]) == (model, version)
        assert after["inference_count"] - before["inference_count"] == 3 * rows
        assert after["execution_count"] - before["execution_count"] == 3
        success = [s["inference_stats"]["success"] for s in (before, after)]
        assert success[1]["count"] - success[0]["count"] == 3
        assert success[1]["ns"] > success[0]["ns"]
        assert after["last_inference"] >= before["last_inference"]
        assert after["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
    every = {(s["name"], s["version"]) for s in client.get_inference_statistics()["model_stats"]}
    assert {("credit", "1"), ("credit", "2"), ("credit", "3"), ("far", "1"), ("sentiment", "2")} <= every
    assert [s["version"] for s in client.get_inference_statistics("credit")["model_stats"]] == ["1", "2", "3"]


def test_a_failing_remote_version_shows_in_its_statistics(client: Any, remote: FaultBackend) -> None:
    before = client.get_inference_statistics("far", "1")["model_stats"][0]["inference_stats"]
    remote.set("error_500")
    with pytest.raises(InferenceServerException):
        client.infer("far", tensors(stacked(ROWS), binary=True))
    remote.set("ok")
    after = client.get_inference_statistics("far", "1")["model_stats"][0]["inference_stats"]
    assert after["fail"]["count"] == before["fail"]["count"] + 1
    assert after["success"]["count"] == before["success"]["count"]


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_aio(gateway: GatewayProcess, binary: bool) -> None:
    async def scenario() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{gateway.data_port}") as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready("credit")
            assert (await client.get_model_config("sentiment"))["max_batch_size"] == 0
            assert await client.get_model_repository_index()
            assert (await client.get_inference_statistics("credit"))["model_stats"]
            found = await asyncio.gather(
                *(
                    client.infer("credit", tensors(row["request"], binary=binary, module=triton_aio), "1")
                    for row in ROWS
                )
            )
            for answer, row in zip(found, ROWS, strict=True):
                assert abs(answer.as_numpy("probabilities")[0, 1] - row["golden"]["1"]) < 1e-3

    asyncio.run(scenario())


def test_the_requests_of_perf_analyzer(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        assert "statistics" in client.send("GET", "/v2").json()["extensions"]
        assert client.send("GET", "/v2/models/credit").json()["versions"] == ["1", "2", "3"]
        assert client.send("GET", "/v2/models/credit/config").json()["max_batch_size"] == 0
        for _ in range(2):
            assert client.send("GET", "/v2/models/credit/stats").json()["model_stats"]
        body = json.dumps(stacked(ROWS)).encode()
        answer = client.send(
            "POST", "/v2/models/credit/infer", body, {"inference-header-content-length": str(len(body))}
        )
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["outputs"][0]["shape"] == [8]


def test_health_is_what_the_kserve_sdk_reads(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        assert client.send("GET", "/v2/health/live").json() == {"live": True}
        assert client.send("GET", "/v2/health/ready").json() == {"ready": True}
        assert client.send("GET", "/v2/models/credit/ready").json() == {"name": "credit", "ready": True}
        assert client.send("GET", "/v1/models/credit").json() == {"name": "credit", "ready": True}
        assert client.send("GET", "/v1/models/nope").status == 404


def instances(rows: list[dict[str, Any]]) -> list[Any]:
    return [{item["name"]: item["data"] for item in row["request"]["inputs"]} for row in rows]


@pytest.mark.parametrize("version", ["1", "2", None])
def test_version_1_predicts_rows(gateway: GatewayProcess, version: str | None) -> None:
    place = "/v1/models/credit" + (f"/versions/{version}" if version else "") + ":predict"
    with gateway.client() as client:
        answer = client.send("POST", place, {"instances": instances(ROWS)}, {"x-customer-id": "c-1"})
        assert answer.role == ("pinned" if version else {"1": "stable", "2": "canary"}[answer.version or ""])
        assert answer.headers["x-turnout-attempts"] == "1"
    assert version in {answer.version, None}
    for prediction, row in zip(answer.json()["predictions"], ROWS, strict=True):
        assert set(prediction) == {"label", "probabilities"}
        assert abs(prediction["probabilities"][1] - row["golden"][answer.version]) < 1e-3


def test_version_1_takes_bare_values_where_there_is_one_input(gateway: GatewayProcess) -> None:
    texts = [row["request"]["inputs"][0]["data"][0] for row in TEXTS]
    with gateway.client() as client:
        bare = client.send("POST", "/v1/models/sentiment:predict", {"instances": texts}).json()
        named = client.send("POST", "/v1/models/sentiment:predict", {"instances": [{"text": t} for t in texts]}).json()
    assert bare == named
    assert [p["label"] for p in bare["predictions"]] == [
        ("negative", "positive")[row["golden"]["1"] > 0.5] for row in TEXTS
    ]


def test_version_1_reaches_a_remote_version(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        found = client.send("POST", "/v1/models/far:predict", {"instances": instances(ROWS)}).json()["predictions"]
    for prediction, row in zip(found, ROWS, strict=True):
        numbers = row["request"]["inputs"][0]["data"]
        assert prediction["label"] == label_of(numbers)
        assert abs(prediction["probabilities"][1] - probability_of(numbers)) < 1e-6


BAD_INSTANCES: dict[str, tuple[Any, str]] = {
    "no instances": ({}, "missing or empty"),
    "none at all": ({"instances": []}, "missing or empty"),
    "no list": ({"instances": {"numeric": []}}, "missing or empty"),
    "bare values for two inputs": ({"instances": [1, 2]}, "exactly 'numeric', 'categorical'"),
    "an input missing": ({"instances": [{"numeric": [0] * 7}]}, "exactly 'numeric', 'categorical'"),
    "rows of different length": (
        {"instances": [*instances(ROWS[:1]), {"numeric": [0] * 6, "categorical": ["a"] * 11}]},
        "unevenly",
    ),
    "strings of different length": (
        {"instances": [*instances(ROWS[:1]), {"numeric": [0] * 7, "categorical": ["a"] * 10}]},
        "unevenly",
    ),
    "null": ({"instances": [{"numeric": [None] * 7, "categorical": ["a"] * 11}]}, "no FP32"),
    "no JSON": (b"{", "no valid JSON"),
    "parameters no object": ({"instances": instances(ROWS), "parameters": 1}, "not an object"),
}


@pytest.mark.parametrize("case", BAD_INSTANCES)
def test_bad_instances_are_400_with_a_sentence(gateway: GatewayProcess, case: str) -> None:
    body, words = BAD_INSTANCES[case]
    with gateway.client() as client:
        answer = client.send("POST", "/v1/models/credit:predict", body)
    assert (answer.status, words in answer.json()["error"]) == (400, True), answer.body


def test_a_remote_answer_that_has_no_rows_is_502_in_version_1(gateway: GatewayProcess, remote: FaultBackend) -> None:
    with gateway.client() as client:
        for mode in ("wrong_shape", "nan"):
            remote.set(mode)
            answer = client.send("POST", "/v1/models/far:predict", {"instances": instances(ROWS)})
            remote.set("ok")
            assert answer.status == 502, (mode, answer.body)
            assert b"null" not in answer.body
            assert answer.version == "1"


def test_a_compressed_body_is_answered_as_the_plain_one(gateway: GatewayProcess) -> None:
    body = json.dumps(stacked(ROWS)).encode()
    path, key = "/v2/models/credit/versions/1/infer", {"x-customer-id": "c"}
    with gateway.client() as client:
        plain = client.send("POST", path, body, key)
        packed = client.send("POST", path, gzip.compress(body), {"content-encoding": "gzip", **key})
        assert (packed.status, packed.body) == (200, plain.body)
