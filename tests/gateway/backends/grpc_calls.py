"""Calls to a scripted gRPC server, and the frames of a good answer."""

import json
from dataclasses import dataclass
from typing import Any

from gateway.backends.base import State
from gateway.protocol.form import InferRequest
from gateway.protocol.request import read_request
from tests.gateway.backends import remote
from tests.gateway.backends.grpc_server import (
    ANSWER,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OK_HEAD,
    OK_TRAILERS,
    Peer,
    Script,
    frame,
    grpc_server,
    message,
)
from tests.gateway.backends.remote import ask, backend, run


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
