from collections.abc import Sequence

import orjson
import pytest

from routing.codec import as_json, decode, encode
from routing.document import RouteDocument
from routing.errors import OutcomeUnknown, Problem, StoreUnavailable
from routing.store import Draft, MemoryStore, Record, write
from routing.table import Route
from tests.gateway.admin.plane import ROUTE, Plane, on_a_plane

ALL_ON_2 = {"stable": "2", "variants": [{"version": "2", "weight": 100}]}
TEN_PERCENT = {"variants": [{"version": "1", "weight": 90}, {"version": "2", "weight": 10}]}


@on_a_plane
async def test_a_created_route_is_read_back_as_its_document(plane: Plane) -> None:
    created = await plane.create()
    assert created.headers["etag"] == '"1"'
    assert created.headers["location"] == "/admin/v1/routes/credit"
    read = await plane.ask("GET", "/routes/credit", who="vera")
    assert (read.status_code, read.headers["etag"], read.json()) == (200, '"1"', created.json())
    document = read.json()
    assert [*document] == ["schema", "revision", "change_id", "route", "intervals", "epoch", "guard", "rollout"]
    assert document["route"]["variants"] == [
        {"version": "1", "weight_ppm": 950_000},
        {"version": "2", "weight_ppm": 50_000},
    ]
    assert document["intervals"] == {"draw": 0, "pieces": {"2": [[0, 50_000]]}}


@on_a_plane
async def test_the_list_says_the_main_things(plane: Plane) -> None:
    await plane.create()
    await plane.ask("PUT", "/routes/aa", ALL_ON_2, if_none_match="*")
    await plane.ask("POST", "/routes/credit/flip", {"reason": "bad"})
    answer = await plane.ask("GET", "/routes", who="vera")
    assert answer.json() == [
        {"model": "aa", "revision": 1, "stable": "2", "weights_ppm": {"2": 1_000_000}, "latched": []},
        {"model": "credit", "revision": 2, "stable": "1", "weights_ppm": {"1": 1_000_000, "2": 0}, "latched": ["2"]},
    ]


@on_a_plane
async def test_one_document_that_cannot_be_read_hides_no_other(plane: Plane) -> None:
    await plane.create()

    def newer(_record: Record | None) -> Draft:
        return Draft(1, b'{"schema": 99, "route": {"model": "new"}}', "put")

    def broken(_record: Record | None) -> Draft:
        return Draft(1, b"{", "put")

    for model, build in (("new", newer), ("odd", broken)):
        await write(plane.store, model, build, actor="x", reason="", at=0, change_id="0" * 32)
    listed = (await plane.ask("GET", "/routes")).json()
    assert [item["model"] for item in listed] == ["credit", "new", "odd"]
    assert "schema 99" in listed[1]["error"]
    answer = await plane.ask("GET", "/routes/new")
    assert (answer.status_code, answer.json()["code"]) == (409, "newer_schema")
    answer = await plane.ask("GET", "/routes/odd")
    assert answer.status_code == 500
    assert "cannot be read" in answer.json()["error"]


@on_a_plane
async def test_a_write_that_changes_nothing_makes_no_revision(plane: Plane) -> None:
    created = (await plane.create()).json()
    for method, body in (("PUT", ROUTE), ("PUT", created["route"]), ("PATCH", {}), ("PATCH", created["route"])):
        answer = await plane.ask(method, "/routes/credit", body, if_match="1")
        assert (answer.status_code, answer.json()) == (200, created)
    assert (await plane.ask("PUT", "/routes/credit", ROUTE, if_match="2")).status_code == 412


