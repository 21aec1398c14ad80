"""Deadlines of connections, and what one client can hold: each bound small, asked of a real gateway."""

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults import FaultBackend
from tests.gateway.backends.test_onnx_binary import identity
from tests.gateway_process import GatewayProcess, corpus, eventually
from tests.integration.test_front_door import LIVE, PATH, head, hits, plain, refused
from tests.raw_client import RawClient

BODY = json.dumps(corpus("credit")[0]["request"]).encode()
LARGE = 24 << 20
CLIENTS = 30
ROUTES = [
    {"model": "credit", "stable": "1", "variants": [{"version": "1", "weight": 100}]},
    {"model": "same", "stable": "1", "variants": [{"version": "1", "weight": 100}]},
]
TIMES = {
    "silent_timeout_s": 0.4,
    "head_timeout_s": 0.4,
    "body_timeout_s": 0.6,
    "write_timeout_s": 0.6,
    "half_close_s": 0.5,
    "linger_s": 0.5,
    "linger_bytes": 1 << 20,
    "keep_alive_s": 1,
}


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultBackend]:
    with FaultBackend() as made:
        yield made


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "starlette"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backend: FaultBackend
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    models = folder / "models"
    (models / "same/1").mkdir(parents=True)
    identity(models / "same/1", "UINT8", ["n"])
    remote = {"1": {"kind": "oip", "url": backend.url, "model": "credit", "version": "1"}}
    settings = {
        "store": {"url": "memory:"},
        "server": {
            "listen": "127.0.0.1:0",
            "fast_lane": request.param,
            "max_body_bytes": LARGE,
            "max_connections": CLIENTS + 10,
            "max_connections_per_client": CLIENTS,
            **TIMES,
        },
    }
    routes = [{**ROUTES[0], "backends": remote}, ROUTES[1]]
    with GatewayProcess(folder, routes=routes, models=models, settings=settings) as process:
        yield process


@pytest.fixture(autouse=True)
def lives_on(gateway: GatewayProcess, backend: FaultBackend) -> Iterator[None]:
    """After every case the gateway answers as before, nothing was unforeseen, and no connection is left."""
    yield
    backend.set("ok")
    with gateway.client() as client:
        assert client.send("POST", PATH.decode(), BODY).status == 200
    eventually(lambda: open_connections(gateway) == 0, what="every connection is gone")
    log = gateway.errors.read_text()
    assert "Traceback" not in log, log[max(0, log.index("Traceback") - 300) :]


def open_connections(gateway: GatewayProcess) -> int:
    with gateway.admin() as admin:
        lines = admin.send("GET", "/metrics").body.decode().splitlines()
    return int(float(next(x for x in lines if x.startswith('turnout_connections{listener="data"}')).split()[-1]))


def test_a_head_that_takes_too_long_is_408(gateway: GatewayProcess) -> None:
    before = hits(gateway, "server.head_timeout_s")
    with RawClient(gateway.data_port) as client:
        seconds = client.trickle([b"GET /v2/health/live HTTP/1.1\r\n", *[b"a: b\r\n"] * 100], 0.1)
        assert refused(client.answers(), 408)
        assert 0.3 < seconds < 2
    assert hits(gateway, "server.head_timeout_s") == before + 1


def test_a_head_that_takes_too_long_behind_another_request_is_408_too(gateway: GatewayProcess) -> None:
    with RawClient(gateway.data_port) as client:
        client.send(LIVE + b"GET /")
        assert [answer.status for answer in client.answers()] == [200, 408]


@pytest.mark.parametrize("line_ends", [False, True])
def test_a_connection_on_which_nothing_comes_is_closed(gateway: GatewayProcess, line_ends: bool) -> None:
    before = hits(gateway, "server.silent_timeout_s")
    with RawClient(gateway.data_port) as client:
        begin = time.monotonic()
        if line_ends:
            client.trickle([b"\r\n"] * 100, 0.1)
        assert client.answers() == []
        assert 0.3 < time.monotonic() - begin < 2
    assert hits(gateway, "server.silent_timeout_s") == before + 1


