"""Documents on the worker's side: applied, refused, followed; evidence travels with its epoch."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from gateway.backends.onnx import OnnxBackend
from gateway.backends.registry import BackendKey, Registry
from gateway.control.messages import Applied, Forget, Lower, Refused, StoredDocument, Up
from gateway.control.sync import Sync
from gateway.runtime.snapshot import Runtime
from routing.codec import encode
from routing.document import RouteDocument
from routing.edit import Delete, Flip, Replace, next_document
from tests.builders import CHANGE_ID, document, route

MODELS = Path(__file__).parents[3] / "configs" / "demo" / "models"


class Worker:
    """The parts that applying a document touches, real ones."""

    def __init__(self) -> None:
        self.runtime = Runtime()
        self.registry = Registry(self._make)
        self.said: list[Up] = []
        self.sync = Sync(self.runtime, self.registry, {}, self.said.append, opaque=False)

    @staticmethod
    def _make(key: BackendKey) -> OnnxBackend:
        return OnnxBackend(MODELS / key.model / key.version / "model.onnx", key.model, key.version)

    def store(self, current: RouteDocument, data: bytes | None = None) -> None:
        self.sync.receive(StoredDocument("credit", current.revision, data or encode(current)))

    def weights(self) -> dict[str, int]:
        return {arm.version: arm.weight_ppm for arm in self.runtime.current.routes["credit"].arms}


def scene(play: Callable[[Worker], None]) -> None:
    async def scenario() -> None:
        worker = Worker()
        play(worker)
        await worker.registry.close()

    asyncio.run(scenario())


def test_a_document_that_cannot_be_read_keeps_the_last_good_one() -> None:
    def play(worker: Worker) -> None:
        worker.store(document())
        worker.store(document().model_copy(update={"revision": 2}), b"{}")
        assert worker.weights() == {"1": 950_000, "2": 50_000}
        assert worker.said[0] == Applied("credit", 1)
        assert isinstance(worker.said[1], Refused)
        assert worker.said[1].problems

    scene(play)


def test_a_newer_schema_is_refused_and_its_latches_apply() -> None:
    def play(worker: Worker) -> None:
        worker.store(document())
        flipped = next_document(document(), Flip("credit", None, "because", 0.0), CHANGE_ID)
        assert isinstance(flipped, RouteDocument)
        worker.store(flipped, encode(flipped).replace(b'"schema":1', b'"schema":9'))
        assert worker.weights() == {"1": 1_000_000, "2": 0}
        assert isinstance(worker.said[1], Refused)

    scene(play)


def test_evidence_travels_while_the_epoch_lasts_and_starts_anew_after() -> None:
    def play(worker: Worker) -> None:
        worker.store(document())
        first = worker.runtime.current.routes["credit"].by_version["2"].evidence
        kept = next_document(document(), Replace(route(on_failure="pass")), CHANGE_ID)
        assert isinstance(kept, RouteDocument)
        worker.store(kept)
        assert worker.runtime.current.routes["credit"].by_version["2"].evidence is first
        grown = next_document(kept, Replace(route(weights={"1": 90, "2": 10})), CHANGE_ID)
        assert isinstance(grown, RouteDocument)
        worker.store(grown)
        assert worker.runtime.current.routes["credit"].by_version["2"].evidence is not first

    scene(play)


def test_a_lower_of_this_epoch_is_obeyed_and_one_of_another_is_not() -> None:
    def play(worker: Worker) -> None:
        worker.store(document())
        arm = worker.runtime.current.routes["credit"].by_version["2"]
        worker.sync.receive(Lower("credit", "2", epoch=9))
        worker.sync.receive(Lower("credit", "1", epoch=1))
        assert not arm.evidence.lowered
        assert not worker.runtime.current.routes["credit"].stable.evidence.lowered
        worker.sync.receive(Lower("credit", "2", epoch=1))
        assert arm.evidence.lowered

    scene(play)


def test_backends_close_when_the_last_request_that_holds_them_has_left() -> None:
    async def scenario() -> None:
        worker = Worker()
        worker.store(document())
        await worker.registry.settled()
        held = worker.runtime.current.routes["credit"]
        held.users += 1
        deleted = next_document(document(), Delete("credit"), CHANGE_ID)
        assert deleted is not None
        worker.sync.receive(StoredDocument("credit", 2, encode(deleted)))
        assert worker.runtime.current.routes == {}
        assert len(worker.registry.slots()) == 2, "a request still holds the route"
        held.users -= 1
        held.look_idle()
        assert worker.registry.slots() == []
        await worker.registry.close()

    asyncio.run(scenario())


def test_forgetting_removes_the_route() -> None:
    def play(worker: Worker) -> None:
        worker.store(document())
        worker.sync.receive(Forget("credit"))
        assert worker.runtime.current.routes == {}

    scene(play)
