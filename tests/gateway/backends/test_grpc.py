"""Calls by gRPC against servers that do what a real one never does."""

import json
import struct

import pytest

from gateway.backends.base import State
from routing.analysis.outcome import Kind
from tests.gateway.backends.grpc_calls import BODY, END, HEAD, Call, call, replies_to, sends
from tests.gateway.backends.grpc_server import (
    ANSWER,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OK_HEAD,
    OK_TRAILERS,
    PADDED,
    PING,
    PUSH,
    RESET,
    SETTINGS,
    WINDOW,
    Peer,
    answer,
    field,
    frame,
    grpc_server,
    message,
    refusal,
)
from tests.gateway.backends.remote import ask, backend, run

GOOD = {
    "plain": HEAD + BODY + END,
    "in single bytes": HEAD + b"".join(frame(DATA, 0, 1, bytes((b,))) for b in message(ANSWER)) + END,
    "padded": frame(HEADERS, END_HEADERS | PADDED, 1, b"\x03" + OK_HEAD + b"\0\0\0")
    + frame(DATA, PADDED, 1, b"\x02" + message(ANSWER) + b"\0\0")
    + END,
    "with a priority": frame(HEADERS, END_HEADERS | 0x20, 1, b"\0\0\0\0\x07" + OK_HEAD) + BODY + END,
    "headers that go on": frame(HEADERS, 0, 1, OK_HEAD + OK_TRAILERS[:5])
    + frame(CONTINUATION, 0, 1, OK_TRAILERS[5:9])
    + frame(CONTINUATION, END_HEADERS, 1, OK_TRAILERS[9:])
    + BODY
    + END,
    "behind an interim head": frame(HEADERS, END_HEADERS, 1, b"\x08\x03103") + HEAD + BODY + END,
    "between frames of no known kind": frame(77, 255, 9, b"?") + HEAD + frame(2, 0, 1, b"\0\0\0\0\x07") + BODY + END,
    "behind a table of no size": frame(HEADERS, END_HEADERS, 1, b"\x20" + OK_HEAD) + BODY + END,
    "behind empty data": HEAD + frame(DATA, 0, 1) + BODY + END,
}


@pytest.mark.parametrize("frames", GOOD.values(), ids=GOOD)
def test_a_good_answer_is_read_however_it_is_framed(frames: bytes) -> None:
    (reply,) = replies_to(sends(frames))
    assert (reply.kind, reply.status, reply.detail) == (Kind.OK, 200, "")
    assert json.loads(reply.body) == {
        "model_name": "credit",
        "model_version": "v7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.5]}],
    }


