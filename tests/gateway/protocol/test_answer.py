import json
import math
import struct
import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.answer import Identity, WrongVersion, check_answer, splice_identity
from gateway.protocol.metadata import parse_signature
from gateway.protocol.shapes import Signature, TensorSpec

SIGNATURE = Signature(
    "test",
    (TensorSpec("numeric", "FP32", (-1, 7)),),
    (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
)


def answer(**changes: Any) -> dict[str, Any]:
    """A good answer of two rows; ``label_*`` and ``probabilities_*`` change a field of a tensor, ``...`` drops it."""
    document: dict[str, Any] = {
        "model_name": "credit",
        "model_version": "1",
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "data": [0.75, 0.25, 0.5, 0.5]},
        ],
    }
    for change, value in changes.items():
        tensor, _, field = change.partition("_")
        output = document["outputs"][["label", "probabilities"].index(tensor)]
        if value is ...:
            del output[field]
        else:
            output[field] = value
    return document


def problem(document: object, *, requested: list[str] | None = None, nan_ok: bool = False) -> str | None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return check_answer(body, None, SIGNATURE, requested=requested, nan_ok=nan_ok)


# Names spliced in.


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"model_name":"a","model_version":"1","id":""}', b'{"model_name":"m","model_version":"v2","id":""}'),
        (b'{"id":"7","model_name":"a","model_version":null}', b'{"id":"7","model_name":"m","model_version":"v2"}'),
        (b'{"outputs":[],"model_version":1,"model_name":"a"}', b'{"outputs":[],"model_version":"v2","model_name":"m"}'),
        (b'{"model_name":"a"}', b'{"model_version":"v2","model_name":"m"}'),
        (b" { } ", b' {"model_name":"m","model_version":"v2" } '),
        (b'{"outputs":[]}', b'{"model_name":"m","model_version":"v2","outputs":[]}'),
        (b'{"\\u006dodel_name":"a","model_version":"v2"}', b'{"\\u006dodel_name":"m","model_version":"v2"}'),
        (b'{"model_name":{"a":["}"]},"model_version":[1,[2]]}', b'{"model_name":"m","model_version":"v2"}'),
        (
            b'{"model_name":"a","model_version":"1","model_name":"b"}',
            b'{"model_name":"m","model_version":"v2","model_name":"m"}',
        ),
    ],
)
def test_the_public_names_are_spliced_in(body: bytes, wanted: bytes) -> None:
    assert splice_identity(body, None, "m", "v2") == (wanted, None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model_name":"m","model_version":"v2","outputs":[NaN, 9007199254740993, 1e400]}',
        b'{"model_name" : "\\u006d" , "model_version" : "v2"}',
        b'{"outputs":[{"name":"model_name","data":["model_name\\":"]}],"model_version":"v2","model_name":"m"}',
        b"",
        b"[]",
        b"<html>",
        b"{",
        b'{"a',
        b'{"a":1',
        b'{"model_name":',
        b'{"model_name":}',
        b"\xff\xfe{}",
    ],
)
def test_the_same_object_comes_back_when_nothing_differs_or_nothing_can_be_done(body: bytes) -> None:
    assert splice_identity(body, None, "m", "v2")[0] is body


def test_tensors_named_like_the_keys_are_not_touched() -> None:
    body = (
        b'{"model_name":"a","model_version":"1","outputs":[{"name":"model_name","data":["\\"model_name\\":\\"a\\""]}]}'
    )
    spliced, _ = splice_identity(body, None, "m", "v2")
    assert spliced == body.replace(b'"model_name":"a","model_version":"1"', b'"model_name":"m","model_version":"v2"', 1)


def test_the_binary_part_follows_with_a_new_header_length() -> None:
    head = b'{"model_name":"a","model_version":"1","outputs":[]}'
    tail = bytes(range(256)) + b'"model_name":"a"'
    body, header_length = splice_identity(head + tail, len(head), "credit", "v2")
    assert header_length == len(head) + 6
    assert body[:header_length] == b'{"model_name":"credit","model_version":"v2","outputs":[]}'
    assert body[header_length:] == tail


