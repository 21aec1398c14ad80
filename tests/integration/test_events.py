"""Events of a real gateway over real sockets: followed, resumed, and no hindrance to a drain."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway_process import ROOT, SECRET, GatewayProcess

CREDIT: dict[str, Any] = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}],
}
HEADERS = {"authorization": f"Bearer {SECRET}"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path, routes=[CREDIT]) as process:
        yield process


def opened(gateway: GatewayProcess, **headers: str) -> socket.socket:
    """A reader that has the head of the answer and the first id."""
    sock = socket.create_connection(("127.0.0.1", gateway.admin_port), timeout=5)
    lines = "".join(f"{k}: {v}\r\n" for k, v in {"host": "x", **HEADERS, **headers}.items())
    sock.sendall(f"GET /admin/v1/events HTTP/1.1\r\n{lines}\r\n".encode())
    assert until(sock, b"\n:\n\n").startswith(b"HTTP/1.1 200")
    return sock


def until(sock: socket.socket, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        seen += sock.recv(4096)
    return seen


def test_a_drain_ends_open_streams_at_once(gateway: GatewayProcess) -> None:
    readers = [opened(gateway) for _ in range(3)]
    gateway.edit("credit", {"enforce": False})
    until(readers[0], b"event: patch")
    gateway.signal(signal.SIGTERM)
    begin = time.monotonic()
    assert gateway.wait(10) == 0
    assert time.monotonic() - begin < 3
    said = b""
    while chunk := readers[0].recv(65536):
        said += chunk
    assert said.endswith(b"0\r\n\r\n"), "an end, not a broken connection"
    assert "Traceback" not in gateway.errors.read_text()
    for reader in readers:
        reader.close()


def test_readers_that_take_nothing_do_not_hold_up_a_drain(gateway: GatewayProcess) -> None:
    """They have more waiting than the kernel holds for them."""
    reader = opened(gateway)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    shadows = [{"version": f"{n}" * 100, "sample": 1} for n in range(1, 9)]
    for number in range(40):
        padding = {"by": [f"header:{'x' * 60}{n}{number}" for n in range(8)]}
        assert gateway.edit("credit", {"sticky": padding, "shadows": shadows[number % 2 :]}).status == 200
    gateway.signal(signal.SIGTERM)
    begin = time.monotonic()
    assert gateway.wait(10) == 0
    assert time.monotonic() - begin < 3
    reader.close()


def test_a_client_library_follows_and_resumes(gateway: GatewayProcess) -> None:
    base = f"http://127.0.0.1:{gateway.admin_port}/admin/v1"
    with httpx.stream("GET", f"{base}/events", headers=HEADERS) as answer:
        lines = answer.iter_lines()
        first = next(line for line in lines if line.startswith("id: ")).removeprefix("id: ")
    for number in range(3):
        gateway.edit("credit", {"enforce": number % 2 == 1})
    with httpx.stream("GET", f"{base}/events", headers={**HEADERS, "last-event-id": first}) as answer:
        found = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
        assert [next(found)["revision"] for _ in range(3)] == [2, 3, 4]
    assert httpx.get(f"{base}/events").status_code == 401
    audit = httpx.get(f"{base}/audit?verify=1", headers=HEADERS).json()
    assert (audit["verified"], audit["refused_logins"]["entries"]) == (True, 1)
    assert "missing" in (gateway.folder / "state" / "refused_logins.jsonl").read_text()


def test_the_command_follows_over_a_restart(gateway: GatewayProcess) -> None:
    gateway.config.write_text(
        gateway.config.read_text().replace(
            "admin:\n  listen: 127.0.0.1:0", f"admin:\n  listen: 127.0.0.1:{gateway.admin_port}"
        )
    )
    command = subprocess.Popen(
        [sys.executable, "-m", "gateway", "events", "--limit", "2", "--json"],
        cwd=ROOT,
        env={"TURNOUT_ADMIN_URL": f"http://127.0.0.1:{gateway.admin_port}", "TURNOUT_TOKEN": SECRET, "PATH": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert command.stdout is not None
        with gateway.admin() as admin:
            while not admin.send("GET", "/admin/v1/status").json()["events"]["readers"]:
                time.sleep(0.02)
        gateway.edit("credit", {"enforce": False})
        assert json.loads(command.stdout.readline())["verb"] == "patch"
        assert gateway.stop() == 0
        gateway.start()
        with gateway.admin() as admin:
            admin.send("POST", "/admin/v1/routes/credit/flip", {"reason": "after the restart"})
        assert json.loads(command.stdout.readline())["reason"] == "after the restart"
        assert command.wait(5) == 0
    finally:
        command.kill()
        command.wait()
        if command.stdout:
            command.stdout.close()
