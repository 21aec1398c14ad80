"""A body that is read by a skeleton is read, or refused, exactly as the careful reader has it."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.protocol import request as reading
from gateway.protocol import skeleton as skeletons
from gateway.protocol.form import InferRequest
from gateway.protocol.request import read_json, read_request
from gateway.protocol.shapes import Signature, TensorSpec
from gateway.protocol.skeleton import BODY_BYTES, SKELETON_BYTES, SKELETONS_KEPT, Skeletons
from gateway.protocol.tensors import Binder

NUMBERS = ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "FP32", "FP64")


def body(*inputs: tuple[str, str, list[Any]], **more: Any) -> bytes:
    items = [
        {"name": name, "shape": [len(data)], "datatype": datatype, "data": data} for name, datatype, data in inputs
    ]
    return json.dumps({**more, "inputs": items}, separators=(",", ":")).encode()


def learnt(*bodies: bytes) -> Skeletons:
    """What has seen each body twice."""
    known = Skeletons()
    for text in bodies * 2:
        known.visited(text, read_json(text), read_json)
    return known


def said(read: Any, text: bytes, datatypes: tuple[str, ...], before: bytes = b"", rank: int = 1) -> Any:
    """All that anybody can see of a request that was read, and bound to a version that has seen one before it."""
    specs = tuple(TensorSpec(f"x{n}", datatype, (-1,) * rank) for n, datatype in enumerate(datatypes))
    binder = Binder(Signature("onnx", specs, specs), {})
    with suppress(BadRequest):
        binder.bind(read(before))
    try:
        request: InferRequest = read(text)
    except BadRequest as error:
        return "body", str(error)
    seen = request.id, request.parameters, request.outputs, request.form.is_plain, request.form.binary
    try:
        arrays = binder.arrays(request)
    except BadRequest as error:
        return seen, str(error)
    return seen, [(name, a.dtype.str, a.shape, a.tolist()) for name, a in arrays.items()]


def by_skeleton(known: Skeletons) -> Any:
    return lambda text: known.read(text) or read_json(text)


def hits(known: Skeletons, text: bytes) -> bool:
    return known.read(text) is not None


number = st.one_of(
    st.integers(-300, 300),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([1e-7, 2**53 + 2**29 + 1]),
)
odd = st.sampled_from([True, False, None, "1", [1], [[2]], {}, {"a": []}, 1e39, 2**64, -1, 0.5, "u", '],"data":['])
letters = st.text(st.sampled_from('a"\\][,{}:é\u2028\n\0 0'), max_size=6)
elements = {
    "numbers": st.lists(st.one_of(number, number, number, odd), min_size=2, max_size=3),
    "BYTES": st.lists(st.one_of(letters, letters, letters, odd), min_size=2, max_size=3),
    "right": st.lists(st.integers(0, 100), min_size=2, max_size=2),
}


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_other_elements_are_read_as_the_careful_reader_has_them(data: st.DataObject) -> None:
    datatypes = tuple(data.draw(st.lists(st.sampled_from((*NUMBERS, "BYTES")), min_size=1, max_size=3)))
    has_id = data.draw(st.booleans())
    rank = data.draw(st.integers(1, 3))
    nests = data.draw(st.booleans())

    def nested(values: list[Any]) -> list[Any]:
        for _ in range(rank - 1 if nests else 0):
            values = [values]
        return values

    more: dict[str, Any] = {"id": "first"} if has_id else {}

    def written(kind: str) -> bytes:
        items = [(f"x{n}", t, ["a", "b"] if t == "BYTES" else [1, 2]) for n, t in enumerate(datatypes)]
        text = json.loads(body(*items, **more))
        if has_id and kind == "other":
            text["id"] = data.draw(letters)
        for item, t in zip(text["inputs"], datatypes, strict=True):
            item["shape"] = [1] * (rank - 1) + item["shape"]
            if kind == "other":
                item["data"] = data.draw(
                    elements["BYTES" if t == "BYTES" else data.draw(st.sampled_from(["numbers", "right"]))]
                )
            item["data"] = nested(item["data"])
        return json.dumps(text, ensure_ascii=data.draw(st.booleans()) or kind == "first").encode()

    good = written("first")
    known = learnt(good)
    assert len(known) == 1
    other = written("other")
    assert said(by_skeleton(known), other, datatypes, good, rank) == said(read_json, other, datatypes, rank=rank)


WORDS = [
    b'"', b"]", b"[", b"{", b"}", b",", b"\\", b'"data":[', b'"data":[3],', b'"id":"z",', b'"d\\u0061ta":[5],', b" ",
    b"true", b"null", b"1e999", b"-", b"1.5", b"300", b"\xff", b'"\\ud800"', b'],"x":[', b'"parameters":{},', b"[[1]]",
]  # fmt: skip
FIRST = [
    body(("x0", "FP32", [1.0, 2.5]), id="one"),
    body(("x0", "UINT8", [1, 2]), ("x1", "BYTES", ["a", 'b"]']), parameters={"p": [1]}),
    body(("x0", "INT64", [7]), id="i", outputs=[{"name": "y", "parameters": {"classification": 2}}]),
    body(("data", "FP64", [0.1, 0.2])),
    b'{"inputs":[{"name":"x0","shape":[1,2],"datatype":"FP32","data":[[1.0,2.5]]}]}',
]


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(FIRST), st.data())
def test_damaged_bodies_are_read_or_refused_as_the_careful_reader_does(first: bytes, data: st.DataObject) -> None:
    text = first
    for _ in range(data.draw(st.integers(1, 3))):
        at, cut = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 3))
        text = text[:at] + data.draw(st.sampled_from([b"", *WORDS])) + text[at + cut :]
    datatypes = {0: ("FP32",), 1: ("UINT8", "BYTES"), 2: ("INT64",), 3: ("FP64",), 4: ("FP32",)}[FIRST.index(first)]
    rank = 2 if b"[[" in first else 1
    known = learnt(first)
    assert said(by_skeleton(known), text, datatypes, first, rank) == said(read_json, text, datatypes, rank=rank)
    try:  # whatever is learnt from a damaged body that is a request reads the others right
        known, good = learnt(text), text
    except BadRequest:
        return
    for other in (first, text, text.replace(b"1", b"4"), text.replace(b"a", b"bc")):
        assert said(by_skeleton(known), other, datatypes, good, rank) == said(read_json, other, datatypes, rank=rank)


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs":[{"name":"x0","shape":[1],"datatype":"FP32","data":[4],"data":[0]}]}',
        b'{"inputs":[{"name":"x0","shape":[1],"datatype":"FP32","data":[4],"d\\u0061ta":[0]}]}',
        b'{"inputs":[{"name":"x0","shape":[1],"datatype":"FP32","d\\u0061ta":[4]}],"parameters":{"data":[0]}}',
        b'{"inputs":[{"name":"x0","shape":[1],"datatype":"FP32","data":[4]}],"inputs":[{"name":"x0","shape":[1],'
        b'"datatype":"FP32","d\\u0061ta":[0]}]}',
        b'{"id":"a","inputs":[{"name":"x0","shape":[1],"datatype":"FP32","data":[4]}],"id":"a"}',
        b'{"id":"a","inputs":[{"name":"x0","shape":[1],"datatype":"FP32","data":[4]}],"id":"a?"}',
        b'{"inputs":[{"name":"x0","shape":[2,1],"datatype":"FP32","data":[[4],[5]]}]}',
        b'{"inputs":[{"name":"x0","shape":[1,1,1],"datatype":"FP32","data":[[4]]}]}',
        b'{"inputs":[{"name":"x0","shape":[1],"datatype":"FP32","data":[[4]]}]}',
        b'{"inputs":[{"name":"x0","shape":[1],"datatype":"BOOL","data":[true]}]}',
        b'{"inputs":[{"name":"x0","shape":[0],"datatype":"FP32","data":[]}]}',
        b'{"inputs":[{"name":"x0","shape":[0],"datatype":"FP32","parameters":{"binary_data_size":0}}],'
        b'"parameters":{"data":[0]}}',
    ],
)
def test_what_is_not_sure_to_be_where_the_data_come_from_makes_no_skeleton(text: bytes) -> None:
    assert len(learnt(text)) == 0


def test_a_client_that_changes_numbers_and_id_is_read_by_its_skeleton() -> None:
    known = learnt(body(("x0", "FP32", [1.0, 2.0]), ("x1", "BYTES", ["a"]), id="one"))
    other = body(("x0", "FP32", [3.5, -4]), ("x1", "BYTES", ['"]}']), id="two")
    request = known.read(other)
    assert request is not None
    assert request.id == "two"
    assert request.inputs["x1"].data == ['"]}']
    assert bytes(request.inputs["x0"].data) == b"\0\0\x60\x40\0\0\x80\xc0"
    assert hits(known, other.replace(b'"id":', b'"id": '))
    for wrong in (body(("x0", "FP32", [1, 2, 3]), ("x1", "BYTES", ["a"]), id="one"), other[:-1], other + b" "):
        assert not hits(known, wrong)
    assert not hits(known, other.replace(b"3.5", b"true"))
    assert not hits(known, other.replace(b"3.5", b"1e39"))


def test_a_skeleton_is_made_at_the_second_visit_and_again_when_it_does_not_help() -> None:
    known = Skeletons()
    first, other = (body(("x0", "FP32", [1]))[:-1] + b',"k":%d}' % n for n in (1, 2))
    for visit, text in enumerate((first, first, other, other), 1):
        assert hits(known, first) == (visit > 2)
        known.visited(text, read_json(text), read_json)
    assert hits(known, other)
    assert not hits(known, first)


def test_skeletons_are_bounded_in_number_and_size() -> None:
    known = Skeletons()
    for n in range(2 * SKELETONS_KEPT + 10):
        text = body((f"x{n}", "FP32", [1]))
        for _ in range(2):
            known.visited(text, read_json(text), read_json)
        assert hits(known, text)
        assert len(known) <= SKELETONS_KEPT
    assert len(known) == 10
    assert len(known._visits) == 10
    assert len(learnt(body(("x0", "FP32", [1]), parameters={"p": "p" * SKELETON_BYTES}))) == 0
    assert len(learnt(body(("x0", "FP32", [1]), ("x" * SKELETON_BYTES, "FP32", [1])))) == 0
    assert len(learnt(body(("x0", "FP32", [1] * (skeletons.ELEMENTS + 1))))) == 0
    assert len(learnt(body(("x0", "BYTES", ["b" * BODY_BYTES])))) == 0
    assert not hits(learnt(body(("x0", "BYTES", ["b"]))), body(("x0", "BYTES", ["b" * BODY_BYTES])))


def test_read_request_reads_by_skeletons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_skeletons", Skeletons())
    requests = [read_request(body(("x0", "FP32", [n, 0.5]), id=str(n))) for n in range(4)]
    assert [request.data is not None for request in requests] == [False, False, True, True]
    assert requests[2].form is requests[3].form
    assert [request.id for request in requests] == ["0", "1", "2", "3"]
