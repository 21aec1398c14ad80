from dataclasses import replace
from typing import Any

import pytest

from tests.gateway.admin.plane import ROUTE, Plane, on_a_plane

TEN_PERCENT = {"variants": [{"version": "1", "weight": 90}, {"version": "2", "weight": 10}]}


@on_a_plane
async def test_a_flip_needs_no_revision_and_a_release_keeps_the_weights(plane: Plane) -> None:
    await plane.create()
    answer = await plane.ask("POST", "/routes/credit/flip", {"reason": "p99 doubled", "version": "2"})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    latch = {"at": "2025-06-15T15:06:40.000Z", "reason": "p99 doubled", "evidence": None}
    assert answer.json()["guard"] == {"latched": {"2": latch}}
    assert answer.json()["route"]["variants"][1] == {"version": "2", "weight_ppm": 0}
    answer = await plane.ask("POST", "/routes/credit/release", {"reason": "fixed"})
    assert answer.json()["guard"] == {"latched": {}}
    assert answer.json()["epoch"]["2"] == 3
    assert answer.json()["route"]["variants"][1]["weight_ppm"] == 0
    assert (await plane.ask("POST", "/routes/credit/release", {"reason": "fixed"})).json()["revision"] == 3
    verbs = [(entry.verb, entry.actor, entry.reason) for entry in await plane.store.history("credit")]
    assert verbs == [("put", "olga", ""), ("flip", "olga", "p99 doubled"), ("release", "olga", "fixed")]


@on_a_plane
async def test_a_flip_of_what_cannot_be_flipped_says_so(plane: Plane) -> None:
    await plane.create()
    for version in ("1", "9"):
        answer = await plane.ask("POST", "/routes/credit/flip", {"reason": "x", "version": version})
        assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_flip")
    answer = await plane.ask("POST", "/routes/credit/release", {"reason": "x", "version": "9"})
    assert (answer.status_code, answer.json()["problems"][0]["pointer"]) == (422, "/version")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/reason"]),
        ({"reason": " "}, ["/reason"]),
        ({"reason": "x" * 1001}, ["/reason"]),
        ({"reason": 1, "version": 2, "verison": "2"}, ["/reason", "/verison", "/version"]),
        ({"reason": "x", "version": ".."}, ["/version"]),
        ([], [""]),
    ],
)
def test_a_verb_lists_every_problem_of_its_body(body: Any, pointers: list[str]) -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        for verb in ("flip", "release"):
            answer = await plane.ask("POST", f"/routes/credit/{verb}", body)
            assert answer.status_code == 422
            assert sorted(problem["pointer"] for problem in answer.json()["problems"]) == pointers

    on_a_plane(scenario)()


@on_a_plane
async def test_the_reason_of_a_verb_stands_in_its_body_alone(plane: Plane) -> None:
    await plane.create()
    answer = await plane.ask("POST", "/routes/credit/flip?reason=there", {"reason": "here"})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "the parameter 'reason' is unknown: this path knows dry_run, wait, timeout_ms",
    )


@on_a_plane
async def test_restoring_brings_back_the_route_of_a_revision(plane: Plane) -> None:
    first = (await plane.create()).json()
    await plane.ask("PATCH", "/routes/credit", TEN_PERCENT | {"enforce": False}, if_match="1")
    body = {"revision": 1, "reason": "it was better"}
    assert (await plane.ask("POST", "/routes/credit/restore", body)).status_code == 428
    assert (await plane.ask("POST", "/routes/credit/restore", body, if_match="1")).status_code == 412
    answer = await plane.ask("POST", "/routes/credit/restore", body, if_match="2")
    assert (answer.status_code, answer.json()["revision"], answer.json()["route"]) == (200, 3, first["route"])
    newest = (await plane.store.history("credit"))[-1]
    assert (newest.verb, newest.reason) == ("restore", "it was better")