@on_a_plane
async def test_a_patch_merges_and_null_removes(plane: Plane) -> None:
    await plane.create(slo={"errors": {"max_rate": 0.01}})
    patch = {
        "sticky": None,
        "slo": {"latency": {"p99_ms": 50}},
        "variants": [{"version": "1", "weight_ppm": 1_000_000}],
    }
    answer = await plane.ask("PATCH", "/routes/credit", patch, if_match="1")
    route = answer.json()["route"]
    assert route["sticky"] is None
    assert (route["slo"]["errors"]["max_rate"], route["slo"]["latency"]["p99_ms"]) == (0.01, 50)
    assert route["variants"] == [{"version": "1", "weight_ppm": 1_000_000}]
    answer = await plane.ask("PATCH", "/routes/credit", {"slo": None}, if_match="2")
    assert answer.json()["route"]["slo"] is None


@on_a_plane
async def test_a_key_of_a_newer_release_survives_a_patch(plane: Plane) -> None:
    def build(_record: Record | None) -> Draft:
        plain = created | {"revision": 2, "someday": 1}
        plain["route"] = plain["route"] | {"tags": ["x"]}
        return Draft(2, orjson.dumps(plain), "put")

    created = (await plane.create()).json()
    await write(plane.store, "credit", build, actor="x", reason="", at=0, change_id="0" * 32)
    answer = await plane.ask("PATCH", "/routes/credit", TEN_PERCENT, if_match="2")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["someday"], answer.json()["route"]["tags"]) == (1, ["x"])


def only_loopback(route: Route) -> Sequence[Problem]:
    return [Problem(f"/backends/{v}/url", "host", "this host is not allowed") for v in route.backends]


def test_every_problem_is_told_with_its_place() -> None:
    async def scenario(plane: Plane) -> None:
        bad = {
            "model": "debit",
            "stable": 1,
            "variants": [{"version": "1", "weight": 120}, {"version": "2", "wieght": 5}],
            "colour": "red",
        }
        answer = await plane.ask("PUT", "/routes/credit", bad, if_none_match="*")
        assert answer.status_code == 422
        found = {problem["pointer"]: problem["code"] for problem in answer.json()["problems"]}
        assert found["/model"] == "mismatch"
        assert found["/colour"] == "unknown_key"
        assert found["/variants/1/wieght"] == "unknown_key"
        assert {"/stable", "/variants/0/weight", "/variants/1/weight_ppm"} <= found.keys()
        assert all(problem["message"] for problem in answer.json()["problems"])
        remote = {"2": {"kind": "oip", "url": "http://169.254.169.254:80"}}
        answer = await plane.ask("PUT", "/routes/credit", ROUTE | {"backends": remote}, if_none_match="*")
        assert (answer.status_code, answer.json()["problems"][0]["pointer"]) == (422, "/backends/2/url")
        await plane.create()
        answer = await plane.ask("PATCH", "/routes/credit", {"model": "debit", "backends": remote}, if_match="1")
        assert [p["pointer"] for p in answer.json()["problems"]] == ["/model", "/backends/2/url"]

    on_a_plane(scenario, check_route=only_loopback)()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "json"),
        (b"{", "json"),
        (b"\xff\xfe", "json"),
        (b'{"stable": "1", "stable": "2"}', "json"),
        (b'{"stable": NaN}', "json"),
        (b"[]", "type"),
        (b"null", "type"),
        (b'{"stable": "\\ud800"}', "text"),
        (b'{"\\ud800": 1}', "text"),
        (b'{"variants": [{"version": "1", "weight": 1e999}]}', "range"),
        (b'{"variants": [{"version": "1", "weight": 1' + b"0" * 400 + b"}]}", "range"),
        (b'{"rollout": ' + b"[" * 200 + b"]" * 200 + b"}", "depth"),
        (b"[" * 200_000, "json"),
    ],
)
def test_a_body_that_is_no_document_is_422(body: bytes, code: str) -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        for method in ("PUT", "PATCH"):
            answer = await plane.ask(method, "/routes/credit", body, if_match="1")
            assert answer.status_code == 422
            assert code in {problem["code"] for problem in answer.json()["problems"]}
        assert len(await plane.store.history("credit")) == 1

    on_a_plane(scenario)()


