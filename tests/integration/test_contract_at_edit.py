"""Edits that bring a version in with weight, on a real gateway: what can be found out is found out first."""

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import FaultBackend
from tests.gateway_process import DEMO, Answered, GatewayProcess, corpus, eventually
from tests.triton_server import TritonServer, missing

SENTIMENT = corpus("sentiment")[0]["request"]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultBackend]:
    with FaultBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "models"
    shutil.copytree(DEMO / "models", folder)
    return folder


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GatewayProcess]:
    settings = {"store": {"url": "memory:"}}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), settings=settings, models=models) as process:
        yield process


def at(url: str) -> dict[str, Any]:
    return {"kind": "oip", "model": "credit", "version": "1", "url": url}


def sentiment(weight: float, **backends: Any) -> dict[str, Any]:
    return {
        "model": "sentiment",
        "stable": "1",
        "variants": [{"version": "1", "weight": 100 - weight}, {"version": "2", "weight": weight}],
        "backends": backends,
    }


def put(gateway: GatewayProcess, route: dict[str, Any], query: str = "") -> Answered:
    """Whatever there is now."""
    path = f"/admin/v1/routes/{route['model']}"
    with gateway.admin() as admin:
        etag = admin.send("GET", path).headers.get("etag")
        based_on = {"if-match": etag} if etag else {"if-none-match": "*"}
        return admin.send("PUT", path + query, route, based_on)


def refused(answer: Answered, version: str = "2") -> bool:
    if answer.status != 409:
        raise AssertionError(answer.body)
    found = answer.json()
    return found["code"] == "contract" and {p["version"] for p in found["problems"]} == {version}


@pytest.fixture
def fresh(gateway: GatewayProcess, server: FaultBackend) -> Iterator[None]:
    server.set("ok")
    yield
    with gateway.admin() as admin:
        for item in admin.send("GET", "/admin/v1/routes").json():
            path = f"/admin/v1/routes/{item['model']}"
            admin.send("DELETE", path, None, {"if-match": f'"{item["revision"]}"'})


@pytest.mark.usefixtures("fresh")
def test_a_canary_that_comes_with_weight_is_asked_for_its_metadata_before_the_edit(
    gateway: GatewayProcess, server: FaultBackend
) -> None:
    made = put(gateway, sentiment(20, **{"2": at(server.url)}))
    assert refused(made)
    assert "/inputs/text" in {problem["difference"] for problem in made.json()["problems"]}
    # Not only where the route is new.
    assert put(gateway, sentiment(0)).status == 201
    assert refused(gateway.edit("sentiment", sentiment(20, **{"2": at(server.url)})))
    only_stable = {"variants": [{"version": "1", "weight": 100}]}
    assert gateway.edit("sentiment", only_stable).status == 200
    assert refused(put(gateway, sentiment(20, **{"2": at(server.url)})))
    accepted = put(gateway, sentiment(20, **{"2": at(server.url)}), "?override=contract&reason=a+test")
    assert accepted.status == 200, accepted.body
    assert "warnings" not in accepted.json()
    with gateway.admin() as admin:
        metrics = admin.send("GET", "/metrics").body.decode()
    assert 'turnout_versions_described_total{result="described"}' in metrics


@pytest.mark.usefixtures("fresh")
def test_a_restore_and_another_backend_of_a_weighted_canary_are_asked_too(
    gateway: GatewayProcess, server: FaultBackend
) -> None:
    assert put(gateway, sentiment(20)).status == 201  # version 2 is in the model repository
    assert refused(gateway.edit("sentiment", {"backends": {"2": at(server.url)}}))
    accepted = put(gateway, sentiment(20, **{"2": at(server.url)}), "?override=contract&reason=a+test")
    assert accepted.status == 200
    revision = accepted.json()["revision"]
    assert put(gateway, {**sentiment(0), "variants": [{"version": "1", "weight": 100}]}).status == 200

    def is_forgotten() -> bool:
        return all(v["version"] != "2" for v in gateway.status("sentiment")["variants"])

    eventually(is_forgotten, what="the version to be gone from the workers")
    with gateway.admin() as admin:
        etag = admin.send("GET", "/admin/v1/routes/sentiment").headers["etag"]
        body = {"revision": revision, "reason": "again"}
        restored = admin.send("POST", "/admin/v1/routes/sentiment/restore", body, {"if-match": etag})
    assert refused(restored)


