"""Writes that wait for replicas. Replicas here are words in the store; real ones are in tests/integration."""

import asyncio
from typing import Any

import orjson

from gateway.admin.replicas import MAX_WAITS
from tests.gateway.admin.plane import ROUTE, Plane, on_a_plane

PATCH = {"enforce": False}


async def say(plane: Plane, name: str, applied: int = 0, refused: int = 0, ttl_s: float = 60) -> None:
    word = {"applied": {"credit": applied} if applied else {}, "refused": {"credit": refused} if refused else {}}
    await plane.store.put_presence(name, orjson.dumps(word), ttl_s)


async def waited(plane: Plane, timeout_ms: int = 5000) -> Any:
    answer = await plane.ask(
        "PATCH", f"/routes/credit?wait=applied&timeout_ms={timeout_ms}", PATCH, if_match="1", who="ada"
    )
    assert (answer.status_code, answer.json()["revision"], answer.headers["etag"]) == (200, 2, '"2"')
    return answer.json()["applied"]


def test_a_write_waits_for_the_last_replica() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        await say(plane, "a", 1)
        await say(plane, "b", 1)
        wait = asyncio.create_task(waited(plane))
        await asyncio.sleep(0.03)
        await say(plane, "a", 2)
        await asyncio.sleep(0.03)
        assert not wait.done()
        await say(plane, "b", 3)
        assert await wait == {"all": True, "waiting_for": [], "refused_by": []}

    on_a_plane(scenario, replica_id="a")()


@on_a_plane
async def test_a_wait_that_times_out_has_written_and_says_for_whom_it_waited(plane: Plane) -> None:
    await plane.create()
    await say(plane, "slow", 1)
    await say(plane, "quick", 2)
    await plane.store.put_presence("odd", b"no JSON", 60)
    assert await waited(plane, 20) == {"all": False, "waiting_for": ["odd", "slow"], "refused_by": []}


@on_a_plane
async def test_a_refusal_ends_the_wait_and_is_told(plane: Plane) -> None:
    await plane.create()
    await say(plane, "a", 2)
    await say(plane, "b", 1, refused=2)
    assert await waited(plane) == {"all": False, "waiting_for": [], "refused_by": ["b"]}


@on_a_plane
async def test_a_replica_that_died_is_waited_for_until_its_time_is_over(plane: Plane) -> None:
    await plane.create()
    await say(plane, "dead", 1, ttl_s=0.05)
    assert (await waited(plane))["all"] is True


def test_this_process_is_waited_for_even_before_its_word_is_there() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.create()
        assert await waited(plane, 20) == {"all": False, "waiting_for": ["me"], "refused_by": []}

    on_a_plane(scenario, replica_id="me")()


def test_draining_ends_the_wait_at_once() -> None:
    draining = asyncio.Event()

    async def scenario(plane: Plane) -> None:
        await plane.create()
        await say(plane, "slow", 1)
        wait = asyncio.create_task(waited(plane, 60_000))
        await asyncio.sleep(0.02)
        draining.set()
        async with asyncio.timeout(1):
            assert (await wait)["waiting_for"] == ["slow"]

    on_a_plane(scenario, draining=draining)()


@on_a_plane
async def test_a_store_that_goes_away_ends_the_wait_of_a_write_that_was_made(plane: Plane) -> None:
    await plane.create()
    await say(plane, "slow", 1)
    wait = asyncio.create_task(waited(plane))
    await asyncio.sleep(0.02)
    await plane.store.close()
    found = await wait
    assert (found["all"], "the store is closed" in found["problem"]) == (False, True)


@on_a_plane
async def test_every_write_can_wait(plane: Plane) -> None:
    wait = "?wait=applied&timeout_ms=1000"
    made = await plane.ask("PUT", f"/routes/credit{wait}", ROUTE, if_none_match="*")
    assert (made.status_code, made.json()["applied"]["all"]) == (201, True)
    steps = [
        ("POST", "/flip", {"reason": "bad"}, {}),
        ("POST", "/release", {"reason": "fixed"}, {}),
        ("POST", "/restore", {"reason": "as before", "revision": 1}, {"if_match": "3"}),
        ("PATCH", "", {}, {"if_match": "4"}),
        ("DELETE", "", None, {"if_match": "4"}),
    ]
    for method, path, body, headers in steps:
        answer = await plane.ask(method, f"/routes/credit{path}{wait}", body, **headers)
        assert (answer.status_code, answer.json()["applied"]["all"]) == (200, True), (method, path, answer.text)


@on_a_plane
async def test_a_wait_that_means_nothing_writes_nothing(plane: Plane) -> None:
    await plane.create()
    odd = ["wait=1", "wait=", "wait=applied&timeout_ms=0", "wait=applied&timeout_ms=60001", "timeout_ms=5"]
    for query in [*odd, "wait=applied&dry_run=1", "wait=applied&wait=applied", "wait=applied&timeout=5"]:
        answer = await plane.ask("PATCH", f"/routes/credit?{query}", PATCH, if_match="1")
        assert answer.status_code == 400, query
    waits = [asyncio.create_task(waited(plane, 300)) for _ in range(1)]
    await say(plane, "slow", 1)
    waits += [
        asyncio.create_task(plane.ask("PATCH", "/routes/credit?wait=applied&timeout_ms=300", {}, if_match="2"))
        for _ in range(MAX_WAITS)
    ]
    answers = await asyncio.gather(*waits)
    refused = [answer for answer in answers[1:] if answer.status_code == 503]
    assert len(refused) == 1
    assert "nothing was changed" in refused[0].json()["error"]
