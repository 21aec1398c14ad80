"""Header blocks: the examples of RFC 7541, and whatever else may come."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends.http2.frames import Violation
from gateway.backends.http2.heads import Head, KnownBlocks
from gateway.backends.http2.hpack import literal, read_block

# Appendix C.4 and C.6 of the RFC, those that need no dynamic table; and what each says.
EXAMPLES = {
    "828684418cf1e3c2e5f23a6ba0ab90f4ff": [
        (b":method", b""),
        (b":scheme", b""),
        (b":path", b""),
        (b":authority", b"www.example.com"),
    ],
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3": [
        (b":status", b"302"),
        (b"cache-control", b"private"),
        (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
        (b"location", b"https://www.example.com"),
    ],
}


@pytest.mark.parametrize(("block", "wanted"), EXAMPLES.items())
def test_the_examples_of_the_standard_are_read(block: str, wanted: list[tuple[bytes, bytes]]) -> None:
    assert list(read_block(bytes.fromhex(block))) == wanted


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=5))
def test_what_is_written_is_read_back(headers: list[tuple[bytes, bytes]]) -> None:
    assert list(read_block(b"".join(literal(*header) for header in headers))) == headers


@given(st.binary(max_size=100))
def test_no_bytes_break_the_reader(block: bytes) -> None:
    with suppress(Violation):
        list(read_block(block))


def test_blocks_are_remembered_up_to_a_bound() -> None:
    known = KnownBlocks()
    for n in range(257):
        block = literal(b"grpc-status", b"3") + literal(b"grpc-message", b"no%%20%d" % n)
        assert known.read(block) == known.read(block) == Head(None, 3, f"no {n}")
    assert known.forgotten == 1


@pytest.mark.parametrize("status", [b"", b"x", b"17", b"-1", b"000000000000000016"])
def test_a_status_that_there_is_not_is_unknown(status: bytes) -> None:
    assert KnownBlocks().read(literal(b"grpc-status", status)).grpc_status == 2
