"""What an edit asks for before it is made: versions that no worker has, another backend of stable; what-ifs."""

from collections.abc import Mapping, Sequence

from gateway.protocol.shapes import Signature
from tests.gateway.admin.plane import ROUTE, Plane, on_a_plane
from tests.gateway.admin.test_contracts import BAD, BREAKS, GOOD, SPEC, Loaded, on_a_loaded_plane, weights


class Asked:
    """What can be found out about versions that no worker has; counts how often that was tried."""

    def __init__(self, **versions: Signature) -> None:
        self.by_version = {name.removeprefix("v"): signature for name, signature in versions.items()}
        self.questions: list[list[str]] = []

    async def __call__(
        self, model: str, wanted: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], Sequence[Signature]]:
        assert model == "credit"
        self.questions.append([version for version, _ in wanted])
        return {build: [self.by_version[build[0]]] for build in wanted if build[0] in self.by_version}


def test_what_no_worker_has_is_asked_for_once_and_all_at_a_time() -> None:
    asked = Asked(v1=GOOD, v2=BAD)

    async def scenario(plane: Plane) -> None:
        answer = await plane.ask("PUT", "/routes/credit", ROUTE, if_none_match="*")
        assert (answer.status_code, answer.json()["code"]) == (409, "contract")
        assert asked.questions == [["1", "2"]]
        del asked.by_version["2"]
        answer = await plane.ask("PUT", "/routes/credit", ROUTE, if_none_match="*")
        assert (answer.status_code, len(answer.json()["warnings"])) == (201, 1)
        assert asked.questions == [["1", "2"]] * 2

    on_a_plane(scenario, signatures=Loaded(), describe=asked)()


def test_nobody_is_asked_about_what_workers_know_or_the_edit_does_not_raise() -> None:
    asked = Asked()

    async def scenario(plane: Plane) -> None:
        await plane.create()
        assert (await plane.ask("PATCH", "/routes/credit", weights(99, 1), if_match="1")).status_code == 200
        assert not asked.questions

    on_a_plane(scenario, signatures=Loaded(v1=GOOD, v2=GOOD), describe=asked)()


def test_a_version_that_was_described_and_is_loaded_nowhere_does_not_become_stable() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        answer = await plane.ask("PATCH", "/routes/credit", {"stable": "2", **weights(50, 50)}, if_match="1")
        assert (answer.status_code, answer.json()["problems"][0]["kind"]) == (409, "unknown")

    on_a_plane(scenario, signatures=Loaded(v1=GOOD), describe=Asked(v2=GOOD))()


def test_another_backend_of_stable_itself_is_held_against_what_stable_was() -> None:
    loaded, asked = Loaded(v1=GOOD), Asked(v1=BAD)
    swap = {"backends": {"1": SPEC.model_dump(mode="json")}}

    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        answer = await plane.ask("PATCH", "/routes/credit", swap, if_match="1")
        assert (answer.status_code, answer.json()["problems"][0]["pointer"]) == (409, "/variants/0")
        assert [problem["message"] for problem in answer.json()["problems"]] == [f"version '1': {s}" for s in BREAKS]
        del asked.by_version["1"]
        answer = await plane.ask("PATCH", "/routes/credit", swap, if_match="1")
        assert (answer.status_code, answer.json()["problems"][0]["kind"]) == (409, "unknown")
        path = "/routes/credit?override=contract&reason=it+moves"
        assert (await plane.ask("PATCH", f"{path}&dry_run=1", swap, if_match="1")).status_code == 200
        asked.by_version["1"] = GOOD
        answer = await plane.ask("PATCH", "/routes/credit", swap, if_match="1")
        assert (answer.status_code, "warnings" in answer.json()) == (200, False)

    on_a_plane(scenario, signatures=loaded, describe=asked)()


def test_where_nobody_knows_what_stable_was_its_other_backend_is_taken_with_a_warning() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        swap = {"backends": {"1": SPEC.model_dump(mode="json")}}
        answer = await plane.ask("PATCH", "/routes/credit", swap, if_match="1")
        assert answer.status_code == 200
        assert "nobody knows what stable took" in answer.json()["warnings"][0]

    on_a_plane(scenario, signatures=Loaded(), describe=Asked())()


def test_a_what_if_is_refused_and_warned_of_as_the_write_would_be() -> None:
    loaded = Loaded(v1=GOOD, v2=BAD)

    async def scenario(plane: Plane) -> None:
        await plane.create(**weights(100, 0))
        refused = await plane.ask("POST", "/routes/credit/whatif", ROUTE)
        written = await plane.ask("PUT", "/routes/credit", ROUTE, if_match="1")
        assert (refused.status_code, refused.json()) == (409, written.json())
        assert (await plane.ask("POST", "/routes/credit/whatif?override=all", ROUTE)).status_code == 400
        accepted = await plane.ask("POST", "/routes/credit/whatif?override=contract", ROUTE)
        assert (accepted.status_code, accepted.json()["moved_ppm"]) == (200, 50_000)
        del loaded.by_version["2"]
        assert len((await plane.ask("POST", "/routes/credit/whatif", ROUTE)).json()["warnings"]) == 1
        assert len(await plane.store.history("credit")) == 1

    on_a_loaded_plane(loaded, scenario)
