"""IO binding gives what a plain run gives, and the quick way is used only where it does."""

import asyncio
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from gateway.backends.onnx_session import CUDA, OnnxSession
from gateway.protocol.shapes import DTYPES
from gateway.protocol.tensors import Array
from tests.gateway.backends.onnx_models import DEMO, Call, answered, doubled, looked_up, opened, summed, tensor


def numeric(folder: Path) -> list[Path]:
    """Models without strings, which cannot be bound."""
    return [doubled(folder / "a"), doubled(folder / "b", ["n", "m", 3]), looked_up(folder / "c"), summed(folder / "d")]


def runs(session: OnnxSession) -> list[Array]:
    """Outputs for several sizes; the input of a look-up is an index."""
    (spec,), (promised,) = session.signature.inputs, session.signature.outputs
    found = []
    for size in (1, 2, 7):
        shape = tuple(size if want == -1 else want for want in spec.shape)
        feeds = {spec.name: (np.arange(np.prod(shape)) % 10).reshape(shape).astype(DTYPES[spec.datatype])}
        found += session.run([promised.name], feeds)
    return found


def test_bound_runs_give_the_same_on_the_cpu(tmp_path: Path) -> None:
    for file in numeric(tmp_path):
        plain, bound = (OnnxSession(file, device="cpu", threads=1, bound=bound) for bound in (False, True))
        assert (plain._is_bound, bound._is_bound) == (False, True)
        for a, b in zip(runs(plain), runs(bound), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert np.array_equal(a, b)


def test_models_with_strings_are_never_bound() -> None:
    assert not OnnxSession(DEMO / "models/credit/1/model.onnx", device="cpu", threads=1, bound=True)._is_bound


@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="this ONNX Runtime was built without CUDA")
def test_bound_runs_give_the_same_on_cuda(tmp_path: Path) -> None:
    for file in numeric(tmp_path):
        cuda = OnnxSession(file, device="cuda", threads=1)
        if not cuda.on_cuda:
            pytest.skip(f"no usable CUDA here: {cuda.note}")
        for a, b in zip(runs(cuda), runs(OnnxSession(file, device="cpu", threads=1)), strict=True):
            assert np.allclose(a, b, atol=1e-5)


def test_a_bound_version_answers_on_the_wire_as_any_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        plain, bound = await opened(doubled(tmp_path)), await opened(doubled(tmp_path), bound=True)
        calls = [Call(tensor([[n, 0.5]])) for n in range(6)]
        bodies = [[reply.body for reply in await answered(backend, *calls)] for backend in (plain, bound)]
        assert bodies[0] == bodies[1]
        await plain.close()
        await bound.close()

    asyncio.run(scenario())


def test_the_quick_way_is_taken_only_where_it_gives_the_very_same(tmp_path: Path) -> None:
    file = doubled(tmp_path)
    session = OnnxSession(file, device="cpu", threads=1)
    session.prepare(session.blank())
    assert session._quick_run is not None, "this release of ONNX Runtime has it: the public way costs 1.7 us more"

    class Private:
        """What another release might have."""

        @staticmethod
        def run(names: list[str], feeds: dict[str, Array], _: None) -> list[Array]:
            return [feeds["x"] + 1 for _ in names]

    session._session._sess = Private
    for private in (Private, object):
        other = OnnxSession(file, device="cpu", threads=1)
        real = other._session

        class Session:
            _sess = private
            run = staticmethod(real.run)

        other._session = Session
        other.prepare(other.blank())
        assert other._quick_run is None
        assert np.array_equal(other.run(["y"], {"x": np.ones((1, 2), np.float32)})[0], [[2.0, 2.0]])


def test_labels_of_an_output_come_from_the_properties_of_the_file(tmp_path: Path) -> None:
    file = doubled(tmp_path / "a")
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"labels.y": '["no", "yes"]', "labels.z": '["a"]', "author": "ada"})
    onnx.save(model, file)
    (promised,) = OnnxSession(file, device="cpu", threads=1).signature.outputs
    assert promised.labels == ("no", "yes")