@pytest.mark.parametrize("line_ends", [False, True])
def test_an_idle_connection_is_closed(gateway: GatewayProcess, line_ends: bool) -> None:
    with RawClient(gateway.data_port) as client:
        client.send(LIVE)
        assert client.answer() is not None
        begin = time.monotonic()
        if line_ends:
            client.trickle([b"\r\n"] * 100, 0.1)
        assert client.answers() == []
        assert 0.8 < time.monotonic() - begin < 3


def test_a_body_that_takes_too_long_is_408(gateway: GatewayProcess) -> None:
    before = hits(gateway, "server.body_timeout_s")
    for start, part in (
        (head(b"host: x", b"content-length: 1000"), b"a"),
        (head(b"host: x", b"transfer-encoding: chunked"), b"1\r\na\r\n"),
        (head(b"host: x", b"content-length: 1000", path=b"/v2/repository/index"), b"a"),
    ):
        with RawClient(gateway.data_port) as client:
            seconds = client.trickle([start, *[part] * 100], 0.1)
            assert refused(client.answers(), 408)
            assert 0.4 < seconds < 2
    assert hits(gateway, "server.body_timeout_s") == before + 3


def test_a_request_s_own_deadline_holds_for_its_body(gateway: GatewayProcess) -> None:
    with RawClient(gateway.data_port) as client:
        begin = time.monotonic()
        client.send(head(b"host: x", b"content-length: 1000", b"x-request-timeout-ms: 100") + b"{")
        assert refused(client.answers(), 408)
        assert time.monotonic() - begin < 1.5


def test_the_rest_of_a_body_that_nobody_reads_is_not_waited_for_long(gateway: GatewayProcess) -> None:
    with RawClient(gateway.data_port) as client:
        client.send(head(b"host: x", b"content-length: 1000", method=b"PUT", path=b"/nowhere") + b"{")
        answer = client.answer()
        assert answer is not None
        assert answer.status == 404
        begin = time.monotonic()
        client.trickle([b"a"] * 100, 0.1)
        assert client.answers() == []
        assert time.monotonic() - begin < 2
    with RawClient(gateway.data_port) as client:  # one that comes at once is read past
        client.send(head(b"host: x", b"content-length: 1000", method=b"PUT", path=b"/nowhere") + b"a" * 1000 + LIVE)
        assert [answer.status for answer in client.answers()] == [404, 200]


def test_a_client_that_is_still_sending_can_read_its_refusal(gateway: GatewayProcess) -> None:
    """The answer is there although the client only looks for it when it has sent all it wanted."""
    for extra in (0, 512 << 10):
        with RawClient(gateway.data_port) as client:
            client.send(head(b"host: x", b"content-length: %d" % (LARGE + 1)))
            time.sleep(0.1)  # the answer is on its way before the body is
            client.send(b"a" * extra)
            assert refused(client.answers(), 413)


def test_a_client_that_never_ends_is_cut_off(gateway: GatewayProcess) -> None:
    with RawClient(gateway.data_port) as client:
        client.send(head(b"host: x", b"content-length: %d" % (1 << 40)))
        begin, sent = time.monotonic(), 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012  how many it takes is the point
            while time.monotonic() - begin < 10:
                client.send(b"a" * (64 << 10))
                sent += 64 << 10
        assert sent < 64 << 20


def slow_reader(gateway: GatewayProcess) -> RawClient:
    """Asks for far more than the kernel buffers and reads nothing."""
    client = RawClient(gateway.data_port, receive_bytes=4096)
    raw = bytes(LARGE)
    lengths = (b"content-length: %d" % len(raw), b"inference-header-content-length: 0")
    return client.send(head(b"host: x", *lengths, path=b"/v2/models/same/infer"), raw)


