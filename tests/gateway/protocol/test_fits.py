"""What is found out once for a text holds for every request that has it, and for no other."""

import json
from typing import Any

import numpy as np
import pytest

from gateway.errors import BadRequest
from gateway.protocol import request as reading
from gateway.protocol.form import Form, InferRequest, InputTensor
from gateway.protocol.request import read_request
from gateway.protocol.shapes import Signature, TensorSpec
from gateway.protocol.skeleton import Skeletons
from gateway.protocol.tensors import FITS_KEPT, Binder

SPECS = (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "BYTES", (-1,)), TensorSpec("c", "INT64", (-1,)))
SIGNATURE = Signature("onnx", SPECS, (TensorSpec("y", "FP32", (-1,)), TensorSpec("z", "FP32", (-1,))))


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_skeletons", Skeletons())


def asked(n: int, rows: int = 2, **more: Any) -> bytes:
    """Inputs in another order than the version's."""
    inputs = [
        {"name": "c", "shape": [rows], "datatype": "INT64", "data": [n] * rows},
        {"name": "a", "shape": [rows, 2], "datatype": "FP32", "data": [n + 0.5] * 2 * rows},
        {"name": "b", "shape": [rows], "datatype": "BYTES", "data": [f"b{n}"] * rows},
    ]
    return json.dumps({"inputs": inputs, **more}).encode()


def test_every_request_of_a_text_is_bound_to_its_own_data() -> None:
    binder = Binder(SIGNATURE, {})
    fits = set()
    for n in range(6):
        request = read_request(asked(n))
        fit, values = binder.bind(request)
        fits.add(id(fit))
        arrays = fit.feeds(values)
        assert list(arrays) == ["a", "b", "c"]
        assert arrays["a"].tolist() == [[n + 0.5] * 2] * 2
        assert arrays["b"].tolist() == [f"b{n}"] * 2
        assert arrays["c"].tolist() == [n] * 2
        assert [array.dtype for array in arrays.values()] == [np.float32, np.object_, np.int64]
    assert len(binder._fits) == 2, "the text, and its shapes"
    assert len(fits) == 2
    assert (fit.rows, fit.company, fit.names) == (2, (), ["y", "z"])


def test_requests_are_joined_whatever_form_their_values_have() -> None:
    binder = Binder(SIGNATURE, {})
    bound = [binder.bind(read_request(asked(n, rows))) for n, rows in enumerate((1, 1, 1, 1, 3, 2))]
    joined = bound[0][0].joined([values for _, values in bound], 9)
    numbers = [0, 1, 2, 3, 4, 4, 4, 5, 5]
    assert joined["a"].tolist() == [[n + 0.5] * 2 for n in numbers]
    assert joined["b"].tolist() == [f"b{n}" for n in numbers]
    assert joined["c"].tolist() == numbers


def test_what_does_not_fit_is_refused_each_time_and_what_is_asked_for_is_part_of_the_fit() -> None:
    binder, other = Binder(SIGNATURE, {}), Binder(Signature("onnx", SPECS[:2], ()), {})
    shared = Binder(SIGNATURE, {"a": ("n", 2), "b": ("n",), "c": ("n",)})
    uneven = asked(1).replace(
        b'"shape": [2], "datatype": "INT64", "data": [1, 1]', b'"shape": [1], "datatype": "INT64", "data": [1]'
    )
    for n in range(4):
        fit, _ = binder.bind(read_request(asked(n, outputs=[{"name": "z"}])))
        assert (fit.company, fit.names) == (("z",), ["z"])
        for wrong, at, sentence in (
            (asked(n), other, "input 'c' is unknown"),
            (asked(n, outputs=[{"name": "x"}]), binder, "output 'x' is unknown"),
            (asked(n).replace(b"[2, 2]", b"[1, 4]"), binder, "shape"),
            (uneven, shared, "disagree on 'n'"),
        ):
            with pytest.raises(BadRequest, match=sentence):
                at.bind(read_request(wrong))
        assert binder.bind(read_request(uneven))[0].company is None


def test_fits_are_bounded() -> None:
    binder = Binder(Signature("onnx", SPECS[2:], ()), {})
    for n in range(FITS_KEPT + 3):
        form = Form({"n": n}, {"c": InputTensor("c", "INT64", (1,), None)}, None)
        binder.bind(InferRequest(form, None, [bytes(8)]))
        binder.bind(
            read_request(b'{"inputs":[{"name":"c","shape":[1],"datatype":"INT64","data":[%d],"n":%d}]}' % (n, n))
        )
        assert len(binder._fits) <= FITS_KEPT
    assert len(binder._fits) < 10


def test_only_requests_whose_rows_are_alike_are_company() -> None:
    specs = (TensorSpec("c", "INT64", (-1, -1)),)
    binder = Binder(Signature("onnx", specs, SIGNATURE.outputs), {})

    def company(*shape: int, **more: Any) -> Any:
        item = {"name": "c", "shape": shape, "datatype": "INT64", "data": [1] * int(np.prod(shape))}
        return binder.bind(read_request(json.dumps({"inputs": [item], **more}).encode()))[0].company

    assert company(1, 2) == company(3, 2) == ((2,),)
    assert company(1, 3) == ((3,),)
    assert company(1, 3, outputs=[{"name": "z"}]) == ("z", (3,))
    assert company(0, 3) is None