PLAIN = st.text(alphabet=st.characters(codec="utf-8"), max_size=8)
NAMES = st.sampled_from(["model_name", "model_version", "m", 'q"', "b\\", "}", "é"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | PLAIN, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    document=st.dictionaries(NAMES | PLAIN, VALUES, max_size=6),
    model=PLAIN,
    version=PLAIN,
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    tail=st.none() | st.binary(max_size=8),
)
def test_splicing_changes_the_two_names_and_nothing_else(
    document: dict[str, Any], model: str, version: str, ascii_only: bool, indent: int | None, tail: bytes | None
) -> None:
    head = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    body = head + (tail or b"")
    spliced, header_length = splice_identity(body, None if tail is None else len(head), model, version)
    assert (header_length is None) == (tail is None)
    new_head = spliced if header_length is None else spliced[:header_length]
    assert json.loads(new_head) == {**document, "model_name": model, "model_version": version}
    assert spliced[len(new_head) :] == (tail or b"")
    again, _ = splice_identity(spliced, header_length, model, version)
    assert again is spliced


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b'"model_name"', b"a", b"\xff"])))
def test_splicing_survives_any_bytes(tokens: list[bytes]) -> None:
    body = b"{" + b"".join(tokens)
    splice_identity(body, None, "m", "v")


@pytest.mark.parametrize("piece", [b'\\"', b'"', b"{", b"[[", b'"":', b'"\\', b"1,", b" "])
def test_splicing_takes_linear_time_on_hostile_bytes(piece: bytes) -> None:
    body = b'{"' + piece * (400_000 // len(piece))
    started_s = time.process_time()
    splice_identity(body, None, "m", "v")
    assert time.process_time() - started_s < 2.0


# The contract.


def test_a_good_answer_has_no_problem() -> None:
    assert problem(answer()) is None
    assert problem(answer(probabilities_data=[[0.75, 0.25], [0.5, 0.5]])) is None
    assert problem(answer(probabilities_data=[1, 0, 3.4028235e38, -0.0])) is None


def test_no_rows_is_a_good_answer() -> None:
    changes = {"label_shape": [0], "label_data": [], "probabilities_shape": [0, 2], "probabilities_data": []}
    assert problem(answer(**changes)) is None


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (b"<html>", "is not JSON"),
        (b"[1]", "no list of outputs"),
        (b'{"outputs":{}}', "no list of outputs"),
        (b'{"outputs":[1]}', "not an object with a name"),
        (b'{"outputs":[{"name":1}]}', "not an object with a name"),
        (b'{"outputs":[]}', "'label' is missing"),
        (answer(label_name="lable"), "'lable' is not one"),
        (answer(label_name="probabilities"), "'probabilities' is there twice"),
        (answer(label_datatype="INT32"), "datatype 'INT32', not INT64"),
        (answer(label_datatype=...), "datatype None"),
        (answer(label_shape="2"), "no shape"),
        (answer(label_shape=[-1]), "no shape"),
        (answer(label_shape=[True]), "no shape"),
        (answer(label_shape=[2.0]), "no shape"),
        (answer(label_shape=[2, 1]), "has shape [2, 1], not [-1]"),
        (answer(probabilities_shape=[2, 3]), "has shape [2, 3], not [-1, 2]"),
        (answer(label_shape=[1 << 40]), "more than"),
        (answer(label_shape=[3], label_data=[0, 1, 1]), "has 2 rows, output 'label' has 3"),
        (answer(label_data=...), "has no data"),
        (answer(label_data=5), "has no data"),
        (answer(label_data=[0]), "has 1 elements"),
        (answer(label_data=[[0], [1]]), "contains list"),
        (answer(label_data=[0, None]), "contains null"),
        (answer(label_data=[0, 1.0]), "contains float"),
        (answer(label_data=[0, True]), "contains bool"),
        (answer(label_data=[0, "1"]), "contains str"),
        (answer(label_data=[0, 1 << 63]), "outside INT64"),
        (answer(probabilities_data=[[0.5, 0.5]]), "has 1 rows"),
        (answer(probabilities_data=[[0.5, 0.5], [1.0]]), "row that is not of 2"),
        (answer(probabilities_data=[[0.5, 0.5], 1.0]), "nested unevenly"),
        (answer(probabilities_data=[[0.5, 0.5], [[1.0], 2]]), "contains list"),
        (answer(probabilities_data=[0.5, 0.5, 0.5, True]), "contains bool"),
        (answer(probabilities_data=[0.5, 0.5, 0.5, None]), "contains null"),
        (answer(probabilities_data=[0.5, 0.5, 0.5, "NaN"]), "contains str"),
        (answer(probabilities_data=[0.5, 0.5, 0.5, 1e39]), "not a finite FP32"),
        (answer(probabilities_data=[0.5, 0.5, 0.5, math.nan]), "contains NaN or Infinity"),
        (answer(probabilities_data=[0.5, 0.5, 0.5, math.inf]), "contains NaN or Infinity"),
        (json.dumps(answer()).replace("0.25", "1e999").encode(), ""),
        (answer(label_parameters={"binary_data_size": 16}), "both JSON and binary"),
        (answer(label_parameters={"binary_data_size": 16}, label_data=...), "behind the answer"),
        (answer(label_parameters={"binary_data_size": -1}, label_data=...), "binary_data_size of -1"),
        (b'{"outputs":' + b"[" * 100_000, "is not JSON"),
    ],
)
def test_each_breach_has_its_sentence(document: object, sentence: str) -> None:
    found = problem(document)
    assert found is not None
    assert sentence in found
    if sentence != "contains NaN or Infinity":
        assert problem(document, nan_ok=True) is not None or sentence in {"", "not a finite FP32"}


