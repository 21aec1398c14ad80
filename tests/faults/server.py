"""A model server that fails on command: a process of its own, written without the code under test.

``python -m tests.faults.server --port 0`` speaks the Open Inference Protocol v2 for one model and prints

    listening on 127.0.0.1:PORT
    control on 127.0.0.1:PORT

``POST /faults`` on the control port sets the behaviour, ``GET /faults`` counts what came in. The process ends when its
standard input does, so it never outlives the test that started it.
"""

import argparse
import asyncio
import json
import os
import random
import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from tests.faults.model import Request, answer_of, metadata_of

MODES = {
    "ok",
    "error_500",
    "reset_before_head",
    "reset_after_head",
    "truncated_body",
    "wrong_shape",
    "wrong_name",
    "wrong_datatype",
    "nan",
    "never",
    "trickle",
    "too_many_429",
    "bad_request_400",
    "not_json",
    "close_idle",
    "not_ready",
    "refuse",
}
STATUS_MODE = re.compile(r"status_(\d{3})")  # a good answer under any status
REFUSALS = {
    "error_500": (500, "the model raised an exception"),
    "too_many_429": (429, "too many requests"),
    "bad_request_400": (400, "unexpected shape for input 'numeric'"),
}
MAX_HEAD_BYTES = 64 * 1024
PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/infer|/ready)?$")
JSON_TYPE = "application/json"
Work = Coroutine[Any, Any, None]


class Reset(Exception):
    """Close the connection with RST."""


class Close(Exception):
    """Close the connection with FIN."""


@dataclass
class Faults:
    """What to do, and what was done."""

    mode: str = "ok"
    share: float = 1.0
    delay_ms: float = 0
    ok_delay_ms: float = 0
    key: str | None = None
    draws: random.Random = field(default_factory=lambda: random.Random(0))
    counts: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    probes: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def set(self, wanted: dict[str, object]) -> None:
        """Take a whole new behaviour; counts go on."""
        unknown = set(wanted) - {"mode", "share", "delay_ms", "ok_delay_ms", "seed", "key"}
        mode = wanted.get("mode", "ok")
        if unknown or not (mode in MODES or STATUS_MODE.fullmatch(str(mode))):
            raise ValueError(f"unknown: {sorted(unknown) or mode}")
        self.mode = str(mode)
        self.share = float(wanted.get("share", 1.0))  # type: ignore[arg-type]
        self.delay_ms = float(wanted.get("delay_ms", 0))  # type: ignore[arg-type]
        self.ok_delay_ms = float(wanted.get("ok_delay_ms", 0))  # type: ignore[arg-type]
        self.key = wanted.get("key")  # type: ignore[assignment]
        self.draws = random.Random(wanted.get("seed", 0))  # type: ignore[arg-type]

    def draw(self, head: str, body: bytes) -> bool:
        """Whether this request gets the fault: by share, and only when it contains the key if there is one."""
        if self.key is not None and self.key not in head and self.key.encode() not in body:
            return False
        return self.share >= 1.0 or self.draws.random() < self.share


