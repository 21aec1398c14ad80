"""Damaged bodies: each is read into arrays that fit the signature, or refused with a sentence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dataplane.admission import header_length
from gateway.errors import BadRequest
from gateway.protocol.request import read_request
from gateway.protocol.shapes import Signature, TensorSpec, element_count
from gateway.protocol.tensors import Binder
from tests.fuzz.mutations import mutated, seeds

BODIES = seeds("bodies")
DATATYPES = ("BOOL", "UINT8", "UINT16", "UINT64", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES")
WORDS = [
    b'"binary_data_size":',
    b'"shape":[-1]',
    b'"shape":[]',
    b'"data":[]',
    b"null",
    b"true",
    b"1e999",
    b"-0",
    b"18446744073709551616",
    b"[[",
    b"{",
    b'"parameters":{}',
    b'"name":"x1"',
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b'"\\ud800"',
    *(b'"%s"' % name.encode() for name in DATATYPES),
]


def check(case: bytes, datatype: str) -> None:
    given_length, _, body = case.partition(b"\n")
    spec = TensorSpec("x0", datatype, (-1, 3))
    signature = Signature("onnx", (spec,), (TensorSpec("y0", datatype, (-1, 3)),))
    headers = {} if given_length == b"-" else {b"inference-header-content-length": given_length}
    try:
        request = read_request(body, header_length(headers, len(body)))
        arrays = Binder(signature, {"x0": ("n", 3)}).arrays(request)
    except BadRequest:
        return
    assert set(arrays) == {"x0"}
    array = arrays["x0"]
    assert spec.admits(array.shape)
    assert array.size == element_count(array.shape)


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("case", BODIES)
def test_the_corpus(case: str, datatype: str) -> None:
    check(BODIES[case], datatype)


@settings(derandomize=True, deadline=None, max_examples=800)
@given(case=mutated(BODIES, WORDS), datatype=st.sampled_from(DATATYPES))
def test_damaged_bodies(case: bytes, datatype: str) -> None:
    check(case, datatype)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(tail=st.binary(max_size=64), length=st.integers(-2, 80), datatype=st.sampled_from(DATATYPES))
def test_any_tail(tail: bytes, length: int, datatype: str) -> None:
    head = b'{"inputs":[{"name":"x0","shape":[1,3],"datatype":"%s","parameters":{"binary_data_size":%d}}]}'
    head %= (datatype.encode(), length)
    check(b"%d\n" % len(head) + head + tail, datatype)
    check(b"0\n" + tail, datatype)