def test_nan_and_infinity_are_legal_when_the_version_says_so() -> None:
    document = answer(probabilities_data=[math.nan, math.inf, -math.inf, 0.5])
    assert problem(document, nan_ok=True) is None
    assert problem(answer(probabilities_data=[None, 1, 1, 1]), nan_ok=True) is not None


def test_only_the_requested_outputs_must_be_there() -> None:
    document = answer()
    del document["outputs"][0]
    assert problem(document, requested=["probabilities"]) is None
    assert problem(document, requested=["label"]) == "output 'label' is missing"
    assert problem(document, requested=[]) == "output 'label' is missing"


@pytest.mark.parametrize(
    ("datatype", "good", "bad"),
    [
        ("BOOL", [True, False], [[1, 0], ["true", "false"]]),
        ("UINT8", [0, 255], [[-1, 0], [0, 256]]),
        ("INT8", [-128, 127], [[0, 128]]),
        ("UINT64", [0, (1 << 64) - 1], [[-1, 0], [0, 1 << 64]]),
        ("FP64", [1e308, -5], [["a", 0.5]]),
        ("FP16", [65504, 0.5], [[70000, 0.5]]),
        ("BYTES", ["a", ""], [["a", 1], ["a", None]]),
    ],
)
def test_elements_must_be_plausible_for_their_datatype(datatype: str, good: list[Any], bad: list[list[Any]]) -> None:
    signature = Signature("", (), (TensorSpec("y", datatype, (2,)),))
    for data, is_good in [(good, True), *((data, False) for data in bad)]:
        output = {"name": "y", "datatype": datatype, "shape": [2], "data": data}
        body = json.dumps({"outputs": [output]}).encode()
        found = check_answer(body, None, signature, requested=None, nan_ok=False)
        assert (found is None) == is_good, (data, found)


