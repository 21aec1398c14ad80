"""The product in one test: a crashing canary flips itself out while clients see nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.gateway_process import DEMO, GatewayProcess, corpus, eventually, stacked, statuses, storm

ROUTE = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}],
    "sticky": {"by": ["header:x-customer-id"]},
    "slo": {"errors": {"max_rate": 0.01}},
}


def broken_models(folder: Path) -> Path:
    """A model repository with credit 1, and credit 2 that fails above 4 rows."""
    models = folder / "models" / "credit"
    for version in ("1", "2"):
        (models / version).mkdir(parents=True)
    shutil.copy(DEMO / "models/credit/1/model.onnx", models / "1")
    subprocess.run(
        [
            sys.executable,
            str(DEMO / "scripts/break_model.py"),
            "crash",
            str(DEMO / "models/credit/2/model.onnx"),
            str(models / "2/model.onnx"),
        ],
        check=True,
    )
    return models.parent


def test_a_crashing_canary_flips_to_stable_and_no_client_sees_it(tmp_path: Path) -> None:
    models = broken_models(tmp_path)
    rows = corpus("credit")[:5]
    five_rows = stacked(rows)
    with GatewayProcess(tmp_path, routes=[ROUTE], models=models, settings={"store": {"url": "memory:"}}) as gateway:
        with gateway.client() as client:
            alone = client.infer("credit", rows[0]["request"], version="2")
            assert alone.status == 200, "the broken release answers small requests"
            assert client.infer("credit", five_rows, version="2").status == 500, "and fails above 4 rows"

        answers = storm(
            gateway.data_port, lambda client, n: client.infer("credit", five_rows, key=f"customer-{n}"), requests=2_000
        )

        assert statuses(answers) == {200: 2_000}
        for answer in answers:
            data = next(o["data"] for o in answer.json()["outputs"] if o["name"] == "probabilities")
            golden = [row["golden"]["1"] for row in rows]
            assert all(abs(p - g) < 1e-3 for p, g in zip(data[1::2], golden, strict=True))
            assert (answer.version, answer.role) == ("1", "stable")
        tried_twice = [answer for answer in answers if answer.headers["x-turnout-attempts"] == "2"]
        assert 1 <= len(tried_twice) <= 5 + 7, "charged attempts, and those in flight on the other connections"

        document = eventually(lambda: (d := gateway.document("credit"))["guard"]["latched"] and d, what="the latch")
        latch = document["guard"]["latched"]["2"]
        assert document["route"]["variants"][1] == {"version": "2", "weight_ppm": 0}
        assert document["intervals"]["pieces"] == {}
        assert 1 <= latch["evidence"]["counters"]["charged"] <= 5
        assert latch["evidence"]["objective"] in {"errors", "fuse"}
        assert "attempts" in latch["reason"]

        with gateway.client() as client:
            later = client.infer("credit", five_rows, key="customer-1")
            assert later.headers["x-turnout-revision"] == str(document["revision"]) == "2"
        refused = gateway.edit("credit", {"variants": ROUTE["variants"]})
        assert (refused.status, refused.json()["code"]) == (409, "latched")
