"""A server of gRPC frames by hand, for what a real one never does; written without the code under test."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

DATA, HEADERS, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OK_HEAD = b"\x88"  # :status 200
OK_TRAILERS = b"\x00\x0bgrpc-status\x010"


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def field(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes((number << 3 | 2, len(value))) + value


def refusal(code: int, sentence: bytes) -> bytes:
    """Trailers of an answer that has nothing else."""
    return (
        b"\x88\x00\x0bgrpc-status"
        + bytes((len(b"%d" % code),))
        + b"%d" % code
        + (b"\x00\x0cgrpc-message" + bytes((len(sentence),)) + sentence)
    )


TENSOR = field(2, b"FP32") + field(3, b"\x01")
METADATA = field(1, b"m") + field(4, field(1, b"numeric") + TENSOR) + field(5, field(1, b"y") + TENSOR)
ANSWER = field(1, b"m") + field(2, b"1") + field(5, field(1, b"y") + TENSOR) + field(6, struct.pack("<f", 1.5))


def message(body: bytes) -> bytes:
    return b"\x00" + struct.pack(">I", len(body)) + body


def answer(stream: int, body: bytes = ANSWER) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, stream, OK_HEAD)
        + frame(DATA, 0, stream, message(body))
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, OK_TRAILERS)
    )


class Peer:
    """One connection, after its preface and settings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number
        self.seen: list[Frame] = []

    async def frame(self) -> Frame:
        head = await self.reader.readexactly(9)
        length = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        got = Frame(kind, flags, stream, await self.reader.readexactly(length))
        self.seen.append(got)
        return got

    async def call(self) -> tuple[int, bytes]:
        """The next whole call: its stream and its message."""
        body = b""
        while True:
            got = await self.frame()
            if got.kind == DATA:
                body += got.payload
                if got.flags & END_STREAM:
                    return got.stream, body

    async def until(self, kind: int) -> Frame:
        while (got := await self.frame()).kind != kind:
            pass
        return got

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def grpc_server(script: Script, settings: bytes = b"", greeting: bytes | None = None) -> AsyncIterator[str]:
    """Probes are answered; every other connection runs the script, with its number from 0."""
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        try:
            assert await reader.readexactly(len(PREFACE)) == PREFACE
            peer = Peer(reader, writer, number)
            writer.write(frame(SETTINGS, 0, 0, settings) if greeting is None else greeting)
            first = await peer.until(HEADERS)
            if b"ModelReady" in first.payload:
                await peer.call()
                peer.send(answer(1, b"\x08\x01"))
                await peer.call()
                peer.send(answer(3, METADATA))
                await reader.read()
                return
            peer.number, number = number, number + 1
            await script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"grpc://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