def binary(sizes: list[int], tail: bytes) -> tuple[bytes, int]:
    label = {"name": "label", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": sizes[0]}}
    text = {"name": "text", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": sizes[1]}}
    head = orjson.dumps({"outputs": [label, text]})
    return head + tail, len(head)


LABELS = struct.pack("<2q", 0, 1)
STRINGS = struct.pack("<I3sI", 3, b"abc", 0)


@pytest.mark.parametrize(
    ("sizes", "tail", "sentence"),
    [
        ([16, 11], LABELS + STRINGS, None),
        ([16, 11], LABELS + STRINGS + b"x", "1 bytes follow"),
        ([16, 11], LABELS + STRINGS[:-1], "behind the answer"),
        ([8, 11], LABELS[:8] + STRINGS, "needs another number"),
        ([16, 12], LABELS + STRINGS + b"x", "not 2 strings"),
        ([16, 7], LABELS + STRINGS[:7], "not 2 strings"),
        ([16, 15], LABELS + STRINGS + bytes(4), "not 2 strings"),
        ([16, 8], LABELS + struct.pack("<II", 1 << 31, 0), "not 2 strings"),
    ],
)
def test_binary_outputs_must_add_up(sizes: list[int], tail: bytes, sentence: str | None) -> None:
    signature = Signature("", (), (TensorSpec("label", "INT64", (-1,)), TensorSpec("text", "BYTES", (-1,))))
    body, header_length = binary(sizes, tail)
    found = check_answer(body, header_length, signature, requested=None, nan_ok=False)
    assert (found is None) if sentence is None else (found is not None and sentence in found)


def test_a_header_length_beyond_the_answer_is_a_breach() -> None:
    assert "JSON part" in (check_answer(b"{}", 3, SIGNATURE, requested=None, nan_ok=False) or "")


def test_binary_nan_is_legal() -> None:
    signature = Signature("", (), (TensorSpec("y", "FP32", (1,)),))
    output = {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    head = orjson.dumps({"outputs": [output]})
    body = head + struct.pack("<f", math.nan)
    assert check_answer(body, len(head), signature, requested=None, nan_ok=False) is None


@settings(max_examples=100, deadline=None, derandomize=True)
@given(document=VALUES, nan_ok=st.booleans())
def test_checking_never_raises(document: object, nan_ok: bool) -> None:
    for body in (document, {"outputs": document}, {"outputs": [{"name": "label", "data": document}]}):
        assert problem(body, nan_ok=nan_ok)


# Metadata.


def test_metadata_becomes_a_signature() -> None:
    document = {
        "name": "credit",
        "platform": "onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 7]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
    }
    wanted = Signature("onnx", (TensorSpec("x", "FP32", (-1, 7)),), (TensorSpec("y", "INT64", (-1,)),))
    assert parse_signature(json.dumps(document).encode()) == wanted


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (None, "lists no inputs"),
        ([], "lists no inputs"),
        ([{"datatype": "FP32"}], "without a name"),
        ([{"name": "x", "datatype": "FP8", "shape": [1]}], "does not know"),
        ([{"name": "x", "datatype": "FP32", "shape": ["1"]}], "sizes are integers"),
        ([{"name": "x", "datatype": "FP32", "shape": 3}], "no shape"),
        ([{"name": "x", "datatype": "FP32", "shape": [1]}] * 2, "twice"),
    ],
)
def test_bad_metadata_is_refused_with_a_sentence(inputs: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_signature(json.dumps({"inputs": inputs, "outputs": []}).encode())


# Names given to one answer after the other.

ANSWERS = [
    b'{"model_name":"a","model_version":"1","outputs":[]}',
    b'{"model_name":"a","model_version":"1","outputs":[{"name":"a_b"}]}',
    b'{"model_name":"a","model_version":"1","outputs":[],"model_version":"2"}',
    b'{"model_name":"a","model_version":"1","outputs":[],"\\u006dodel_name":"b"}',
    b'{"model_name":"a","model_version":"1"}',
    b'{"model_name":"a","model_version":"1","model_',
    b'{"id":"7","model_name":"a","model_version":"1","outputs":[]}',
    b'{"model_name":"m","model_version":"v","outputs":[]}',
    b'{"outputs":[]}',
    b"",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ANSWERS), st.sampled_from([None, 0, 20, 40, 1_000])), max_size=12))
def test_remembering_how_answers_begin_changes_none(sequence: list[tuple[bytes, int | None]]) -> None:
    identity = Identity("m", "v")
    for body, cut in sequence:
        header_length = None if cut is None else min(cut, len(body))
        assert identity.give(body, header_length) == splice_identity(body, header_length, "m", "v")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(ANSWERS), max_size=12))
def test_an_answer_is_held_to_the_version_that_was_asked_whatever_came_before(sequence: list[bytes]) -> None:
    identity = Identity("m", "v", "1")
    good = {0, 1, 3, 4, 6}
    for body in sequence:
        if ANSWERS.index(body) in good:
            assert identity.give(body, None) == splice_identity(body, None, "m", "v")
        else:
            with pytest.raises(WrongVersion):
                identity.give(body, None)