@pytest.mark.usefixtures("fresh")
def test_who_says_nothing_in_time_is_taken_with_a_warning(gateway: GatewayProcess, server: FaultBackend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begin_s = time.monotonic()
        made = put(gateway, sentiment(20, **{"2": at(silent_url)}))
        took_s = time.monotonic() - begin_s
    assert made.status == 201
    assert "'2' is not known yet" in made.json()["warnings"][0]
    assert 1.4 < took_s < 5
    assert gateway.edit("sentiment", {"backends": {"2": at("http://127.0.0.1:9")}}).json()["warnings"]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # one of several is enough
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}", server.url]
        assert refused(gateway.edit("sentiment", {"backends": {"2": {**at(""), "url": None, "urls": urls}}}))


@pytest.mark.usefixtures("fresh")
def test_a_file_that_came_after_the_start_is_read(gateway: GatewayProcess, models: Path) -> None:
    for version, source in (("7", "credit/1"), ("8", "sentiment/2")):
        shutil.copytree(models / source, models / "sentiment" / version)
    for version, is_fit in (("7", False), ("8", True)):
        route = {**sentiment(0), "variants": [{"version": "1", "weight": 90}, {"version": version, "weight": 10}]}
        with gateway.admin() as admin:
            path = "/admin/v1/routes/sentiment?dry_run=1"
            answer = admin.send("PUT", path, route, {"if-none-match": "*"})
        assert (answer.status == 200 and "warnings" not in answer.json()) if is_fit else refused(answer, version)


@pytest.mark.usefixtures("fresh")
def test_another_backend_of_stable_is_held_against_what_stable_was(
    gateway: GatewayProcess, server: FaultBackend
) -> None:
    assert put(gateway, sentiment(0)).status == 201
    swap = {"backends": {"1": at(server.url)}}
    answer = gateway.edit("sentiment", swap)
    assert refused(answer, "1")
    assert "/inputs/text" in {problem["difference"] for problem in answer.json()["problems"]}
    unknown = gateway.edit("sentiment", {"backends": {"1": at("http://127.0.0.1:9")}})
    assert refused(unknown, "1")
    assert "nobody can find out" in unknown.json()["error"]
    with gateway.client() as client:
        assert client.infer("sentiment", SENTIMENT).status == 200
    # The same build elsewhere is fine, and so is a person's word.
    assert gateway.edit("sentiment", {"backends": {"1": {"kind": "onnx", "threads": 2}}}).status == 200
    accepted = put(gateway, sentiment(0, **{"1": at(server.url)}), "?override=contract&reason=a+test")
    assert accepted.status == 200, accepted.body
    assert accepted.json()["guard"]["overridden"]["1"]["reason"] == "a test"


@pytest.mark.usefixtures("fresh")
def test_a_what_if_is_refused_as_the_put_would_be(gateway: GatewayProcess, server: FaultBackend) -> None:
    assert put(gateway, sentiment(0)).status == 201
    raised = sentiment(20, **{"2": at(server.url)})
    with gateway.admin() as admin:
        path = "/admin/v1/routes/sentiment/whatif"
        assert refused(admin.send("POST", path, raised))
        accepted = admin.send("POST", f"{path}?override=contract", raised)
        assert (accepted.status, accepted.json()["moved_ppm"]) == (200, 200_000)
        unknown = admin.send("POST", path, sentiment(20, **{"2": at("http://127.0.0.1:9")}))
        assert (unknown.status, len(unknown.json()["warnings"])) == (200, 1)
        assert (
            admin.send("GET", "/admin/v1/routes/sentiment").json()["revision"]
            == gateway.status("sentiment")["revision"]
        )


@pytest.mark.usefixtures("fresh")
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_triton_is_asked_over_http_and_grpc(gateway: GatewayProcess, tmp_path: Path) -> None:
    with TritonServer(tmp_path / "triton", "scale", (3,)) as triton:
        for url in (triton.url, triton.grpc_url):
            at_triton = {"kind": "triton", "model": "scale", "version": "3", "url": url}
            answer = put(gateway, sentiment(20, **{"2": at_triton}))
            assert refused(answer)
            assert "/inputs/x" in {problem["difference"] for problem in answer.json()["problems"]}
