"""Damaged requests to a real gateway: only legal answers, the same however the bytes are cut, and it lives on."""

import contextlib
import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import mutated, seeds
from tests.gateway_process import GatewayProcess, corpus, eventually
from tests.raw_client import RawClient

HEADS = seeds("heads")
CREDIT = {"model": "credit", "stable": "1", "variants": [{"version": "1", "weight": 100}]}
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z]")
LEGAL = {100, 200, 400, 404, 405, 408, 413, 414, 415, 431, 501, 503, 504, 505}
WORDS = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"_",
    b"0\r\n\r\n",
    b"0" * 20,
    b"\r\nhost: y",
    b"\r\ncontent-length: 0",
    b"\r\ncontent-length: 5",
    b"\r\ntransfer-encoding: chunked",
    b"\r\nconnection: close",
    b"\r\nconnection: upgrade\r\nupgrade: h2c",
    b"\r\nexpect: 100-continue",
    b"\r\ncontent-encoding: gzip",
    b"\r\ninference-header-content-length: 7",
    b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n",
    b"HTTP/1.0",
    b"/v2/models/credit/infer",
    b"%00",
    b"\xff",
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    settings_ = {"store": {"url": "memory:"}, "server": {"listen": "127.0.0.1:0", "linger_s": 0.2}}
    with GatewayProcess(folder, routes=[CREDIT], settings=settings_) as process:
        yield process
        with process.client() as client:
            assert client.infer("credit", corpus("credit")[0]["request"]).status == 200
        with process.admin() as admin:
            gone = 'turnout_connections{listener="data"} 0'
            eventually(lambda: gone in admin.send("GET", "/metrics").body.decode(), what="every connection is gone")
        log = process.errors.read_text()
        assert "Traceback" not in log
        assert "crashed" not in log


def statuses(port: int, *parts: bytes) -> list[int]:
    """Send the parts, and nothing more; the statuses of what comes back until the gateway closes."""
    with RawClient(port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        with contextlib.suppress(ConnectionError):  # a connection that is held open is a TimeoutError
            client.send(*parts)
            client.half_close()
            while data := client.socket.recv(1 << 16):
                received += data
    return [status for found in STATUS.findall(received) if (status := int(found)) >= 200]


def check(gateway: GatewayProcess, data: bytes, at: int) -> None:
    whole = statuses(gateway.data_port, data)
    split = statuses(gateway.data_port, data[:at], data[at:])
    assert set(whole) | set(split) <= LEGAL
    both = min(len(whole), len(split))  # a request that is cut off may be answered or not
    assert whole[:both] == split[:both]


@pytest.mark.parametrize("case", HEADS)
def test_the_corpus(gateway: GatewayProcess, case: str) -> None:
    data = HEADS[case]
    for at in sorted({1, len(data) // 3, len(data) // 2, len(data) - 1}):
        check(gateway, data, at)


@settings(derandomize=True, deadline=None, max_examples=400)
@example(data=b"\r", at=0.0)
@given(data=mutated(HEADS, WORDS), at=st.floats(0, 1))
def test_damaged_requests(gateway: GatewayProcess, data: bytes, at: float) -> None:
    check(gateway, data, int(at * len(data)))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(data=st.binary(max_size=200), at=st.floats(0, 1))
def test_any_bytes(gateway: GatewayProcess, data: bytes, at: float) -> None:
    check(gateway, data, int(at * len(data)))
