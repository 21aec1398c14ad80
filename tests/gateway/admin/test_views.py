from collections.abc import Mapping, Sequence
from typing import Any

from routing.codec import decode
from routing.document import RouteDocument
from routing.explain import explain
from tests.gateway.admin.plane import ROUTE, Plane, on_a_plane


def test_a_status_is_the_stored_route_and_what_is_made_of_it() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        await plane.ask(
            "PUT", "/routes/new", {"stable": "1", "variants": [{"version": "1", "weight": 100}]}, if_none_match="*"
        )
        await plane.store.put_presence("a", b'{"applied": {"credit": 1}, "refused": {}}', 60)
        answer = await plane.ask("GET", "/routes/credit/status", who="vera")
        assert answer.json() == {
            "model": "credit",
            "revision": 1,
            "stable": "1",
            "weights_ppm": {"1": 950_000, "2": 50_000},
            "latched": [],
            "applied_revision": 1,
            "versions": {"1": {"state": "ready"}},
            "replicas": [
                {
                    "name": "a",
                    "applied_revision": 1,
                    "refused_revision": None,
                    "unready": {},
                    "state": "serves",
                    "age_s": None,
                }
            ],
        }
        answer = await plane.ask("GET", "/routes/new/status")
        assert answer.json()["applied_revision"] is None
        assert answer.json()["warnings"] == ["this route is stored and not applied here yet"]
        assert (await plane.ask("GET", "/routes/nobody/status")).status_code == 404
        await plane.ask("GET", "/status", who=None)
        whole = (await plane.ask("GET", "/status", who="vera")).json()
        assert (whole["draining"], whole["refused_logins"]) == (False, {"missing": 1})
        assert [item["model"] for item in whole["routes"]] == ["credit", "new"]
        await plane.store.close()
        whole = (await plane.ask("GET", "/status")).json()
        assert (whole["draining"], whole["routes"], whole["store_error"]) == (False, [], "the store is closed")
        assert (await plane.ask("GET", "/routes/credit/status")).status_code == 503

    live = {"credit": {"applied_revision": 1, "revision": 99, "versions": {"1": {"state": "ready"}}}}

    async def statuses(models: Sequence[str]) -> Mapping[str, Any]:
        return {model: live[model] for model in models if model in live}

    async def overview() -> Mapping[str, Any]:
        return {"draining": False}

    on_a_plane(scenario, status=statuses, overview=overview)()


@on_a_plane
async def test_an_explanation_is_of_the_very_bytes(plane: Plane) -> None:
    await plane.create()
    record = await plane.store.load("credit")
    assert record is not None
    document = decode(record.document)
    assert isinstance(document, RouteDocument)
    for asked, key in (("a", b"a"), ("%C3%A9", "é".encode()), ("%ff%00", b"\xff\x00"), ("a+b%2Bc%26", b"a b+c&")):
        answer = await plane.ask("GET", f"/routes/credit/explain?key={asked}", who="vera")
        expected = explain(document, key)
        assert answer.json()["bucket_ppm"] == expected.bucket_ppm
        assert (answer.json()["version"], answer.json()["sentence"]) == (expected.version, expected.sentence)
    for odd in ("", "?key=", "?key=a&key=b", "?kye=a"):
        assert (await plane.ask("GET", f"/routes/credit/explain{odd}")).status_code == 400
    assert (await plane.ask("GET", "/routes/nobody/explain?key=a")).status_code == 404


def test_metrics_need_a_token_and_a_source() -> None:
    async def with_metrics(plane: Plane) -> None:
        answer = await plane.ask("GET", "/metrics", who="vera")
        assert (answer.text, answer.headers["content-type"]) == ("turnout_up 1\n", "text/plain; version=0.0.4")
        assert (await plane.ask("GET", "/metrics", who=None)).status_code == 401
        assert (await plane.ask("POST", "/metrics")).status_code == 405

    async def without(plane: Plane) -> None:
        assert (await plane.ask("GET", "/metrics")).status_code == 404

    async def metrics(_accept: str) -> tuple[bytes, str]:
        return b"turnout_up 1\n", "text/plain; version=0.0.4"

    on_a_plane(with_metrics, metrics=metrics)()
    on_a_plane(without)()


@on_a_plane
async def test_a_key_in_the_body_is_explained_as_one_in_the_url(plane: Plane) -> None:
    await plane.create()
    for key, quoted in (("a", "a"), ("é &", "%C3%A9%20%26")):
        asked = await plane.ask("POST", "/routes/credit/explain", {"key": key})
        assert asked.json() == (await plane.ask("GET", f"/routes/credit/explain?key={quoted}")).json()
    for odd in ({}, {"key": ""}, {"key": 1}, {"key": "a", "kye": "b"}, [], {"key": "x" * 5000}):
        answer = await plane.ask("POST", "/routes/credit/explain", odd)
        assert (answer.status_code, bool(answer.json()["problems"])) == (422, True)
    assert (await plane.ask("POST", "/routes/nobody/explain", {"key": "a"})).status_code == 404
    assert (await plane.ask("POST", "/routes/credit/explain?key=a", {"key": "a"})).status_code == 400


@on_a_plane
async def test_a_what_if_says_who_would_move_and_changes_nothing(plane: Plane) -> None:
    await plane.create()
    before = await plane.contents()
    wish = {**ROUTE, "variants": [{"version": "1", "weight": 80}, {"version": "2", "weight": 20}]}
    keys = [f"user-{n}" for n in range(200)]
    answer = await plane.ask("POST", "/routes/credit/whatif", {**wish, "keys": keys})
    found = answer.json()
    assert (found["model"], found["revision"], found["would_change"]) == ("credit", 1, True)
    assert found["before"] == {"1": 950_000, "2": 50_000}
    assert found["after"] == {"1": 800_000, "2": 200_000}
    assert (found["moved_ppm"], found["moves"]) == (150_000, [{"from": "1", "to": "2", "ppm": 150_000}])
    assert await plane.contents() == before
    await plane.ask("PUT", "/routes/credit", wish, if_match="1")
    for item in found["keys"]:
        place = await plane.ask("POST", "/routes/credit/explain", {"key": item["key"]})
        assert place.json()["version"] == item["after"]
    same = (await plane.ask("POST", "/routes/credit/whatif", wish)).json()
    assert (same["would_change"], same["moved_ppm"], same["keys"]) == (False, 0, [])
    new = (await plane.ask("POST", "/routes/new/whatif", {**wish, "model": "new"})).json()
    assert (new["revision"], new["before"], new["would_change"]) == (None, {}, True)


@on_a_plane
async def test_a_what_if_is_refused_as_the_edit_would_be(plane: Plane) -> None:
    await plane.create()
    wrong = {"stable": "9", "variants": [{"version": "1", "weight": 1}], "sample": 1}
    put = await plane.ask("PUT", "/routes/credit", wrong, if_match="1")
    asked = await plane.ask("POST", "/routes/credit/whatif", wrong)
    assert (asked.status_code, asked.json()) == (422, put.json())
    for odd in ([], {**ROUTE, "keys": "a"}, {**ROUTE, "keys": [""]}, {**ROUTE, "keys": ["a"] * 1001}):
        assert (await plane.ask("POST", "/routes/credit/whatif", odd)).status_code == 422
    await plane.ask("POST", "/routes/credit/flip", {"reason": "bad"})
    latched = await plane.ask("POST", "/routes/credit/whatif", ROUTE)
    assert (latched.status_code, latched.json()["code"]) == (409, "latched")
    assert (await plane.ask("POST", "/routes/credit/whatif", ROUTE, who="vera")).status_code == 403