BAD = {
    "a frame above the bound": (struct.pack(">I", 1 << 15)[1:] + b"\0\0\0\0\0\1", "a frame too large"),
    "data before headers": (BODY, "data before headers"),
    "padding longer than its frame": (HEAD + frame(DATA, PADDED, 1, b"\x09abc"), "padding that is longer"),
    "headers that break off": (frame(HEADERS, 0, 1, OK_HEAD) + frame(PING, 0, 0, b"12345678"), "broke off a header"),
    "headers from nowhere": (frame(CONTINUATION, END_HEADERS, 1, OK_HEAD), "has not begun"),
    "headers without end": (
        frame(HEADERS, 0, 1, OK_HEAD) + frame(CONTINUATION, 0, 1, b"\0" * 16000) * 5,
        "bytes of headers",
    ),
    "a table of headers": (frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\x1f" + OK_HEAD), "a table of headers"),
    "a header of no table": (frame(HEADERS, END_HEADERS, 1, b"\xff\x00"), "in no table"),
    "a header cut off": (frame(HEADERS, END_HEADERS, 1, b"\x00\x3fab"), "ends too early"),
    "a huge number": (frame(HEADERS, END_HEADERS, 1, b"\xff" * 12), "a number that does not end"),
    "no Huffman code": (frame(HEADERS, END_HEADERS, 1, b"\x00\x84\xff\xff\xff\xff\x00"), "no Huffman code"),
    "a push": (frame(PUSH, END_HEADERS, 1, b"\0\0\0\2" + OK_HEAD), "pushes"),
    "a call that never was": (frame(RESET, 0, 7, b"\0\0\0\0"), "call 7"),
    "an even call": (frame(DATA, 0, 2, b""), "call 2"),
    "odd settings": (frame(SETTINGS, 0, 0, b"\0\0\0"), "an odd size"),
    "small frames": (frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1"), "wants frames of 1 bytes"),
    "too wide a window": (frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), "window that is too large"),
    "a short reset": (frame(RESET, 0, 1, b"\0"), "a reset of 1 bytes"),
    "no status": (HEAD + frame(DATA, END_STREAM, 1, message(ANSWER)), "without a status"),
    "no gRPC": (frame(HEADERS, END_HEADERS, 1, b"\x8d"), "HTTP status 404"),
    "no gRPC at all": (frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x8e"), "HTTP status 500"),
    "two messages": (HEAD + BODY + BODY + END, "one plain message"),
    "half a message": (HEAD + frame(DATA, 0, 1, message(ANSWER)[:-1]) + END, "one plain message"),
    "a compressed one": (HEAD + frame(DATA, 0, 1, b"\1" + message(ANSWER)[1:]) + END, "one plain message"),
    "no message": (HEAD + END, "one plain message"),
    "a reset": (frame(RESET, 0, 1, b"\0\0\0\2"), "code 2"),
    "interim heads without end": (frame(HEADERS, END_HEADERS, 1, b"\x08\x03103") * 9, "interim answers"),
}


@pytest.mark.parametrize(("frames", "words"), BAD.values(), ids=BAD)
def test_what_is_no_answer_breaks_the_call_and_says_how(frames: bytes, words: str) -> None:
    (reply,) = replies_to(sends(frames))
    assert (reply.kind, reply.status) == (Kind.BROKEN, 502)
    assert words in reply.detail
    assert b"127.0.0.1" not in reply.body


CONTRACT = {
    "no outputs' data": ANSWER[:-6],
    "another version": ANSWER.replace(b"\x12\x011", b"\x12\x012"),
    "no version": ANSWER.replace(b"\x12\x011", b""),
    "a shape that its bytes are not": ANSWER.replace(b"\x1a\x01\x01", b"\x1a\x01\x02"),
    "a datatype without JSON": ANSWER.replace(b"FP32", b"BF16"),
    "no protobuf": b"\xff\xff\xff",
    "a NaN": ANSWER[:-4] + struct.pack("<f", float("nan")),
}


@pytest.mark.parametrize("body", CONTRACT.values(), ids=CONTRACT)
def test_an_answer_that_is_not_what_was_asked_breaks_the_contract(body: bytes) -> None:
    (reply,) = replies_to(sends(answer(1, body)), holds_to_version=True)
    status = 500 if body == CONTRACT["a NaN"] else 502  # as a version in process that answers so
    assert (reply.kind, reply.status) == (Kind.CONTRACT, status)


def test_an_answer_larger_than_the_bound_is_broken_off_and_the_connection_stays() -> None:
    async def script(peer: Peer) -> None:
        await peer.call()
        peer.send(HEAD, frame(DATA, 0, 1, b"\0" * 16000) * 2)
        assert (await peer.until(RESET)).payload == b"\0\0\0\x08"
        await peer.call()
        peer.send(answer(3))
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script) as url, backend(url, max_answer_bytes=20_000) as made:
            first = await ask(made, call())
            assert (first.kind, "more than 20000 bytes" in first.detail) == (Kind.BROKEN, True)
            assert (await ask(made, call())).kind is Kind.OK
            assert made.instance_status()[0]["connections"] == 1

    run(scenario())


STATUSES = {
    1: (Kind.ERROR, 503),
    2: (Kind.ERROR, 500),
    3: (Kind.REJECTED, 400),
    4: (Kind.TIMEOUT, 504),
    5: (Kind.REJECTED, 404),
    6: (Kind.REJECTED, 400),
    8: (Kind.ERROR, 429),
    12: (Kind.ERROR, 501),
    13: (Kind.ERROR, 500),
    14: (Kind.ERROR, 503),
    77: (Kind.ERROR, 500),
}


@pytest.mark.parametrize(("code", "wanted"), STATUSES.items())
def test_each_status_is_what_tritons_http_port_makes_of_it(code: int, wanted: tuple[Kind, int]) -> None:
    block = refusal(code, b"caf%C3%A9 is closed")
    (reply,) = replies_to(sends(frame(HEADERS, END_HEADERS | END_STREAM, 1, block)))
    assert (reply.kind, reply.status) == wanted
    if code != 4:
        assert json.loads(reply.body) == {"error": "café is closed"}


def test_a_server_of_something_else_is_not_ready() -> None:
    async def script(peer: Peer) -> None:
        raise AssertionError

    async def scenario() -> None:
        async with grpc_server(script, greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as url, backend(url) as made:
            assert made.state is State.FAILED
            assert "is no HTTP/2 server" in made.reason

    run(scenario())


def test_the_request_says_version_time_and_who_asked() -> None:
    seen: dict[str, bytes] = {}

    async def script(peer: Peer) -> None:
        seen["head"] = next(got.payload for got in peer.seen if got.kind == HEADERS)
        _, seen["message"] = await peer.call()
        peer.send(answer(1))
        await peer.reader.read()

    of = call(id="seven", parameters={"a": True, "b": -3, "c": "text", "d": 0.5, "binary_data_output": False})
    (reply,) = replies_to(script, of, model="credit", version="12")
    assert json.loads(reply.body)["id"] == "seven"
    for part in (b"/inference.GRPCInferenceService/ModelInfer", b"grpc-timeout", b"x-request-id", b"r-1", b"1.1 test"):
        assert part in seen["head"]
    parts = [field(1, b"credit"), field(2, b"12"), field(3, b"seven"), b"\x0a\x01b", field(7, struct.pack("<f", 0.5))]
    for part in parts:
        assert part in seen["message"], part
    assert b"binary_data_output" not in seen["message"]


def test_a_parameter_that_gRPC_has_no_form_for_is_refused_here() -> None:  # noqa: N802
    (reply,) = replies_to(sends(b""), call(parameters={"list": [1]}))
    assert (reply.kind, reply.status) == (Kind.REJECTED, 400)
    (reply,) = replies_to(sends(b""), Call(b"{"))
    assert (reply.kind, reply.status) == (Kind.MALFORMED, 400)
