"""Writes that trust a version with more are held against stable's contract first."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.protocol.shapes import Signature, TensorSpec
from routing.table import ONNX_DEFAULT, OipSpec, OnnxSpec, TritonSpec
from tests.gateway.admin.plane import ROUTE, Plane, on_a_plane

X = TensorSpec("x", "FP32", (-1, 4))
SCORE = TensorSpec("score", "FP32", (-1,))
GOOD = Signature("onnx", (X,), (SCORE,))
BAD = Signature("onnx", (TensorSpec("x", "FP64", (-1, 4)),), (TensorSpec("score", "FP32", (-1, 2)),))
BREAKS = ["input 'x' is FP64, stable's is FP32", "output 'score' is of shape [-1, 2], stable's is [-1]"]
SPEC = OipSpec(kind="oip", url="http://127.0.0.1:9000")


class Loaded:
    """What workers know; tests change it."""

    def __init__(self, **versions: Signature) -> None:
        self.by_version = {name.removeprefix("v"): [signature] for name, signature in versions.items()}
        self.specs: dict[str, OnnxSpec | OipSpec | TritonSpec] = {}

    async def __call__(self, model: str) -> Mapping[tuple[str, str], Sequence[Signature]]:
        assert model == "credit"
        return {(v, self.specs.get(v, ONNX_DEFAULT).model_dump_json()): found for v, found in self.by_version.items()}


def weights(stable: float, canary: float) -> dict[str, Any]:
    return {"variants": [{"version": "1", "weight": stable}, {"version": "2", "weight": canary}]}


def on_a_loaded_plane(loaded: Loaded, test: Any) -> None:
    on_a_plane(test, signatures=loaded)()


def test_a_write_that_raises_a_version_that_breaks_the_contract_is_refused_with_every_difference() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        for method, body in (("PUT", ROUTE), ("PATCH", weights(90, 10))):
            for query in ("", "?dry_run=1"):
                answer = await plane.ask(method, f"/routes/credit{query}", body, if_match="1")
                assert (answer.status_code, answer.json()["code"]) == (409, "contract")
                assert answer.json()["problems"] == [
                    {
                        "pointer": "/variants/1",
                        "code": "contract",
                        "message": f"version '2': {said}",
                        "version": "2",
                        "difference": difference,
                        "kind": kind,
                    }
                    for said, difference, kind in zip(
                        BREAKS, ["/inputs/x/datatype", "/outputs/score/shape"], ["datatype", "shape"], strict=True
                    )
                ]
        assert len(await plane.store.history("credit")) == 1

    on_a_loaded_plane(Loaded(v1=GOOD, v2=BAD), scenario)


def test_creating_and_restoring_are_held_against_the_contract_too() -> None:
    loaded = Loaded(v1=GOOD, v2=GOOD)

    async def scenario(plane: Plane) -> None:
        await plane.create()
        await plane.ask("PATCH", "/routes/credit", weights(100, 0), if_match="1")
        loaded.by_version["2"] = [BAD]
        body = {"revision": 1, "reason": "again"}
        answer = await plane.ask("POST", "/routes/credit/restore", body, if_match="2")
        assert (answer.status_code, answer.json()["code"]) == (409, "contract")
        assert (await plane.ask("DELETE", "/routes/credit", if_match="2")).status_code == 200
        answer = await plane.ask("PUT", "/routes/credit", ROUTE, if_none_match="*")
        assert (answer.status_code, answer.json()["code"]) == (409, "contract")
        answer = await plane.ask("POST", "/routes/credit/restore?override=contract", body, if_none_match="*")
        assert answer.status_code == 201, answer.text
        assert answer.json()["guard"]["overridden"]["2"]["reason"] == "again"

    on_a_loaded_plane(loaded, scenario)


def test_an_override_needs_a_reason_and_stands_in_the_history_and_the_document() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        path = "/routes/credit?override=contract"
        assert (await plane.ask("PATCH", path, weights(95, 5), if_match="1")).status_code == 400
        refused = await plane.ask("PATCH", "/routes/credit?override=yes", weights(95, 5), if_match="1")
        assert refused.status_code == 400
        answer = await plane.ask("PATCH", f"{path}&reason=clients+know", weights(95, 5), if_match="1")
        assert answer.status_code == 200, answer.text
        said = {"at": "2025-06-15T15:06:40.000Z", "actor": "olga", "reason": "clients know", "breaks": BREAKS}
        assert answer.json()["guard"] == {"latched": {}, "overridden": {"2": said}}
        entry = (await plane.store.history("credit"))[-1]
        assert (entry.actor, entry.reason) == ("olga", "clients know")
        assert entry.evidence == {"override": "contract", "breaks": {"2": BREAKS}}
        # It covers what it named, for further raises too, and nothing else.
        assert (await plane.ask("PATCH", "/routes/credit", weights(90, 10), if_match="2")).status_code == 200
        assert (await plane.store.history("credit"))[-1].evidence is None

    on_a_loaded_plane(Loaded(v1=GOOD, v2=BAD), scenario)


def test_an_override_does_not_cover_a_break_that_it_did_not_name() -> None:
    loaded = Loaded(v1=GOOD, v2=BAD)

    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        path = "/routes/credit?override=contract&reason=known"
        assert (await plane.ask("PATCH", path, weights(95, 5), if_match="1")).status_code == 200
        loaded.by_version["2"] = [Signature("", BAD.inputs, (*BAD.outputs, TensorSpec("why", "BYTES", (-1,))))]
        answer = await plane.ask("PATCH", "/routes/credit", weights(90, 10), if_match="2")
        assert answer.status_code == 409
        assert [problem["difference"] for problem in answer.json()["problems"]] == ["/outputs/why"]
        # One that gains nothing is left to the workers; an override accepts what they found since.
        assert (await plane.ask("PATCH", "/routes/credit", {"enforce": False}, if_match="2")).status_code == 200
        answer = await plane.ask("PATCH", path, {}, if_match="3")
        assert len(answer.json()["guard"]["overridden"]["2"]["breaks"]) == 3
        assert (await plane.ask("PATCH", path, {}, if_match="4")).json()["revision"] == 4

    on_a_loaded_plane(loaded, scenario)


def test_an_override_goes_with_the_build_it_was_given_for() -> None:
    loaded = Loaded(v1=GOOD, v2=BAD)
    loaded.specs["2"] = SPEC

    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0), backends={"2": SPEC.model_dump(mode="json")})
        path = "/routes/credit?override=contract&reason=known"
        assert (await plane.ask("PATCH", path, weights(95, 5), if_match="1")).status_code == 200
        other = {"backends": {"2": {"url": "http://127.0.0.1:9001"}}}
        answer = await plane.ask("PATCH", "/routes/credit", other, if_match="2")
        assert answer.status_code == 200, answer.text
        assert answer.json()["guard"] == {"latched": {}}
        assert "'2' is not known yet" in answer.json()["warnings"][0]

    on_a_loaded_plane(loaded, scenario)


def test_a_version_that_is_not_loaded_passes_with_a_warning() -> None:
    async def scenario(plane: Plane) -> None:
        answer = await plane.create()
        assert len(answer.json()["warnings"]) == 1
        assert "warnings" not in (await plane.ask("GET", "/routes/credit")).json()
        preview = await plane.ask("PATCH", "/routes/credit?dry_run=1", weights(90, 10), if_match="1")
        assert len(preview.json()["warnings"]) == 1
        lowered = await plane.ask("PATCH", "/routes/credit", weights(99, 1), if_match="1")
        assert "warnings" not in lowered.json()

    on_a_loaded_plane(Loaded(v1=GOOD), scenario)


def test_a_new_stable_is_held_against_the_old_one_and_the_others_against_it() -> None:
    wider = Signature("", (X,), (TensorSpec("score", "FP32", (-1, 2)),))

    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        promoted = {"stable": "2", **weights(0, 100)}
        answer = await plane.ask("PATCH", "/routes/credit", promoted, if_match="1")
        assert (answer.status_code, answer.json()["problems"][0]["pointer"]) == (409, "/variants/1")
        both = {"stable": "2", **weights(50, 50)}
        answer = await plane.ask("PATCH", "/routes/credit", both, if_match="1")
        assert [problem["version"] for problem in answer.json()["problems"]] == ["2", "1"]

    on_a_loaded_plane(Loaded(v1=GOOD, v2=wider), scenario)


def test_nobody_becomes_stable_before_it_has_said_what_it_takes() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        promoted = {"stable": "2", **weights(50, 50)}
        answer = await plane.ask("PATCH", "/routes/credit", promoted, if_match="1")
        assert (answer.status_code, answer.json()["code"]) == (409, "contract")
        assert "nobody knows yet what it takes and answers" in answer.json()["problems"][0]["message"]
        accepted = "/routes/credit?override=contract&reason=stable+is+gone+for+good"
        assert (await plane.ask("PATCH", accepted, promoted, if_match="1")).status_code == 200

    on_a_loaded_plane(Loaded(v1=GOOD), scenario)


def test_a_stable_that_never_described_itself_keeps_nobody_from_its_place() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        answer = await plane.ask("PATCH", "/routes/credit", {"stable": "2", **weights(0, 100)}, if_match="1")
        assert answer.status_code == 200

    on_a_loaded_plane(Loaded(), scenario)


def test_workers_that_met_different_builds_are_all_believed() -> None:
    loaded = Loaded(v1=GOOD)
    loaded.by_version["2"] = [GOOD, BAD]

    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        answer = await plane.ask("PATCH", "/routes/credit", weights(90, 10), if_match="1")
        assert (answer.status_code, len(answer.json()["problems"])) == (409, 2)

    on_a_loaded_plane(loaded, scenario)


def test_a_latch_is_told_before_a_broken_contract() -> None:
    loaded = Loaded(v1=GOOD, v2=GOOD)

    async def scenario(plane: Plane) -> None:
        await plane.create()
        await plane.ask("POST", "/routes/credit/flip", {"reason": "bad"})
        loaded.by_version["2"] = [BAD]
        path = "/routes/credit?override=contract&reason=known"
        answer = await plane.ask("PATCH", path, weights(90, 10), if_match="2")
        assert (answer.status_code, answer.json()["code"]) == (409, "latched")

    on_a_loaded_plane(loaded, scenario)
