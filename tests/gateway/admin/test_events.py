"""Events over the real app, driven as a server would; sockets and signals are in tests/integration."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from gateway.admin.feed import HEARTBEAT, Feed
from routing.errors import StoreUnavailable
from routing.store import MemoryStore
from routing.store.base import make_position
from tests.contracts.stores import put
from tests.gateway.admin.plane import ROUTE, Plane, on_a_plane, secret

SOON_S = 5.0


class Stream:
    """One open answer of ``/events``; ``is_stuck`` takes nothing any more."""

    def __init__(self, plane: Plane, query: bytes, headers: dict[str, str]) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_over = self.is_aborted = False
        self._data = b""
        self._news = asyncio.Event()
        self.left, self.taking = asyncio.Event(), asyncio.Event()
        self.taking.set()
        self.task = asyncio.create_task(plane.app(self._scope(query, headers), self._receive, self._send))

    def _scope(self, query: bytes, headers: dict[str, str]) -> Any:
        sent = {"authorization": f"Bearer {secret('vera')}", **headers}
        return {
            "type": "http",
            "method": "GET",
            "path": "/admin/v1/events",
            "raw_path": b"/admin/v1/events",
            "query_string": query,
            "headers": [(k.encode(), v.encode()) for k, v in sent.items()],
            "client": None,
            "turnout.abort": lambda: setattr(self, "is_aborted", True),
        }

    async def _receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.taking.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            self._data += message.get("body", b"")
            self.is_over = not message.get("more_body", False)
        self._news.set()

    async def next(self) -> tuple[str, str, Any]:
        """Id, type and data of the next event; type ``""`` for the marker that only carries an id."""
        async with asyncio.timeout(SOON_S):
            while b"\n\n" not in self._data:
                assert not self.is_over, "the stream is over"
                self._news.clear()
                await self._news.wait()
        block, _, self._data = self._data.partition(b"\n\n")
        fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if not line.startswith(":"))
        return fields.get("id", ""), fields.get("event", ""), json.loads(fields.get("data", "null"))


@asynccontextmanager
async def reading(plane: Plane, query: bytes = b"", **headers: str) -> AsyncIterator[Stream]:
    stream = Stream(plane, query, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        yield stream
    finally:
        stream.left.set()
        async with asyncio.timeout(SOON_S):
            await stream.task


@on_a_plane
async def test_every_verb_is_an_event_with_who_and_why(plane: Plane) -> None:
    async with reading(plane) as stream:
        place, kind, _ = await stream.next()
        assert (kind, place) == ("", await plane.store.position())
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        await plane.ask("PUT", "/routes/credit?reason=new", ROUTE, if_none_match="*")
        await plane.ask("PATCH", "/routes/credit", {"enforce": False}, if_match="1", who="ada")
        await plane.ask("POST", "/routes/credit/flip", {"reason": "half\u2028a line\nand more"})
        await plane.ask("POST", "/routes/credit/release", {"reason": "fixed"})
        await plane.ask("POST", "/routes/credit/restore", {"reason": "back", "revision": 1}, if_match="4")
        await plane.ask("DELETE", "/routes/credit", if_match="5")
        seen = [await stream.next() for _ in range(6)]
    assert [kind for _, kind, _ in seen] == ["put", "patch", "flip", "release", "restore", "delete"]
    assert [data["revision"] for _, _, data in seen] == [1, 2, 3, 4, 5, 6]
    assert [place for place, _, _ in seen] == [make_position(plane.store.store_id, n) for n in range(1, 7)]
    entries = (await plane.ask("GET", "/routes/credit/history")).json()["entries"][::-1]
    for (_, kind, data), entry in zip(seen, entries, strict=True):
        assert data == {"model": "credit", "verb": kind} | {
            key: entry[key] for key in ("revision", "actor", "reason", "at", "evidence", "diff")
        }


@on_a_plane
async def test_a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice(plane: Plane) -> None:
    """Readers leave and resume at random while somebody writes, from wherever they were."""
    chance = random.Random(7)
    total = 300

    async def write() -> None:
        for number in range(total):
            await put(plane.store, f"m{number % 3}", b"%d" % number)
            if chance.random() < 0.3:
                await asyncio.sleep(0)

    async def read(how: str) -> list[int]:
        seen: list[int] = []
        last = start
        while len(seen) < total:
            asked = {"last_event_id": last} if how == "header" else {}
            query = f"after={last}".encode() if how == "query" else b""
            async with reading(plane, query, **asked) as stream:
                for _ in range(chance.randint(1, 40)):
                    if len(seen) == total:
                        break
                    last, kind, _ = await stream.next()
                    assert kind == "put"
                    seen.append(int(last.partition(":")[2]))
        return seen

    start = await plane.store.position()
    _, *seen = await asyncio.gather(write(), *(read(how) for how in ("header", "query", "header", "query")))
    assert seen == [[*range(1, total + 1)]] * 4


@on_a_plane
async def test_a_position_of_another_store_is_answered_by_a_reset(plane: Plane) -> None:
    await plane.create()
    newest = await plane.store.position()
    for lost in ("0" * 32 + ":5", "garbage", make_position(plane.store.store_id, 99), f"{plane.store.store_id}:-1"):
        async with reading(plane, last_event_id=lost) as stream:
            place, kind, data = await stream.next()
            assert (place, kind, data["position"]) == (newest, "reset", newest)
            await plane.ask("PATCH", "/routes/credit", {"enforce": False}, if_match="1")
            assert (await stream.next())[1] == "patch"
        await plane.store.close()
        plane.store.__init__()  # type: ignore[misc]
        await plane.store.open()
        await plane.create()
        newest = await plane.store.position()


@on_a_plane
async def test_what_is_no_position_at_all_is_refused(plane: Plane) -> None:
    for query in ("after=" + "x" * 200, "aftr=1", "after=a&after=b"):
        assert (await plane.ask("GET", f"/events?{query}")).status_code == 400
    both = await plane.ask("GET", "/events?after=a", last_event_id="b")
    assert "two positions" in both.json()["error"]
    head = await plane.ask("HEAD", "/events")
    assert (head.status_code, head.headers["content-type"][:17]) == (200, "text/event-stream")


def test_a_draining_process_ends_all_streams_at_once_even_a_stuck_one() -> None:
    draining = asyncio.Event()

    async def scenario(plane: Plane) -> None:
        async with reading(plane) as willing, reading(plane) as stuck:
            await willing.next()
            await stuck.next()
            stuck.taking.clear()
            await plane.create()
            await willing.next()
            draining.set()
            async with asyncio.timeout(2):
                await asyncio.gather(willing.task, stuck.task)
            assert (willing.is_over, willing.is_aborted) == (True, False)
            assert stuck.is_aborted

    on_a_plane(scenario, draining=draining)()


@on_a_plane
async def test_a_reader_too_far_behind_is_cut_off_and_slows_nobody(plane: Plane) -> None:
    async with reading(plane) as quick, reading(plane) as slow:
        await quick.next()
        await slow.next()
        slow.taking.clear()
        for number in range(40):
            await put(plane.store, "m", b'"%s"' % (b"%d" % number * 20_000))
            assert (await quick.next())[2]["revision"] == number + 1
            if slow.task.done():
                break
        async with asyncio.timeout(SOON_S):
            await slow.task
        assert slow.is_aborted
        assert (await plane.ask("GET", "/status")).json()["events"] == {"readers": 1, "cut_off": 1}


@on_a_plane
async def test_there_is_room_for_so_many_readers(plane: Plane) -> None:
    streams = [Stream(plane, b"", {}) for _ in range(64)]
    for stream in streams:
        await stream.next()
    refused = await plane.ask("GET", "/events")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    for stream in streams:
        stream.left.set()
    await asyncio.gather(*(stream.task for stream in streams))
    async with reading(plane) as stream:
        await stream.next()


@on_a_plane
async def test_without_a_store_the_answer_is_503(plane: Plane) -> None:
    await plane.store.close()
    assert (await plane.ask("GET", "/events")).status_code == 503


class Flaky(MemoryStore):
    """Loses every watch after a change or two, and now and then the history."""

    def __init__(self) -> None:
        super().__init__()
        self.watches = 0
        self._chance = random.Random(3)

    async def watch(self, after: str):  # type: ignore[no-untyped-def]
        self.watches += 1
        async with aclosing(super().watch(after)) as changes:
            for _ in range(2):
                yield await anext(changes)
        raise StoreUnavailable("gone")

    async def history(self, model: str, **bounds: Any):  # type: ignore[no-untyped-def]
        if self._chance.random() < 0.3:
            raise StoreUnavailable("gone")
        return await super().history(model, **bounds)


def test_a_store_that_comes_and_goes_loses_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.feed.RETRY_FIRST_S", 0.001)
    monkeypatch.setattr("gateway.admin.feed.RETRY_MAX_S", 0.001)

    async def scenario(plane: Plane) -> None:
        async with reading(plane) as stream:
            await stream.next()
            for number in range(20):
                await put(plane.store, "m", b"%d" % number)
            assert [(await stream.next())[2]["revision"] for _ in range(20)] == [*range(1, 21)]

    on_a_plane(scenario, store=Flaky())()


def test_all_readers_share_one_watch_and_a_quiet_one_gets_heartbeats() -> None:
    async def scenario() -> None:
        store = Flaky()
        await store.open()
        feed = Feed(store, heartbeat_s=0.01)
        async with feed.room(), feed.room(), feed.room():
            streams = [feed.events(None, asyncio.Event()) for _ in range(3)]
            for stream in streams:
                await anext(stream)
                assert await anext(stream) == HEARTBEAT
            assert store.watches == 1
            for stream in streams:
                await stream.aclose()
        assert feed.readers == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


@on_a_plane
async def test_a_large_document_goes_out_without_its_difference(plane: Plane) -> None:
    async with reading(plane) as stream:
        await stream.next()
        await put(plane.store, "m", b'"%s"' % (b"x" * 300_000))
        _, kind, data = await stream.next()
        assert (kind, data["diff"], data["revision"]) == ("put", None, 1)
