"""The fast lane answers as Starlette does, whatever the bytes and wherever TCP cuts them."""

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from struct import pack
from typing import Any

import pytest
import uvloop

from tests.contracts.lanes import LaneServer, two_lanes
from tests.gateway_process import corpus

FIRST = corpus("credit")[0]["request"]["inputs"]
ROWS = [{**tensor, "data": [{"FP32": 1, "BYTES": "a"}[tensor["datatype"]]] * len(tensor["data"])} for tensor in FIRST]
ROW = json.dumps({"inputs": ROWS}, separators=(",", ":")).encode()
PATH = b"/v2/models/credit/infer"
HOST = b"host: a\r\nx-customer-id: c-1\r\n"


def message(start: bytes, *lines: bytes, body: bytes = b"", host: bytes = HOST) -> bytes:
    return start + b" HTTP/1.1\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def infer(*lines: bytes, body: bytes = ROW, path: bytes = PATH, host: bytes = HOST) -> bytes:
    return message(b"POST " + path, *lines, b"content-length: %d" % len(body), body=body, host=host)


def binary() -> bytes:
    data = json.loads(ROW)["inputs"]
    values = data[0]["data"]
    tail = pack(f"<{len(values)}f", *values)
    first = {**{k: v for k, v in data[0].items() if k != "data"}, "parameters": {"binary_data_size": len(tail)}}
    head = json.dumps({"inputs": [first, *data[1:]]}, separators=(",", ":")).encode()
    return infer(b"inference-header-content-length: %d" % len(head), body=head + tail)


PLAIN = infer(b"x-request-id: mine")
DECOY = infer(b"x-request-id: decoy")
GET = message(b"GET /v2")
SHORT = infer(body=b"{}")
PREDICT = message(b"POST /v1/models/credit:predict", b"content-length: 2", body=b"{}")
CHUNKED = message(b"POST " + PATH, b"transfer-encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n")