def test_an_answer_that_is_not_taken_is_given_up(gateway: GatewayProcess) -> None:
    eventually(lambda: gateway.arm("same", "1")["state"] == "ready")
    before = hits(gateway, "server.write_timeout_s")
    with slow_reader(gateway), gateway.client() as other:
        begin = time.monotonic()
        while hits(gateway, "server.write_timeout_s") == before:
            assert other.send("POST", PATH.decode(), BODY).status == 200, "others are served meanwhile"
            assert time.monotonic() - begin < 5
    assert hits(gateway, "server.write_timeout_s") == before + 1


def test_requests_behind_an_answer_that_is_not_taken_are_not_read(gateway: GatewayProcess) -> None:
    before = hits(gateway, "server.write_timeout_s")
    with slow_reader(gateway) as client:
        client.trickle([LIVE] * 100, 0.02)
        eventually(lambda: hits(gateway, "server.write_timeout_s") == before + 1)


def test_a_client_that_half_closes_gets_its_answer_when_it_comes_soon(
    gateway: GatewayProcess, backend: FaultBackend
) -> None:
    backend.set("ok", delay_ms=200)
    with RawClient(gateway.data_port) as client:
        assert [answer.status for answer in client.send(plain()).half_close().answers()] == [200]


def test_a_client_that_half_closes_counts_as_gone_after_a_while(gateway: GatewayProcess, backend: FaultBackend) -> None:
    backend.set("ok", delay_ms=5000)
    with RawClient(gateway.data_port) as client:
        begin = time.monotonic()
        assert client.send(plain()).half_close().answers() == []
        assert 0.4 < time.monotonic() - begin < 3
    eventually(lambda: backend.counts()["in_flight"] == 0, timeout_s=3, what="the attempt is given up")


def test_one_client_cannot_take_all_connections(gateway: GatewayProcess) -> None:
    before = hits(gateway, "server.max_connections_per_client")
    with ExitStack() as held:
        for _ in range(CLIENTS):
            held.enter_context(RawClient(gateway.data_port)).send(LIVE)
        over = held.enter_context(RawClient(gateway.data_port)).send(LIVE)
        answer = refused(over.answers(), 503)
        assert "your address" in answer["error"]
        elsewhere = socket.socket()
        held.callback(elsewhere.close)
        elsewhere.bind(("127.0.0.2", 0))
        elsewhere.connect(("127.0.0.1", gateway.data_port))
        elsewhere.sendall(LIVE)
        assert elsewhere.recv(100).startswith(b"HTTP/1.1 200 ")
    assert hits(gateway, "server.max_connections_per_client") == before + 1
    eventually(lambda: open_connections(gateway) == 0)


def test_encoded_bodies_are_read(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        for coding, data in (("gzip", gzip.compress(BODY)), ("deflate", zlib.compress(BODY)), ("identity", BODY)):
            assert client.send("POST", PATH.decode(), data, {"content-encoding": coding}).status == 200
        unknown = client.send("POST", PATH.decode(), BODY, {"content-encoding": "br"})
        assert unknown.status == 415
        assert unknown.headers["accept-encoding"].startswith("gzip, deflate")
        for damaged in (BODY, gzip.compress(BODY)[:-1], gzip.compress(BODY) + b"garbage"):
            assert client.send("POST", PATH.decode(), damaged, {"content-encoding": "gzip"}).status == 400


def test_a_bomb_is_413_and_stalls_nobody(gateway: GatewayProcess) -> None:
    bomb = gzip.compress(bytes(128 << 20))
    before = hits(gateway, "server.max_body_bytes")
    statuses: list[int] = []

    def throw() -> None:
        with gateway.client() as client:
            statuses.append(client.send("POST", PATH.decode(), bomb, {"content-encoding": "gzip"}).status)

    throwers = [threading.Thread(target=throw) for _ in range(4)]
    with gateway.client() as other:
        for thrower in throwers:
            thrower.start()
        while any(thrower.is_alive() for thrower in throwers):
            assert other.send("GET", "/v2/health/live").status == 200
        for thrower in throwers:
            thrower.join()
    assert statuses == [413] * 4
    assert hits(gateway, "server.max_body_bytes") == before + 4
    assert memory_mb(gateway.pid) < 1500


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
