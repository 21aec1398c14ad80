"""Calls by gRPC against servers that do what a real one never does."""

import asyncio
import json
import struct
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.backends.base import State
from gateway.protocol.form import InferRequest
from gateway.protocol.request import read_request
from routing.analysis.outcome import Kind
from tests.gateway.backends import remote
from tests.gateway.backends.grpc_server import (
    ACK,
    ANSWER,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
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
    Script,
    answer,
    field,
    frame,
    grpc_server,
    message,
    refusal,
)
from tests.gateway.backends.remote import ask, backend, run, submit, until


@dataclass(frozen=True)
class Call(remote.Call):
    def request(self) -> InferRequest:
        return read_request(self.body, self.header_length)


def call(count: int = 1, **more: Any) -> Call:
    tensor = {"name": "numeric", "shape": [count], "datatype": "FP32", "data": [0.5] * count}
    return Call(json.dumps({"inputs": [tensor], **more}).encode())


def replies_to(script: Script, of: Call | None = None, **options: Any) -> list[Any]:
    """What becomes of one call."""
    found: list[Any] = []

    async def scenario() -> None:
        async with grpc_server(script, options.pop("settings", b"")) as url, backend(url, **options) as made:
            assert made.state is State.READY, made.reason
            found.append(await ask(made, of or call()))

    run(scenario())
    return found


def sends(*frames: bytes) -> Script:
    """Answer the first call of each connection with these frames."""

    async def script(peer: Peer) -> None:
        await peer.call()
        peer.send(*frames)
        await peer.reader.read()

    return script


HEAD = frame(HEADERS, END_HEADERS, 1, OK_HEAD)
BODY = frame(DATA, 0, 1, message(ANSWER))
END = frame(HEADERS, END_HEADERS | END_STREAM, 1, OK_TRAILERS)
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


def test_a_body_larger_than_every_window_goes_out_as_they_open() -> None:
    seen: list[int] = []

    async def script(peer: Peer) -> None:
        stream, _ = await peer.call()
        peer.send(answer(stream))
        got = b""
        while not peer.seen[-1].flags & END_STREAM or len(got) == 0:
            data = await peer.until(DATA)
            got += data.payload
            seen.append(len(data.payload))
            more = struct.pack(">I", len(data.payload))
            peer.send(frame(WINDOW, 0, data.stream, more), frame(WINDOW, 0, 0, more))
        assert got[-4:] == struct.pack("<f", 0.5)
        assert len(got) == 5 + int.from_bytes(got[1:5], "big")
        peer.send(answer(3))
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script, struct.pack(">HI", 4, 1000)) as url, backend(url) as made:
            assert (await ask(made, call())).kind is Kind.OK  # its settings are known by now
            assert (await ask(made, call(50_000))).kind is Kind.OK
        assert (max(seen), sum(seen) > 200_000) == (1000, True)

    run(scenario())


def test_small_calls_are_not_held_up_by_a_large_one_that_waits_for_a_window() -> None:
    async def script(peer: Peer) -> None:
        for stream in (1, 5):
            while (await peer.call())[0] != stream:
                pass
            peer.send(answer(stream))
        await peer.until(RESET)
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script, struct.pack(">HI", 4, 500)) as url, backend(url) as made:
            assert (await ask(made, call())).kind is Kind.OK  # its settings are known by now
            large, cancel = submit(made, call(50_000))
            assert (await ask(made, call())).kind is Kind.OK
            assert not large.done()
            cancel()

    run(scenario())


def test_a_call_that_is_given_up_is_reset_and_its_late_answer_is_nobodys() -> None:
    async def script(peer: Peer) -> None:
        await peer.call()
        assert (await peer.until(RESET)).stream == 1
        peer.send(answer(1))
        await peer.call()
        peer.send(answer(3))
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script) as url, backend(url) as made:
            future, cancel = submit(made, call())
            await asyncio.sleep(0.05)
            cancel()
            assert made.instance_status()[0]["in_flight"] == 0
            assert (await ask(made, call())).kind is Kind.OK
            assert not future.done()

    run(scenario())


def test_what_a_server_that_goes_away_has_not_begun_goes_out_again_elsewhere() -> None:
    async def script(peer: Peer) -> None:
        first, _ = await peer.call()
        if peer.number == 0:
            await peer.call()
            peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", first, 0)), answer(first))
        else:
            peer.send(answer(first))
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script) as url, backend(url) as made:
            both = [submit(made, call())[0] for _ in range(2)]
            assert [(await each).kind for each in both] == [Kind.OK, Kind.OK]
            status = made.instance_status()[0]
            assert (status["retried"], status["in_flight"]) == (1, 0)
            await until(lambda: made.instance_status()[0]["connections"] == 1)

    run(scenario())


@pytest.mark.parametrize(("may_repeat", "kind"), [(True, Kind.OK), (False, Kind.BROKEN)])
def test_a_connection_that_died_with_a_call_is_tried_once_more_where_that_may_be(may_repeat: bool, kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        stream, _ = await peer.call()
        peer.send(answer(stream))
        await peer.call()
        if peer.number == 0:
            return  # closes
        peer.send(answer(3))

    async def scenario() -> None:
        async with grpc_server(script) as url, backend(url) as made:
            assert (await ask(made, call())).kind is Kind.OK
            again = Call(call().body, may_repeat=may_repeat)
            assert (await ask(made, again)).kind is kind

    run(scenario())


def test_calls_beyond_what_the_server_takes_wait_for_a_place() -> None:
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal most
        held: list[int] = []
        for _ in range(6):
            stream, _ = await peer.call()
            held.append(stream)
            most = max(most, len(held))
            if len(held) == 2:
                await asyncio.sleep(0.02)
                peer.send(*map(answer, held))
                held.clear()
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script, struct.pack(">HI", 3, 2)) as url, backend(url) as made:
            first = [submit(made, call())[0] for _ in range(2)]
            await asyncio.gather(*first)  # its settings are known by now
            rest = [submit(made, call())[0] for _ in range(4)]
            assert made.instance_status()[0]["waiting"] == 2
            assert {(await each).kind for each in rest} == {Kind.OK}
        assert most == 2

    run(scenario())


def test_a_queue_that_is_full_refuses_and_one_that_waits_too_long_times_out() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read()

    async def scenario() -> None:
        async with grpc_server(script) as url, backend(url, max_connections=1, max_waiting=1) as made:
            submit(made, call())
            waiting, _ = submit(made, call(), 0.05)
            await asyncio.sleep(0.1)
            third, _ = submit(made, call())
            assert (await waiting).kind is Kind.TIMEOUT
            assert (await ask(made, call())).kind is Kind.OVERLOADED
            assert not third.done()

    run(scenario())


def test_pings_and_settings_are_answered_and_who_never_reads_them_is_dropped() -> None:
    async def script(peer: Peer) -> None:
        await peer.call()
        peer.send(frame(PING, 0, 0, b"abcdefgh"), frame(SETTINGS, 0, 0))
        await peer.until(PING)
        assert peer.seen[-1].payload == b"abcdefgh"
        assert peer.seen[-1].flags == ACK
        assert (await peer.until(SETTINGS)).flags == ACK
        while True:
            peer.send(frame(PING, 0, 0, b"abcdefgh") * 1000)
            await peer.writer.drain()

    (reply,) = replies_to(script)
    assert (reply.kind, "does not read" in reply.detail) == (Kind.BROKEN, True)


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
