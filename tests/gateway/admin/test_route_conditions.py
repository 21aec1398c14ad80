"""Routes over the admin plane: a write names the revision it is based on, and of two writers one wins."""

import asyncio
from itertools import count
from typing import Any

import pytest

from routing.codec import decode, encode
from routing.document import RouteDocument
from routing.store import Draft, MemoryStore, Record, write
from tests.gateway.admin.plane import ROUTE, Plane, on_a_plane

ALL_ON_2 = {"stable": "2", "variants": [{"version": "2", "weight": 100}]}
TEN_PERCENT = {"variants": [{"version": "1", "weight": 90}, {"version": "2", "weight": 10}]}


@on_a_plane
async def test_a_write_names_the_revision_it_is_based_on(plane: Plane) -> None:
    assert (await plane.ask("PUT", "/routes/credit", ROUTE)).status_code == 428
    answer = await plane.ask("PUT", "/routes/credit", ROUTE, if_match="1")
    assert (answer.status_code, answer.json()["revision"]) == (412, None)
    await plane.create()
    for method in ("PUT", "PATCH", "DELETE"):
        answer = await plane.ask(method, "/routes/credit", TEN_PERCENT | {"stable": "1"})
        assert answer.status_code == 428
        assert "If-Match" in answer.json()["error"]
        answer = await plane.ask(method, "/routes/credit", TEN_PERCENT | {"stable": "1"}, if_match="2")
        assert (answer.status_code, answer.headers["etag"], answer.json()["revision"]) == (412, '"1"', 1)
        assert answer.json()["code"] == "stale"
    answer = await plane.ask("PUT", "/routes/credit", ROUTE, if_none_match="*")
    assert (answer.status_code, answer.headers["etag"]) == (412, '"1"')
    assert "exists with revision 1" in answer.json()["error"]
    answer = await plane.ask("PATCH", "/routes/credit", TEN_PERCENT, if_match="1")
    assert (answer.status_code, answer.headers["etag"], answer.json()["revision"]) == (200, '"2"', 2)


@pytest.mark.parametrize(
    "headers",
    [
        {"if_match": "*"},
        {"if_match": 'W/"1"'},
        {"if_match": '"0"'},
        {"if_match": '"01"'},
        {"if_match": '"1", "2"'},
        {"if_match": "one"},
        {"if_match": '"1'},
        {"if_match": '"9999999999999999999"'},
        {"if_none_match": '"1"'},
        {"if_none_match": "*", "if_match": "1"},
    ],
)
def test_a_condition_that_means_nothing_is_400(headers: dict[str, str]) -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        answer = await plane.ask("PUT", "/routes/credit", ROUTE, **headers)
        assert answer.status_code == 400
        assert "If-" in answer.json()["error"]

    on_a_plane(scenario)()


@on_a_plane
async def test_of_two_writers_with_one_revision_one_wins(plane: Plane) -> None:
    await plane.create()
    other = {"variants": [{"version": "1", "weight": 80}, {"version": "2", "weight": 20}]}
    answers = await asyncio.gather(
        plane.ask("PATCH", "/routes/credit", TEN_PERCENT, if_match="1"),
        plane.ask("PATCH", "/routes/credit", other, if_match="1"),
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    assert len(await plane.store.history("credit")) == 2


class Racing(MemoryStore):
    """Between the load and the compare-and-set of a writer, somebody else writes ``races`` times."""

    races = 0
    names = count()

    async def compare_and_set(self, expected: int, record: Record, entry: Any) -> None:
        if self.races:
            self.races -= 1
            held = decode((await self.load(record.model) or record).document)
            assert isinstance(held, RouteDocument)
            change_id = f"{next(self.names):032x}"
            following = held.model_copy(update={"revision": held.revision + 1, "change_id": change_id})

            def build(_record: Record | None) -> Draft:
                return Draft(following.revision, encode(following), "put")

            left, self.races = self.races, 0
            await write(self, record.model, build, actor="x", reason="", at=0, change_id=change_id)
            self.races = left
        await super().compare_and_set(expected, record, entry)


def test_a_lost_race_is_412_for_an_edit_and_taken_up_again_for_a_flip() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        plane.store.races = 1
        answer = await plane.ask("PATCH", "/routes/credit", TEN_PERCENT, if_match="1")
        assert (answer.status_code, answer.json()["revision"]) == (412, 2)
        plane.store.races = 3
        answer = await plane.ask("POST", "/routes/credit/flip", {"reason": "bad"})
        assert (answer.status_code, answer.json()["revision"]) == (200, 6)
        plane.store.races = 11
        answer = await plane.ask("POST", "/routes/credit/release", {"reason": "good"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")

    on_a_plane(scenario, store=Racing())()