WHOLE = {
    "plain": PLAIN,
    "binary": binary(),
    "pinned": infer(path=b"/v2/models/credit/versions/2/infer"),
    "no such version": infer(path=b"/v2/models/credit/versions/9/infer", body=b"{}"),
    "no such model": infer(path=b"/v2/models/nobody/infer", body=b"{}"),
    "not a name": infer(path=b"/v2/models/-x/infer", body=b"{}"),
    "query": infer(path=PATH + b"?a=1", body=b"{}"),
    "percent": infer(path=b"/v2/models/cr%65dit/infer", body=b"{}"),
    "slash": infer(path=PATH + b"/", body=b"{}"),
    "no JSON": infer(body=b"x"),
    "empty body": infer(body=b""),
    "no request": SHORT,
    "deadline": infer(b"x-request-timeout-ms: 5000", body=b"{}"),
    "bad deadline": infer(b"x-request-timeout-ms: soon", body=b"{}"),
    "bad inner length": infer(b"inference-header-content-length: 99", body=b"{}"),
    "strange id": infer(b"x-request-id: a b", body=b"{}"),
    "via": infer(b"via: 1.1 other", body=b"{}"),
    "twice a header": infer(b"x-customer-id: c-2"),
    "expect": infer(b"expect: 100-continue", body=b"{}"),
    "close": infer(b"connection: close", body=b"{}"),
    "keep-alive": infer(b"connection: keep-alive", body=b"{}"),
    "get": GET,
    "predict": PREDICT,
    "chunked": CHUNKED,
    "gzip": infer(b"content-encoding: gzip", body=gzip.compress(b"{}", mtime=0)),
    "identity": infer(b"content-encoding: identity", body=b"{}"),
    "upgrade": infer(b"connection: upgrade", b"upgrade: websocket", body=b"{}"),
    "HTTP/1.0": SHORT.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no host": infer(body=b"{}", host=b"x-customer-id: c-1\r\n"),
    "two hosts": infer(b"host: b", body=b"{}"),
    "empty host": infer(body=b"{}", host=b"host:\r\nx-customer-id: c-1\r\n"),
    "strange host": infer(body=b"{}", host=b"host: a b\r\nx-customer-id: c-1\r\n"),
    "two lengths": infer(b"content-length: 2", body=b"{}"),
    "other length": infer(b"content-length: 3", body=b"{}"),
    "signed length": message(b"POST " + PATH, b"content-length: +2", body=b"{}"),
    "no length": message(b"POST " + PATH),
    "both framings": infer(b"transfer-encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
    "gzip, chunked": message(b"POST " + PATH, b"transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "underscore": infer(b"content_length: 5", body=b"{}"),
    "space before colon": infer(b"x-a : b", body=b"{}"),
    "folded": infer(b"x-a: b\r\n c", body=b"{}"),
    "bare LF": SHORT.replace(b"\r\n", b"\n"),
    "NUL": infer(b"x-a: b\0c", body=b"{}"),
    "lower-case method": SHORT.replace(b"POST", b"post"),
    "two": PLAIN + DECOY,
    "three": SHORT + PLAIN + SHORT,
    "after a get": GET + PLAIN,
    "before a get": PLAIN + GET,
    "after chunks": CHUNKED + PLAIN,
    "line ends between": SHORT + b"\r\n\r\n" + PLAIN,
    "line ends before": b"\r\n" + PLAIN,
    "garbage behind": SHORT + b"garbage\r\n\r\n",
    "closing, and one behind": infer(b"connection: close", body=b"{}") + PLAIN,
}
SMUGGLED = {
    "header value": b"GET /v2 HTTP/1.1\r\nhost: a\r\nx-a: ",
    "half a head": b"GET /v2 HTTP/1.1\r\nhost: a\r\n",
    "announced body": message(b"POST /v2/repository/index", b"content-length: %d" % len(DECOY)),
    "announced infer body": message(b"POST " + PATH, b"content-length: %d" % len(DECOY)),
    "a chunk": message(b"POST " + PATH, b"transfer-encoding: chunked", body=b"%x\r\n" % len(DECOY)),
    "trailers": message(b"POST " + PATH, b"transfer-encoding: chunked", body=b"0\r\n"),
    "half a line end": SHORT + b"\r",
    "infer, then half a get": SHORT + b"GET /v2 HTTP/1.1\r\nhost: a\r\nx-a: ",
}

Check = Callable[[LaneServer, LaneServer], Coroutine[Any, Any, None]]


def on_both(check: Check) -> None:
    async def main() -> None:
        async with two_lanes() as (fast, plain):
            await check(fast, plain)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_both_lanes_answer_alike_wherever_the_bytes_are_cut() -> None:
    async def check(fast: LaneServer, plain: LaneServer) -> None:
        for name, raw in WHOLE.items():
            whole = await plain.converse([raw])
            for cut in range(len(raw)):
                segments = [raw[:cut], raw[cut:]]
                assert (await fast.converse(segments)).said == whole.said, (name, cut)
                if cut % 7 == 0:
                    assert (await plain.converse(segments)).said == whole.said, (name, cut)

    on_both(check)


def test_a_decoy_as_second_segment_is_never_taken_for_a_message() -> None:
    async def check(fast: LaneServer, plain: LaneServer) -> None:
        for name, raw in {**WHOLE, **SMUGGLED}.items():
            for cut in range(len(raw) + 1):
                segments = [raw[:cut], DECOY]
                found = await fast.converse(segments)
                assert found.said == (await plain.converse(segments)).said, (name, cut)

    on_both(check)


@pytest.mark.parametrize("name", ["plain", "binary", "pinned", "no JSON", "strange id", "via", "keep-alive"])
def test_plain_requests_take_the_fast_lane_again_and_again(name: str) -> None:
    async def check(fast: LaneServer, plain: LaneServer) -> None:
        raw = WHOLE[name]
        body = raw.index(b"\r\n\r\n") + 4
        assert (await fast.converse([raw])).fast == 1
        assert (await fast.converse([raw[: body + 1], raw[body + 1 :]])).fast == 1
        assert (await fast.converse([raw, GET, raw, CHUNKED, raw, raw], is_patient=True)).fast == 4
        assert (await plain.converse([raw])).fast == 0

    on_both(check)


@pytest.mark.parametrize("name", ["chunked", "expect", "no host", "two hosts", "gzip", "HTTP/1.0", "close", "upgrade"])
def test_what_is_not_plain_does_not(name: str) -> None:
    async def check(fast: LaneServer, _: LaneServer) -> None:
        assert (await fast.converse([WHOLE[name]])).fast == 0

    on_both(check)