@on_a_plane
async def test_a_large_body_is_413(plane: Plane) -> None:
    body = b'{"stable": "' + b"x" * (1 << 20) + b'"}'
    for method, path in (("PUT", "/routes/credit"), ("POST", "/routes/credit/flip")):
        answer = await plane.ask(method, path, body, if_none_match="*")
        assert answer.status_code == 413
        assert "1048576 bytes" in answer.json()["error"]


@on_a_plane
async def test_a_dry_run_tells_and_changes_nothing(plane: Plane) -> None:
    created = (await plane.create()).json()
    before = await plane.contents()
    answer = await plane.ask("PATCH", "/routes/credit?dry_run=1", TEN_PERCENT, if_match="1")
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    told = answer.json()
    assert (told["dry_run"], told["would_change"], told["document"]["revision"]) == (True, True, 2)
    assert {"pointer": "/route/variants/1/weight_ppm", "before": 50_000, "after": 100_000} in told["diff"]
    answer = await plane.ask("PATCH", "/routes/credit?dry_run=1", {}, if_match="1")
    assert answer.json() == {"dry_run": True, "would_change": False, "document": created, "diff": []}
    answer = await plane.ask("PUT", "/routes/new?dry_run=1", ALL_ON_2, if_none_match="*")
    assert (answer.status_code, answer.json()["diff"][0]["before"]) == (200, None)
    answer = await plane.ask("DELETE", "/routes/credit?dry_run=1", if_match="1")
    assert answer.json()["document"]["deleted"] is True
    answer = await plane.ask("POST", "/routes/credit/flip?dry_run=1", {"reason": "what if"})
    assert "2" in answer.json()["document"]["guard"]["latched"]
    assert (await plane.ask("PATCH", "/routes/credit?dry_run=1", TEN_PERCENT, if_match="7")).status_code == 412
    assert (await plane.ask("PATCH", "/routes/credit?dry_run=1", {"stable": "9"}, if_match="1")).status_code == 422
    assert (await plane.ask("PATCH", "/routes/credit?dry_run=1", TEN_PERCENT)).status_code == 428
    assert await plane.contents() == before


@pytest.mark.parametrize(
    "asked", ["dry_rum=1", "dry_run=yes", "dry_run=", "dry_run=1&dry_run=0", "reason=" + "x" * 1001]
)
def test_a_misspelled_parameter_changes_nothing(asked: str) -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        before = await plane.contents()
        for method in ("PUT", "PATCH", "DELETE"):
            assert (await plane.ask(method, f"/routes/credit?{asked}", ROUTE, if_match="1")).status_code == 400
        assert await plane.contents() == before

    on_a_plane(scenario)()


@on_a_plane
async def test_a_deleted_route_is_gone_and_keeps_its_counter(plane: Plane) -> None:
    await plane.create()
    answer = await plane.ask("DELETE", "/routes/credit", if_match="1")
    assert (answer.status_code, answer.json()) == (200, {"model": "credit", "revision": 2, "deleted": True})
    for method, path in (("GET", ""), ("GET", "/status"), ("GET", "/explain?key=a"), ("DELETE", "")):
        assert (await plane.ask(method, "/routes/credit" + path, if_match="2")).status_code == 404
    assert (await plane.ask("PATCH", "/routes/credit", TEN_PERCENT, if_match="2")).status_code == 404
    assert (await plane.ask("POST", "/routes/credit/flip", {"reason": "late"})).status_code == 404
    assert (await plane.ask("GET", "/routes")).json() == []
    again = await plane.create()
    assert again.json()["revision"] == 3


@on_a_plane
async def test_a_latched_version_gets_no_weight(plane: Plane) -> None:
    await plane.create()
    await plane.ask("POST", "/routes/credit/flip", {"reason": "bad"})
    answer = await plane.ask("PATCH", "/routes/credit", TEN_PERCENT, if_match="2")
    assert (answer.status_code, answer.json()["code"]) == (409, "latched")
    await plane.ask("DELETE", "/routes/credit", if_match="2")
    answer = await plane.ask("PUT", "/routes/credit", ROUTE, if_none_match="*")
    assert (answer.status_code, answer.json()["code"]) == (409, "latched")


