"""Refused log-ins on disk, and all chains checked at once."""

import asyncio
import json
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.refusals import FILE_NAME, RefusedLogins
from routing.store import GENESIS_SHA256
from routing.store.history import entry_in
from tests.contracts.stores import Place, put
from tests.gateway.admin.plane import NOW, Plane, on_a_plane, secret
from tests.redis_server import RedisServer


@pytest.fixture(params=["memory", "sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "redis":
        with RedisServer() as server:
            yield Place("redis", tmp_path, server)
    else:
        yield Place(request.param, tmp_path, None)


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def chain(folder: Path, clock: Callable[[], float] = time.monotonic, **bounds: int) -> RefusedLogins:
    return RefusedLogins(folder, lambda: NOW, clock, **bounds)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def entries(folder: Path) -> list[Any]:
    files = [*(folder / f"{FILE_NAME}.{index}" for index in range(9, 0, -1)), folder / FILE_NAME]
    return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def test_refused_log_ins_are_chained_on_disk_without_the_token(tmp_path: Path) -> None:
    async def scenario(plane: Plane) -> None:
        guess = "guessed-" + "x" * 30
        await plane.raw("PUT", "/admin/v1/routes/credit", {"authorization": f"Bearer {guess}"})
        await plane.ask("DELETE", "/routes/credit", who="vera", x_request_id="mine")
        await plane.ask("GET", "/routes", who=None)
        found = (await plane.ask("GET", "/audit?verify=1", who="vera")).json()
        assert (found["verified"], found["refused_logins"]["entries"], found["routes"]) == (True, 3, [])
        kept = entries(tmp_path)
        assert [(e["number"], e["why"], e["actor"]) for e in kept] == [
            (1, "unknown", None),
            (2, "role", "vera"),
            (3, "missing", None),
        ]
        assert (kept[1]["request_id"], kept[1]["path"]) == ("mine", "/admin/v1/routes/credit")
        assert [e["prev_sha256"] for e in kept] == [GENESIS_SHA256, kept[0]["sha256"], kept[1]["sha256"]]
        assert found["refused_logins"]["head_sha256"] == kept[2]["sha256"]
        text = (tmp_path / FILE_NAME).read_text()
        assert guess not in text
        assert secret("vera") not in text
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600

    on_a_plane(scenario, refusals=chain(tmp_path))()


def test_the_chain_goes_on_over_restarts_and_rotation_and_keeps_so_many_files(tmp_path: Path) -> None:
    async def scenario() -> None:
        for start in range(8):
            kept = chain(tmp_path, max_file_bytes=1500)
            for number in range(5):
                kept.note({"why": "unknown", "path": f"/{start}/{number}"})
                await kept.flushed()
        assert len([file for file in tmp_path.iterdir() if file.name.startswith(FILE_NAME)]) == 5
        assert all(file.stat().st_size < 2500 for file in tmp_path.iterdir())
        found = await chain(tmp_path).verify()
        numbers = [entry["number"] for entry in entries(tmp_path)]
        assert numbers == [*range(numbers[0], 41)]
        assert numbers[0] > 1, "the oldest file is gone"
        assert (found.verified, found.entries, found.first_broken) == (True, len(numbers), None)

    run(scenario)


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        (lambda lines: [*lines[:2], lines[2].replace("unknown", "missing"), *lines[3:]], 3),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines[:3], "garbage", *lines[4:]], 4),
        (lambda lines: [lines[0].replace(GENESIS_SHA256, "1" * 64), *lines[1:]], 1),
        (lambda lines: [*lines, lines[-1]], 6),
    ],
)
def test_what_was_changed_shows(tmp_path: Path, damage: Callable[[list[str]], list[str]], broken: int) -> None:
    async def scenario() -> None:
        kept = chain(tmp_path)
        for number in range(5):
            kept.note({"why": "unknown", "number_of_try": number})
        assert (await kept.verify()).verified
        file = tmp_path / FILE_NAME
        file.write_text("\n".join(damage(file.read_text().splitlines())) + "\n")
        found = await kept.verify()
        assert (found.verified, found.first_broken) == (False, broken)

    run(scenario)


def test_a_flood_is_counted_and_not_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        kept = chain(tmp_path, clock, burst=10)
        for _ in range(5000):
            kept.note({"why": "unknown"})
        await kept.flushed()
        assert (len(entries(tmp_path)), kept.unwritten) == (10, 4990)
        clock.s += 6.0
        kept.note({"why": "role"})
        assert (await kept.verify()).verified
        assert (entries(tmp_path)[-1]["unwritten_before"], kept.unwritten) == (4990, 0)

    run(scenario)


def test_a_line_cut_short_by_a_crash_is_cut_off_and_a_disk_that_refuses_stops_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        kept = chain(tmp_path)
        kept.note({"why": "unknown"})
        await kept.flushed()
        with (tmp_path / FILE_NAME).open("a") as file:
            file.write('{"number": 2, "wh')
        kept.note({"why": "role"})
        assert await kept.verify() == await chain(tmp_path).verify()
        assert [entry["why"] for entry in entries(tmp_path)] == ["unknown", "role"]
        (tmp_path / "file").write_text("no folder")
        refused = chain(tmp_path / "file")
        refused.note({"why": "unknown"})
        await refused.flushed()
        assert refused.unwritten == 1

    run(scenario)


def test_all_histories_are_checked_on_every_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.audit.PAGE_ENTRIES", 50)

    async def scenario(plane: Plane) -> None:
        for number in range(3):
            await put(plane.store, "a", b"%d" % number)
        for number in range(123):
            await put(plane.store, "b", b"%d" % number)
        whole = (await plane.ask("GET", "/audit?verify=1")).json()
        assert [(r["model"], r["entries"], r["verified"]) for r in whole["routes"]] == [
            ("a", 3, True),
            ("b", 123, True),
        ]
        assert whole["verified"] is True
        heads = (await plane.ask("GET", "/audit")).json()
        assert heads["routes"] == [
            {key: route[key] for key in ("model", "revision", "head_sha256")} for route in whole["routes"]
        ]
        for revision in (103, 74):  # the middle of a page, and the seam of two
            place.break_history("b", revision, b"garbage")
            broken = (await plane.ask("GET", "/audit?verify=1")).json()
            assert [route["first_broken_revision"] for route in broken["routes"]] == [None, revision]
            assert broken["verified"] is False
        await plane.store.close()

    on_a_plane(scenario, store=place.client())()


@on_a_plane
async def test_an_audit_that_means_nothing_is_refused(plane: Plane) -> None:
    assert (await plane.ask("GET", "/audit?verify=2")).status_code == 400
    assert (await plane.ask("GET", "/audit?verfy=1")).status_code == 400
    await plane.create()
    plane.store._history["credit"].clear()
    found = (await plane.ask("GET", "/audit?verify=1")).json()
    assert found["routes"][0]["first_broken_revision"] == 1
    plane.store._history["credit"].append(entry_in(b"", "credit", 1))
    assert (await plane.ask("GET", "/audit?verify=1")).json()["verified"] is False
