"""Two answers compared as tensors: JSON and binary alike, plain Python and numpy alike."""

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.outputs import FEW, Unreadable, read_outputs
from gateway.protocol.pairs import _floats, compare_answers
from routing.analysis.compare import SINGLE, agrees, float_difference, same_labels

CODES = {"FP32": "f", "FP64": "d", "INT64": "q", "BOOL": "?"}
Tensor = tuple[str, str, list[int], list[Any]]


def as_json(*outputs: Tensor) -> tuple[bytes, None]:
    plain = [{"name": n, "datatype": d, "shape": s, "data": v} for n, d, s, v in outputs]
    return json.dumps({"model_name": "m", "outputs": plain}).encode(), None


def as_binary(*outputs: Tensor) -> tuple[bytes, int]:
    plain, tail = [], b""
    for name, datatype, shape, values in outputs:
        if datatype == "BYTES":
            data = b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)
        else:
            data = struct.pack(f"<{len(values)}{CODES[datatype]}", *values)
        parameters = {"binary_data_size": len(data)}
        plain.append({"name": name, "datatype": datatype, "shape": shape, "parameters": parameters})
        tail += data
    head = json.dumps({"model_name": "m", "outputs": plain}).encode()
    return head + tail, len(head)


LABEL: Tensor = ("label", "INT64", [2], [1, 0])
CHANCES: Tensor = ("p", "FP32", [2, 2], [0.25, 0.75, 0.5, 0.125])
NAMES: Tensor = ("names", "BYTES", [2], ["yes", "nö"])
MANY: Tensor = ("many", "FP32", [2, FEW], [n / 8 for n in range(2 * FEW)])


def test_binary_and_json_say_the_same() -> None:
    outputs = (LABEL, CHANCES, NAMES, MANY, ("flag", "BOOL", [1], [True]))
    found = compare_answers(*as_json(*outputs), *as_binary(*outputs))
    assert agrees(found)
    assert same_labels(found) is True
    assert sum(d.elements for d in found.values()) == 2 + 4 + 2 + 2 * FEW + 1


def test_nested_and_flat_data_say_the_same() -> None:
    nested: Tensor = ("p", "FP32", [2, 2], [[0.25, 0.75], [0.5, 0.125]])
    assert agrees(compare_answers(*as_json(CHANCES), *as_json(nested)))
    assert agrees(
        compare_answers(*as_json(("i", "INT64", [2, 1], [[1], [2]])), *as_json(("i", "INT64", [2, 1], [1, 2])))
    )


@pytest.mark.parametrize(
    ("other", "name", "mismatch"),
    [
        ([LABEL], "p", "missing"),
        ([LABEL, CHANCES, NAMES], "names", "extra"),
        ([LABEL, ("p", "FP64", [2, 2], CHANCES[3])], "p", "datatype"),
        ([("label", "INT32", [2], [1, 0]), CHANCES], "label", "datatype"),
        ([LABEL, ("p", "FP32", [4], CHANCES[3])], "p", "shape"),
    ],
)
def test_each_mismatch_is_told(other: list[Tensor], name: str, mismatch: str) -> None:
    found = compare_answers(*as_json(LABEL, CHANCES), *as_json(*other))
    assert found[name].mismatch == mismatch
    assert not agrees(found)


@pytest.mark.parametrize("bad", [b"", b"[]", b'{"outputs": 1}', b'{"outputs": [{"name": "p"}]}', b"{", b"\xff"])
def test_an_answer_of_the_shadow_that_cannot_be_read_differs_in_every_output(bad: bytes) -> None:
    found = compare_answers(*as_json(LABEL, CHANCES), bad, None)
    assert {d.mismatch for d in found.values()} == {"unreadable"}
    with pytest.raises(Unreadable):
        compare_answers(bad, None, *as_json(LABEL))


def test_parameters_may_be_null() -> None:
    body = as_json(LABEL)[0].replace(b'"shape"', b'"parameters": null, "shape"')
    assert agrees(compare_answers(*as_json(LABEL), body, None))


def test_a_string_beyond_its_tensor_is_unreadable() -> None:
    body, length = as_binary(("names", "BYTES", [1], ["abc"]))
    with pytest.raises(Unreadable):
        read_outputs(body[:-1], length)


def test_exact_datatypes_have_no_tolerance() -> None:
    found = compare_answers(*as_json(LABEL, NAMES), *as_json(("label", "INT64", [2], [1, 1]), NAMES))
    assert (found["label"].unequal, found["label"].labels, found["label"].labels_unequal) == (1, 2, 1)
    large = 2**53
    found = compare_answers(*as_json(("i", "INT64", [1], [large])), *as_json(("i", "INT64", [1], [large + 1])))
    assert found["i"].unequal == 1


def test_nan_in_json_and_in_binary_is_nan() -> None:
    nan: Tensor = ("p", "FP32", [1, 2], [math.nan, 1.0])
    assert agrees(compare_answers(*as_json(nan), *as_binary(nan)))
    found = compare_answers(*as_json(nan), *as_json(("p", "FP32", [1, 2], [0.5, 1.0])))
    assert (found["p"].unequal, found["p"].not_finite, found["p"].labels) == (1, 1, 0)


@given(
    st.integers(1, 5).flatmap(lambda n: st.lists(st.tuples(*[st.floats(width=32)] * 2), min_size=2 * n, max_size=2 * n))
)
def test_numpy_and_plain_python_say_the_same(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    plain = float_difference(ours, theirs, SINGLE, 2)
    by_numpy = _floats(np.array(ours), np.array(theirs), SINGLE, 2, "")
    assert by_numpy == pytest.approx(plain)
