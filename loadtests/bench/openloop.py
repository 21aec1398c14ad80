"""An open-loop generator: requests leave when they are due, and latency counts from then.

wrk has no rate, and a generator that waits for answers before it asks again hides a server that stalls. h2load's rate
is per connection and waits too. This one is a process of its own on the load generator's core, without an event loop
and without busy waiting, which would take the core from the upstream beside it. Its own wake-up is in the figures of
all, ``direct`` included: look at what is added over ``direct``.
"""

import argparse
import json
import random
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from loadtests.bench.machine import ROOT, Lab, on_core
from loadtests.bench.target import Load, Question
from loadtests.samples import percentile
from loadtests.schedule import poisson

CONNECTIONS = 64
DRAIN_S = 5.0
SEED = 5


class Client:
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due_s = 0.0
        self._received = b""

    def send(self, request: bytes, due_s: float) -> None:
        """Send one request."""
        self.due_s = due_s
        self._received = b""
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Read what is there; the status once the answer is complete, 0 when the connection is lost."""
        chunk = self.socket.recv(65536)
        if not chunk:
            return 0
        self._received += chunk
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = next(int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:"))
        return int(head[9:12]) if len(body) >= length else None


def run(port: int, requests: list[bytes], due_s: list[float], connections: int = CONNECTIONS) -> dict[str, object]:
    """Send the requests at their times; latencies in microseconds of those answered with 200."""
    idle = deque(Client(port) for _ in range(connections))
    busy: dict[socket.socket, Client] = {}
    took_us: list[float] = []
    waiting: deque[tuple[bytes, float]] = deque()
    begin = time.perf_counter() + 0.01
    at, late_us = 0, []
    while at < len(due_s) or busy or waiting:
        now = time.perf_counter() - begin
        while at < len(due_s) and due_s[at] <= now:
            waiting.append((requests[at % len(requests)], due_s[at]))
            at += 1
        while waiting and idle:
            request, due = waiting.popleft()
            client = idle.popleft()
            late_us.append((time.perf_counter() - begin - due) * 1e6)
            client.send(request, due)
            busy[client.socket] = client
        pause = max(0.0, due_s[at] - (time.perf_counter() - begin)) if at < len(due_s) else 0.1
        ready, _, _ = select.select(list(busy), [], [], pause)
        for found in ready:
            client = busy[found]
            status = client.receive()
            if status is None:
                continue
            if status == 200:
                took_us.append((time.perf_counter() - begin - client.due_s) * 1e6)
            del busy[found]
            idle.append(client if status else Client(port))
        if at >= len(due_s) and now > due_s[-1] + DRAIN_S:
            break
    return {"requests": len(due_s), "took_us": took_us, "late_us": late_us, "seconds": time.perf_counter() - begin}


def requests_of(question: Question, customers: int = 256) -> list[bytes]:
    """Whole requests, one for each customer."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in question.headers.items())
    made = []
    for n in range(customers):
        body = question.bodies[n % len(question.bodies)]
        head = f"POST {question.path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}x-customer-id: customer-{n}\r\n"
        made.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return made


def driver(lab: Lab, port: int, question: Question, rate: float) -> Callable[[float], Load]:
    """A function that sends ``rate`` requests a second for so many seconds."""
    file = lab.folder("load") / "requests"
    file.write_text(json.dumps([request.decode("latin-1") for request in requests_of(question)]))
    seeds = random.Random(SEED)

    def drive(seconds: float) -> Load:
        command = [sys.executable, "-m", "loadtests.bench.openloop", str(port), str(file)]
        command += [str(rate), str(seconds), str(seeds.randrange(1 << 30))]
        with on_core(lab.load_core):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=seconds + 30)
        found = json.loads(done.stdout)
        took = found["took_us"]
        return Load(found["requests"], len(took), found["seconds"], percentile(took, 0.5), percentile(took, 0.99))

    return drive


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser()
    for name, kind in (("port", int), ("file", Path), ("rate", float), ("seconds", float), ("seed", int)):
        parser.add_argument(name, type=kind)
    given = parser.parse_args()
    requests = [text.encode("latin-1") for text in json.loads(given.file.read_text())]
    print(json.dumps(run(given.port, requests, poisson(given.rate, given.seconds, given.seed))))


if __name__ == "__main__":
    main()