class Server:
    """The data port, the control port, and the connections in between."""

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version
        self.faults = Faults()
        self.port = 0
        self.data: asyncio.Server | None = None
        self.control: asyncio.Server | None = None
        self.writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        """Open the data port; a port that was closed opens again where it was."""
        self.data = await asyncio.start_server(self.serve, "127.0.0.1", self.port, limit=MAX_HEAD_BYTES, backlog=1024)
        self.port = self.data.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Close the data port and whatever is connected to it, as a process that died would."""
        if self.data is not None:
            self.data.close()
            self.data = None
        for writer in list(self.writers):
            reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One data connection."""
        self.writers.add(writer)
        await converse(reader, writer, self.handle)
        self.writers.discard(writer)

    async def handle(self, writer: asyncio.StreamWriter, line: str, head: str, body: bytes) -> None:
        """Answer one request on the data port."""
        verb, path = line.split(" ")[:2]
        if path in {"/v2/health/live", "/v2/health/ready"}:
            respond(writer, 200, b"{}")
            return
        match = PATH.match(path)
        if match is None or match[1] != self.model or match[2] not in {None, self.version}:
            respond(writer, 404, error(f"no such model or version: {path}"))
        elif verb == "POST" and match[3] == "/infer":
            await self.infer(writer, head, body)
        elif verb == "GET" and match[3] == "/ready":
            self.faults.probes += 1
            is_ready = self.faults.mode != "not_ready"
            respond(writer, 200 if is_ready else 503, json.dumps({"name": self.model, "ready": is_ready}).encode())
        elif verb == "GET" and match[3] is None:
            respond(writer, 200, json.dumps(metadata_of(self.model, self.version)).encode())
        else:
            respond(writer, 405, error("no such method here"))

    async def infer(self, writer: asyncio.StreamWriter, head: str, body: bytes) -> None:
        """Answer, or do not, as the behaviour says."""
        faults = self.faults
        drawn = faults.draw(head, body)
        mode, delay_ms = (faults.mode, faults.delay_ms) if drawn else ("ok", faults.ok_delay_ms)
        faults.counts[mode] += 1
        faults.requests += 1
        faults.in_flight += 1
        faults.most_in_flight = max(faults.most_in_flight, faults.in_flight)
        try:
            if delay_ms:
                await asyncio.sleep(delay_ms / 1000)
            await self.misbehave(writer, mode, head, body)
        finally:
            faults.in_flight -= 1

    async def misbehave(self, writer: asyncio.StreamWriter, mode: str, head: str, body: bytes) -> None:
        try:
            request = Request.parse(body, header_length(head))
        except (ValueError, KeyError, TypeError, struct.error) as problem:
            respond(writer, 400, error(f"bad request: {problem}"))
            return
        good, json_bytes = answer_of(request, self.model, self.version, mode)
        if mode in REFUSALS:
            status, sentence = REFUSALS[mode]
            respond(writer, status, error(sentence))
            return
        if status_mode := STATUS_MODE.fullmatch(mode):
            respond(writer, int(status_mode[1]), good, json_bytes)
            return
        match mode:
            case "not_json":
                respond(writer, 200, b"<html>It works!</html>")
            case "reset_before_head":
                raise Reset
            case "reset_after_head":
                writer.write(http_head(200, len(good), json_bytes))
                await writer.drain()
                await asyncio.sleep(0.02)  # the head should be read before the reset throws it away
                raise Reset
            case "truncated_body":
                writer.write(http_head(200, len(good), json_bytes) + good[: len(good) // 2])
                raise Close
            case "never":
                await asyncio.sleep(3600)
            case "trickle":
                writer.write(http_head(200, len(good), json_bytes))
                for at in range(len(good)):
                    writer.write(good[at : at + 1])
                    await asyncio.sleep(1.0)
            case "close_idle":
                respond(writer, 200, good, json_bytes)
                raise Close
            case _:
                respond(writer, 200, good, json_bytes)

    async def steer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One control connection."""
        await converse(reader, writer, self.handle_control)

    async def handle_control(self, writer: asyncio.StreamWriter, line: str, _head: str, body: bytes) -> None:
        """``POST /faults`` sets, ``GET /faults`` counts."""
        verb, path = line.split(" ")[:2]
        if path != "/faults":
            respond(writer, 404, error("only /faults is here"))
            return
        if verb == "POST":
            try:
                self.faults.set(json.loads(body))
            except (ValueError, TypeError) as problem:
                respond(writer, 400, error(str(problem)))
                return
            if self.faults.mode == "refuse":
                self.refuse()
            elif self.data is None:
                await self.listen()
        faults = self.faults
        state = {
            "mode": faults.mode,
            "by_mode": dict(faults.counts),
            "requests": faults.requests,
            "probes": faults.probes,
            "in_flight": faults.in_flight,
            "most_in_flight": faults.most_in_flight,
            "connections": len(self.writers),
        }
        respond(writer, 200, json.dumps(state).encode())


# HTTP, as little as will do.


async def converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    handle: Callable[[asyncio.StreamWriter, str, str, bytes], Work],
) -> None:
    """Read requests and have them handled until either side has had enough. A client that leaves cancels its own."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, _, headers = head.partition("\r\n")
            length = re.search(r"(?im)^content-length: *(\d+)", headers)
            body = await reader.readexactly(int(length[1])) if length else b""
            if not await unless_gone(reader, handle(writer, line, headers, body)):
                return
            await writer.drain()
            if re.search(r"(?im)^connection: *close", headers):
                return
    except Reset:
        reset(writer)
    except (Close, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        pass
    finally:
        writer.close()


async def unless_gone(reader: asyncio.StreamReader, work: Work) -> bool:
    """Do the work; stop when the client closes first. Requests are never pipelined here."""
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.wait({task}, timeout=0.02)
        if reader.at_eof() or reader.exception() is not None:
            task.cancel()
            await asyncio.wait({task})
            return False
    task.result()
    return True


def reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            return
    writer.transport.abort()


def header_length(head: str) -> int | None:
    match = re.search(r"(?im)^inference-header-content-length: *(\d+)", head)
    return int(match[1]) if match else None


def error(sentence: str) -> bytes:
    return json.dumps({"error": sentence}).encode()


def http_head(status: int, body_bytes: int, json_bytes: int | None = None) -> bytes:
    kind = JSON_TYPE if json_bytes is None else "application/octet-stream"
    extra = "" if json_bytes is None else f"Inference-Header-Content-Length: {json_bytes}\r\n"
    return f"HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\nContent-Length: {body_bytes}\r\n{extra}\r\n".encode()


def respond(writer: asyncio.StreamWriter, status: int, body: bytes, json_bytes: int | None = None) -> None:
    writer.write(http_head(status, len(body), json_bytes) + body)


def stop_with_stdin(stop: Callable[[], object]) -> None:
    """Wait for the end of standard input, on a thread, for any kind of file may be there."""
    while os.read(0, 4096):
        pass
    stop()


async def main(model: str, version: str, port: int, control_port: int) -> None:
    server = Server(model, version)
    server.port = port
    await server.listen()
    server.control = await asyncio.start_server(server.steer, "127.0.0.1", control_port)
    print(f"listening on 127.0.0.1:{server.port}", flush=True)
    print(f"control on 127.0.0.1:{server.control.sockets[0].getsockname()[1]}", flush=True)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(
        target=stop_with_stdin, args=(lambda: loop.call_soon_threadsafe(stopped.set),), daemon=True
    ).start()
    await stopped.wait()
    os._exit(0)  # connections in the middle of a fault would only delay the end


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=sys.modules[__name__].__doc__)
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--control-port", type=int, default=0)
    arguments.add_argument("--model", default="credit")
    arguments.add_argument("--version", default="1")
    given = arguments.parse_args()
    asyncio.run(main(given.model, given.version, given.port, given.control_port))