@on_a_plane
async def test_restoring_obeys_latches_and_knows_what_it_can_restore(plane: Plane) -> None:
    await plane.create()
    await plane.ask("POST", "/routes/credit/flip", {"reason": "bad"})
    answer = await plane.ask("POST", "/routes/credit/restore", {"revision": 1, "reason": "x"}, if_match="2")
    assert (answer.status_code, answer.json()["code"]) == (409, "latched")
    answer = await plane.ask("POST", "/routes/credit/restore", {"revision": 9, "reason": "x"}, if_match="2")
    assert (answer.status_code, answer.json()["problems"][0]["code"]) == (404, "unknown_revision")
    answer = await plane.ask("POST", "/routes/nobody/restore", {"revision": 1, "reason": "x"}, if_match="2")
    assert answer.status_code == 404
    await plane.ask("POST", "/routes/credit/release", {"reason": "fixed"})
    await plane.ask("DELETE", "/routes/credit", if_match="3")
    answer = await plane.ask("POST", "/routes/credit/restore", {"revision": 4, "reason": "x"}, if_none_match="*")
    assert (answer.status_code, answer.json()["problems"][0]["code"]) == (422, "deleted")
    answer = await plane.ask("POST", "/routes/credit/restore", {"revision": 1, "reason": "x"}, if_none_match="*")
    assert (answer.status_code, answer.json()["revision"]) == (201, 5)


@on_a_plane
async def test_the_history_tells_who_when_why_and_what(plane: Plane) -> None:
    await plane.ask("PUT", "/routes/credit?reason=first", ROUTE, who="ada", if_none_match="*")
    sent = {"if_match": "1", "x_turnout_reason": "more of 2"}
    await plane.ask("PATCH", "/routes/credit", TEN_PERCENT, **sent)
    await plane.ask("DELETE", "/routes/credit?reason=done", if_match="2")
    answer = await plane.ask("GET", "/routes/credit/history?verify=1", who="vera")
    told = answer.json()
    assert (told["model"], told["verified"], told["first_broken_revision"]) == ("credit", True, None)
    entries = told["entries"]
    assert [(e["revision"], e["verb"], e["actor"], e["reason"]) for e in entries] == [
        (3, "delete", "olga", "done"),
        (2, "patch", "olga", "more of 2"),
        (1, "put", "ada", "first"),
    ]
    assert entries[0]["prev_sha256"] == entries[1]["sha256"]
    assert entries[1]["at"] == "2025-06-15T15:06:40.000Z"
    assert len(entries[1]["change_id"]) == 32
    assert entries[1]["diff"] == [
        {"pointer": "/route/variants/0/weight_ppm", "before": 950_000, "after": 900_000},
        {"pointer": "/route/variants/1/weight_ppm", "before": 50_000, "after": 100_000},
        {"pointer": "/intervals/pieces/2/0/1", "before": 50_000, "after": 100_000},
        {"pointer": "/epoch/2", "before": 1, "after": 2},
    ]
    assert [d["pointer"] for d in entries[2]["diff"]] == [""]


@on_a_plane
async def test_a_short_history_has_the_same_differences(plane: Plane) -> None:
    await plane.create()
    for revision in range(1, 6):
        await plane.ask("PATCH", "/routes/credit", {"enforce": revision % 2 == 0}, if_match=str(revision))
    whole = (await plane.ask("GET", "/routes/credit/history")).json()["entries"]
    assert [entry["revision"] for entry in whole] == [6, 5, 4, 3, 2, 1]
    for limit in range(1, 8):
        for extra in ("", "&verify=1"):
            answer = await plane.ask("GET", f"/routes/credit/history?limit={limit}{extra}")
            assert answer.json()["entries"] == whole[:limit]
    for odd in ("limit=0", "limit=1001", "limit=x", "limit=-1", "verify=maybe", "since=3"):
        assert (await plane.ask("GET", f"/routes/credit/history?{odd}")).status_code == 400
    assert (await plane.ask("GET", "/routes/nobody/history")).status_code == 404


@on_a_plane
async def test_verifying_finds_what_was_tampered_with_and_restoring_refuses_it(plane: Plane) -> None:
    await plane.create()
    for revision in range(1, 4):
        await plane.ask("PATCH", "/routes/credit", {"enforce": revision % 2 == 0}, if_match=str(revision))
    kept = plane.store._history["credit"]
    genuine = list(kept)

    async def first_broken() -> Any:
        told = (await plane.ask("GET", "/routes/credit/history?verify=1&limit=1")).json()
        assert told["verified"] == (told["first_broken_revision"] is None)
        return told["first_broken_revision"]

    assert await first_broken() is None
    kept[1] = replace(kept[1], actor="nobody")
    assert await first_broken() == 2
    answer = await plane.ask("POST", "/routes/credit/restore", {"revision": 2, "reason": "x"}, if_match="4")
    assert answer.status_code == 500
    assert "not what was written" in answer.json()["error"]
    kept[1] = replace(genuine[1], document=b"\xff")
    assert await first_broken() == 2
    kept[1] = genuine[1]
    del kept[2]
    assert await first_broken() == 4
    kept.clear()
    kept.extend(genuine[:3])
    assert await first_broken() == 4
