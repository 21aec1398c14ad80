"""What serves stable serves on until what replaces it is ready, on a worker's real parts."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.backends.base import State
from gateway.backends.onnx import OnnxBackend
from gateway.backends.registry import BackendKey, Registry
from gateway.control.messages import Applied, Forget, Refused, StoredDocument, Up
from gateway.control.sync import Sync
from gateway.runtime.compile import CompiledRoute
from gateway.runtime.snapshot import Runtime
from gateway.runtime.status import route_signs
from gateway.runtime.warnings import route_warnings
from routing.codec import encode
from routing.document import RouteDocument
from routing.edit import Delete, Replace, next_document
from routing.table import OnnxSpec
from tests.builders import CHANGE_ID, document, route

MODELS = Path(__file__).parents[3] / "configs" / "demo" / "models"
BROKEN = {"kind": "onnx", "threads": 9}  # has no file in these tests
OTHER = {"kind": "onnx", "threads": 2}
ALONE = {"1": 100.0}


class Worker:
    """The parts that applying a document touches."""

    def __init__(self) -> None:
        self.runtime = Runtime()
        self.registry = Registry(self._make)
        self.said: list[Up] = []
        self.sync = Sync(self.runtime, self.registry, {}, self.said.append, opaque=False)
        self.current: RouteDocument | None = None

    @staticmethod
    def _make(key: BackendKey) -> OnnxBackend:
        assert isinstance(key.spec, OnnxSpec)
        name = "nothing" if key.spec.threads == 9 else "model"
        return OnnxBackend(MODELS / key.model / key.version / f"{name}.onnx", key.model, key.version)

    def put(self, stable: str = "1", weights: dict[str, float] = ALONE, **backends: object) -> None:
        """Store a route whose backends are named by version, as ``v1``."""
        wanted = route(stable=stable, weights=weights, backends={name[1:]: spec for name, spec in backends.items()})
        following = next_document(self.current, Replace(wanted), CHANGE_ID) if self.current else document(wanted)
        assert isinstance(following, RouteDocument)
        self.current = following
        self.sync.receive(StoredDocument("credit", following.revision, encode(following)))

    async def loaded(self) -> None:
        """Everything is loaded that can be, and looked at."""
        await self.registry.settled()
        self.sync.look()

    @property
    def route(self) -> CompiledRoute:
        return self.runtime.current.routes["credit"]

    def answers(self) -> tuple[str, int]:
        """The version that answers as stable, and the threads of its backend."""
        spec = self.route.stable.slot.key.spec
        assert isinstance(spec, OnnxSpec)
        assert self.route.stable in self.route.arms
        return self.route.stable.version, spec.threads

    def held(self) -> list[tuple[str, int]]:
        """Versions and threads of all backends."""
        keys = [slot.key for slot in self.registry.slots()]
        return sorted((key.version, key.spec.threads) for key in keys if isinstance(key.spec, OnnxSpec))

    def warnings(self) -> list[str]:
        return [warning.sentence for warning in route_warnings([route_signs(self.route, 0.0)], {})]


def scene(play: Callable[[Worker], Awaitable[None]]) -> None:
    async def scenario() -> None:
        worker = Worker()
        worker.put()
        await worker.loaded()
        assert worker.said == [Applied("credit", 1)]
        await play(worker)
        await worker.registry.close()

    asyncio.run(scenario())


def test_stables_old_backend_answers_until_the_new_one_is_ready_and_closes_then() -> None:
    async def play(worker: Worker) -> None:
        before = worker.route.stable.slot
        worker.put(v1=OTHER)
        assert worker.route.stable.slot is before
        pinned = worker.runtime.current.pinned("credit", "1")
        assert pinned is worker.route.stable, "requests that name the version are answered too"
        assert worker.said == [Applied("credit", 1)], "what was there before still answers"
        assert worker.route.document.revision == 2, "all else of the edit is in force"
        await worker.loaded()
        assert worker.answers() == ("1", 2)
        assert worker.said == [Applied("credit", 1), Applied("credit", 2)]
        assert worker.held() == [("1", 2)]
        assert worker.runtime.current.pinned("credit", "1") is worker.route.stable
        await worker.registry.settled()
        assert before.backend.state is State.CLOSED

    scene(play)


def test_a_request_in_work_keeps_the_old_backend_open() -> None:
    async def play(worker: Worker) -> None:
        before = worker.route.stable.slot
        worker.put(v1=OTHER)
        interim = worker.route
        interim.users += 1
        await worker.loaded()
        assert worker.answers() == ("1", 2)
        assert before.backend.state is State.READY
        interim.users -= 1
        interim.look_idle()
        await worker.registry.settled()
        assert before.backend.state is State.CLOSED

    scene(play)


def test_a_backend_that_never_is_ready_leaves_stable_to_the_old_one_over_later_edits() -> None:
    async def play(worker: Worker) -> None:
        worker.put(v1=BROKEN)
        await worker.loaded()
        assert worker.answers() == ("1", 1)
        (said,) = worker.warnings()
        assert said.startswith("version '1' is not ready: ")
        assert said.endswith("; until it is, the backend that it had before goes on")
        worker.put(weights={"1": 90, "2": 10}, v1=BROKEN)
        await worker.loaded()
        assert worker.answers() == ("1", 1)
        assert worker.route.by_version["2"].takes_draws, "a canary is held against what answers"
        assert worker.said == [Applied("credit", 1)]
        worker.put(weights={"1": 90, "2": 10}, v1=OTHER)
        await worker.loaded()
        assert worker.answers() == ("1", 2)
        assert worker.held() == [("1", 2), ("2", 1)]
        assert worker.said[1:] == [Applied("credit", 4)]
        assert not any("not ready" in said for said in worker.warnings())

    scene(play)


def test_an_edit_back_or_a_deletion_drops_what_was_not_ready() -> None:
    async def play(worker: Worker) -> None:
        worker.put(v1=BROKEN)
        await worker.loaded()
        worker.put()
        assert worker.said[1:] == [Applied("credit", 3)], "nothing has to be loaded"
        assert worker.held() == [("1", 1)]
        worker.put(v1=BROKEN)
        assert worker.current is not None
        deleted = next_document(worker.current, Delete("credit"), CHANGE_ID)
        assert deleted is not None
        worker.sync.receive(StoredDocument("credit", deleted.revision, encode(deleted)))
        assert worker.said[2:] == [Applied("credit", 5)]
        assert worker.held() == []

    scene(play)


def test_a_route_that_is_forgotten_or_refused_meanwhile_is_not_said_to_be_applied() -> None:
    async def play(worker: Worker) -> None:
        worker.put(v1=OTHER)
        worker.sync.receive(StoredDocument("credit", 3, b"{}"))
        await worker.loaded()
        assert worker.answers() == ("1", 2)
        assert [type(said) for said in worker.said] == [Applied, Refused]
        worker.put(v1={"kind": "onnx", "threads": 3})
        worker.sync.receive(Forget("credit"))
        await worker.loaded()
        assert [type(said) for said in worker.said] == [Applied, Refused]

    scene(play)


def test_the_version_that_was_stable_answers_under_its_own_name_until_the_new_one_is_ready() -> None:
    async def play(worker: Worker) -> None:
        evidence = worker.route.stable.evidence
        worker.put("2", {"2": 100})
        assert worker.answers() == ("1", 1)
        assert worker.route.stable.is_stable
        assert (b"x-turnout-version", b"1") in worker.route.stable.named[1].headers
        assert worker.route.stable.evidence is evidence
        pinned = worker.runtime.current.pinned("credit", "2")
        assert pinned is not None
        assert not pinned.slot.is_ready, "nothing else answers for a version that is named"
        assert any("until it is, version '1', stable before, goes on" in said for said in worker.warnings())
        worker.put("2", {"2": 90, "1": 10})
        assert worker.answers() == ("1", 1)
        assert worker.route.stable.evidence is evidence
        await worker.loaded()
        assert worker.answers() == ("2", 1)
        assert worker.said[1:] == [Applied("credit", 3)]

    scene(play)


def test_a_version_that_was_to_leave_comes_back_with_another_backend() -> None:
    async def play(worker: Worker) -> None:
        worker.put("2", {"2": 100}, v2=BROKEN)
        worker.put("1", {"1": 100}, v1=OTHER)
        assert worker.answers() == ("1", 1)
        await worker.loaded()
        assert worker.answers() == ("1", 2)
        assert worker.held() == [("1", 2)]

    scene(play)


def test_a_canary_whose_backend_is_swapped_gets_no_draws_and_answers_pins_on_the_old_one() -> None:
    async def play(worker: Worker) -> None:
        worker.put(weights={"1": 90, "2": 10})
        await worker.loaded()
        worker.put(weights={"1": 90, "2": 10}, v2=OTHER)
        assert worker.said[-1] == Applied("credit", 3), "stable answers its share"
        assert not worker.route.by_version["2"].takes_draws
        pinned = worker.runtime.current.pinned("credit", "2")
        assert pinned is not None
        assert pinned.slot.is_ready
        assert pinned.slot.key.spec == OnnxSpec()
        await worker.loaded()
        assert worker.route.by_version["2"].takes_draws
        assert worker.held() == [("1", 1), ("2", 2)]

    scene(play)


def test_one_that_cannot_answer_stands_in_for_nobody() -> None:
    async def play(worker: Worker) -> None:
        await worker.route.stable.slot.backend.close()
        worker.put(v1=OTHER)
        assert worker.answers() == ("1", 2)
        assert worker.said[-1] == Applied("credit", 2)

    scene(play)