@on_a_plane
async def test_a_running_rollout_owns_the_weights(plane: Plane) -> None:
    await plane.create()

    def build(record: Record | None) -> Draft:
        assert record is not None
        held = decode(record.document)
        assert isinstance(held, RouteDocument)
        return Draft(2, encode(held.model_copy(update={"revision": 2, "rollout": {"phase": "ramp"}})), "rollout")

    await write(plane.store, "credit", build, actor="x", reason="", at=0, change_id="0" * 32)
    answer = await plane.ask("PATCH", "/routes/credit", TEN_PERCENT, if_match="2")
    assert (answer.status_code, answer.json()["code"]) == (409, "rollout_running")
    assert (await plane.ask("PATCH", "/routes/credit", {"enforce": False}, if_match="2")).status_code == 200


@on_a_plane
async def test_names_that_no_model_can_have_are_refused(plane: Plane) -> None:
    answer = await plane.ask("PUT", "/routes/stats", ALL_ON_2, if_none_match="*")
    assert (answer.status_code, answer.json()["problems"][0]["code"]) == (422, "reserved")
    for name in ("-x", "a..b", "_", "x" * 129, "~a"):
        assert (await plane.ask("GET", f"/routes/{name}")).status_code == 404
        assert (await plane.ask("PUT", f"/routes/{name}", ALL_ON_2, if_none_match="*")).status_code == 404


@on_a_plane
async def test_unknown_paths_and_methods_are_json_sentences(plane: Plane) -> None:
    answer = await plane.ask("GET", "/nothing")
    assert (answer.status_code, answer.json()) == (404, {"error": "there is nothing at this path"})
    answer = await plane.ask("POST", "/routes/credit", {})
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "PUT", "PATCH", "DELETE"}
    assert "POST has no meaning here" in answer.json()["error"]
    assert (await plane.ask("GET", "/routes/credit/flip")).headers["allow"] == "POST"


@on_a_plane
async def test_every_answer_has_a_name(plane: Plane) -> None:
    assert (await plane.ask("GET", "/routes", x_request_id="mine-1")).headers["x-request-id"] == "mine-1"
    for odd in ("", "two words", "x" * 129):
        answer = await plane.ask("GET", "/routes", who=None, x_request_id=odd)
        assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["cache-control"] == "no-store"


class Broken(MemoryStore):
    error: Exception | None = None

    async def load(self, model: str) -> Record | None:
        if self.error:
            raise self.error
        return await super().load(model)


def test_a_store_that_is_away_is_503_and_a_surprise_is_500_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        for error, code in (
            (StoreUnavailable("it is away"), "store_unavailable"),
            (OutcomeUnknown("credit"), "outcome_unknown"),
        ):
            plane.store.error = error
            answer = await plane.ask("PATCH", "/routes/credit", TEN_PERCENT, if_match="1")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json() == {"error": str(error), "code": code}
        plane.store.error = ZeroDivisionError("the secret of the house")
        answer = await plane.ask("GET", "/routes/credit", x_request_id="mine")
        assert answer.status_code == 500
        assert answer.json() == {"error": "internal error", "request_id": "mine"}
        assert answer.headers["x-request-id"] == "mine"
        assert caplog.records[-1].message == "request failed"

    on_a_plane(scenario, store=Broken())()


@on_a_plane
async def test_the_answer_is_what_was_stored(plane: Plane) -> None:
    await plane.create()
    answer = await plane.ask("PATCH", "/routes/credit", TEN_PERCENT, if_match="1")
    record = await plane.store.load("credit")
    assert record is not None
    assert answer.json() == as_json(decode(record.document))
