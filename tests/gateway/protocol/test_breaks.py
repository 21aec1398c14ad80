from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.breaks import breaks
from gateway.protocol.metadata import as_plain, from_plain, labels_in, parse_signature
from gateway.protocol.shapes import Signature, TensorSpec

X = TensorSpec("x", "FP32", (-1, 4))
LABEL = TensorSpec("label", "INT64", (-1,))
ODDS = TensorSpec("odds", "FP32", (-1, 2), ("no", "yes"))
STABLE = Signature("onnx", (X,), (LABEL, ODDS))


def found(version: Signature, stable: Signature = STABLE) -> dict[str, str]:
    return {problem.pointer: problem.code for problem in breaks(stable, version)}


def with_output(**parts: Any) -> Signature:
    return Signature("onnx", (X,), (LABEL, replace(ODDS, **parts)))


def with_input(**parts: Any) -> Signature:
    return Signature("onnx", (replace(X, **parts),), (LABEL, ODDS))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (replace(STABLE, platform="triton"), {}),
        (Signature("onnx", (X,), (ODDS, LABEL)), {}),
        (Signature("onnx", (X,), (LABEL, ODDS, TensorSpec("why", "BYTES", (-1,)))), {}),
        (with_input(name="y"), {"/inputs/x": "missing", "/inputs/y": "extra"}),
        (with_input(datatype="FP64"), {"/inputs/x/datatype": "datatype"}),
        (with_input(shape=(-1, -1)), {}),
        (with_input(shape=(-1, 5)), {"/inputs/x/shape": "shape"}),
        (with_input(shape=(8, 4)), {"/inputs/x/shape": "shape"}),
        (with_input(shape=(-1, 4, 1)), {"/inputs/x/shape": "shape"}),
        (with_output(name="a/b~c"), {"/outputs/odds": "missing"}),
        (with_output(datatype="FP64"), {"/outputs/odds/datatype": "datatype"}),
        (with_output(shape=(-1, -1)), {"/outputs/odds/shape": "shape"}),
        (with_output(shape=(-1, 3)), {"/outputs/odds/shape": "shape"}),
        (with_output(shape=(2,)), {"/outputs/odds/shape": "shape"}),
        (with_output(shape=()), {"/outputs/odds/shape": "shape"}),
        (with_output(labels=("yes", "no")), {"/outputs/odds/labels": "labels"}),
        (with_output(labels=()), {}),
    ],
)
def test_every_kind_of_difference_is_a_break_or_none(version: Signature, expected: dict[str, str]) -> None:
    assert found(version) == expected


def test_all_breaks_are_listed_at_once_with_a_sentence_each() -> None:
    version = Signature("onnx", (replace(X, datatype="FP64", shape=(-1, 5)),), (replace(ODDS, datatype="FP64"),))
    assert [problem.message for problem in breaks(STABLE, version)] == [
        "input 'x' is FP64, stable's is FP32",
        "input 'x' takes [-1, 5], stable takes [-1, 4]",
        "output 'label' is not there, stable gives it",
        "output 'odds' is FP64, stable's is FP32",
    ]


def test_a_second_output_breaks_those_who_get_a_single_one_bare() -> None:
    alone = Signature("onnx", (X,), (LABEL,))
    assert found(STABLE, alone) == {"/outputs/odds": "extra"}


def test_rows_asked_for_are_no_break_where_every_input_counts_them() -> None:
    fixed = Signature("onnx", (replace(X, shape=(1, 4)),), (replace(ODDS, shape=(1, 2)),))
    free = Signature("onnx", (X,), (ODDS,))
    assert found(free, fixed) == {}
    also = TensorSpec("scale", "FP32", (1,))
    fixed, free = replace(fixed, inputs=(*fixed.inputs, also)), replace(free, inputs=(X, also))
    assert found(free, fixed) == {"/outputs/odds/shape": "shape"}


def test_names_in_pointers_are_escaped() -> None:
    stable = Signature("", (X,), (LABEL, TensorSpec("a/b~c", "FP32", (1,))))
    assert [problem.pointer for problem in breaks(stable, Signature("", (X,), (LABEL,)))] == ["/outputs/a~1b~0c"]


sizes = st.integers(-1, 2)
specs = st.builds(
    TensorSpec,
    st.sampled_from("abc"),
    st.sampled_from(["FP32", "INT64"]),
    st.lists(sizes, max_size=3).map(tuple),
    st.sampled_from([(), ("no", "yes"), ("yes", "no")]),
)
tensors = st.lists(specs, min_size=1, max_size=3, unique_by=lambda spec: spec.name).map(tuple)
signatures = st.builds(Signature, st.just(""), tensors, tensors)


@given(signatures)
def test_a_version_keeps_its_own_contract(signature: Signature) -> None:
    assert breaks(signature, signature) == []


@given(signatures)
def test_a_signature_survives_the_way_to_another_process(signature: Signature) -> None:
    assert from_plain(orjson.loads(orjson.dumps(as_plain(signature)))) == signature


@given(signatures, signatures, st.data())
def test_what_breaks_nothing_takes_every_request_of_stable(stable: Signature, version: Signature, data: Any) -> None:
    if breaks(stable, version):
        return
    taken = {spec.name: spec for spec in version.inputs}
    assert taken.keys() == {spec.name for spec in stable.inputs}
    for spec in stable.inputs:
        shape = [data.draw(st.integers(0, 3)) if size == -1 else size for size in spec.shape]
        assert taken[spec.name].admits(shape)
        assert taken[spec.name].datatype == spec.datatype


@given(signatures, signatures, st.data())
def test_what_breaks_nothing_gives_only_what_stable_announces(stable: Signature, version: Signature, data: Any) -> None:
    if breaks(stable, version):
        return
    given_ = {spec.name: spec for spec in version.outputs}
    counts_rows = all(spec.shape[:1] == (-1,) for spec in version.inputs)
    for spec in stable.outputs:
        its = given_[spec.name]
        assert its.datatype == spec.datatype
        shape = [data.draw(st.integers(0, 3)) if size == -1 else size for size in its.shape]
        if counts_rows and its.shape[:1] == (-1,) and spec.shape[:1] != (-1,):
            shape[0] = spec.shape[0]
        assert spec.admits(shape)


@given(signatures, signatures)
def test_the_order_of_tensors_says_nothing(stable: Signature, version: Signature) -> None:
    turned = Signature("", version.inputs[::-1], version.outputs[::-1])
    assert found(version, stable) == found(turned, stable)


@pytest.mark.parametrize(
    ("parameters", "labels"),
    [
        ({"labels": ["no", "yes"]}, ("no", "yes")),
        ({"labels": '["no", "yes"]'}, ("no", "yes")),
        ({"labels": "no, yes"}, ()),
        ({"labels": [1]}, ()),
        ({"labels": None}, ()),
        (None, ()),
        ([], ()),
    ],
)
def test_labels_are_read_where_they_are_a_list_of_texts(parameters: object, labels: tuple[str, ...]) -> None:
    assert labels_in(parameters) == labels
    output = {"name": "odds", "datatype": "FP32", "shape": [-1, 2], "parameters": parameters}
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}], "outputs": [output]}
    assert parse_signature(orjson.dumps(body)).outputs[0].labels == labels
