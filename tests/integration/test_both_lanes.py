"""What a server does around a request holds in the fast lane as it does beside it."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import FaultBackend
from tests.gateway_process import GatewayProcess, corpus, eventually
from tests.raw_client import RawClient

BODY = corpus("credit")[0]["request"]
VARIANTS = [{"version": "1", "weight": 100}]


@pytest.fixture(scope="module")
def far() -> Iterator[FaultBackend]:
    with FaultBackend() as backend:
        yield backend


@pytest.fixture(params=[True, False], ids=["fast", "starlette"])
def start(request: pytest.FixtureRequest, tmp_path: Path, far: FaultBackend) -> Iterator[Any]:
    started: list[GatewayProcess] = []

    def start(**server: Any) -> GatewayProcess:
        remote = {"1": {"kind": "oip", "url": far.url, "model": "credit", "version": "1"}}
        routes = [
            {"model": "credit", "stable": "1", "variants": VARIANTS},
            {"model": "far", "stable": "1", "variants": VARIANTS, "backends": remote},
        ]
        plain = {"listen": "127.0.0.1:0", "fast_lane": request.param, **server}
        settings = {"store": {"url": "memory:"}, "server": plain, "drain_s": 5}
        started.append(GatewayProcess(tmp_path, routes=routes, settings=settings).start())
        return started[0]

    yield start
    far.set("ok")
    for gateway in started:
        gateway.kill()


def infer(model: str = "credit") -> bytes:
    body = b'{"inputs":[]}' if model == "nobody" else json.dumps(BODY).encode()
    return b"POST /v2/models/%s/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (
        model.encode(),
        len(body),
        body,
    )


def test_an_idle_connection_is_closed_after_its_time(start: Any) -> None:
    gateway = start(keep_alive_s=1)
    with RawClient(gateway.data_port) as client:
        client.send(infer())
        assert client.answer() is not None
        begin = time.monotonic()
        assert client.answer() is None
        assert 0.8 < time.monotonic() - begin < 3


def test_a_connection_is_as_idle_after_a_version_that_is_not_ready(start: Any, far: FaultBackend) -> None:
    gateway = start(keep_alive_s=1)
    far.set("refuse")
    eventually(lambda: "not ready" in gateway.client().infer("far", BODY).json().get("error", ""), 10, "not ready")
    with RawClient(gateway.data_port) as client:
        client.send(infer("far"))
        answer = client.answer()
        assert answer is not None
        assert "not ready" in answer.json()["error"]
        begin = time.monotonic()
        assert client.answer() is None
        assert time.monotonic() - begin < 3


def test_one_request_too_many_is_503_and_the_next_is_answered(start: Any, far: FaultBackend) -> None:
    gateway = start(max_concurrency=1)
    far.set("never")
    with RawClient(gateway.data_port) as held, gateway.client() as other:
        held.send(infer("far"))
        refused = eventually(lambda: (a := other.infer("credit", BODY)).status == 503 and a, 5, "a refusal")
        assert refused.headers["retry-after"] == "1"
        assert "in work already" in refused.json()["error"]
    eventually(lambda: gateway.client().infer("credit", BODY).status == 200, 5, "room again")


def test_a_signal_lets_the_request_in_hand_end_and_closes_its_connection(start: Any, far: FaultBackend) -> None:
    gateway = start(drain_notice_ms=0)
    far.set("ok", delay_ms=500)
    with RawClient(gateway.data_port) as client, RawClient(gateway.data_port) as idle:
        idle.send(infer())
        assert idle.answer() is not None
        client.send(infer("far"))
        time.sleep(0.2)
        gateway.signal(signal.SIGTERM)
        answer = client.answer()
        assert answer is not None
        assert (answer.status, answer.headers.get("connection")) == (200, "close"), (answer.body, answer.headers)
        assert client.answer() is None
        assert idle.answer() is None
    assert gateway.wait() == 0


def test_a_client_that_leaves_frees_its_place(start: Any, far: FaultBackend) -> None:
    gateway = start(max_concurrency=1)
    far.set("never")
    client = RawClient(gateway.data_port)
    client.send(infer("far"))
    eventually(lambda: gateway.client().infer("credit", BODY).status == 503, 5, "a place taken")
    client.socket.close()
    eventually(lambda: gateway.client().infer("credit", BODY).status == 200, 5, "the place free again")


def test_a_client_that_does_not_read_is_not_read_from(start: Any) -> None:
    gateway = start(write_timeout_s=30)
    with RawClient(gateway.data_port, receive_bytes=4096) as client:
        sent = 0
        client.socket.settimeout(1.0)

        def flood() -> None:
            nonlocal sent
            piece = infer("nobody") * 200
            try:
                for _ in range(2000):
                    client.socket.sendall(piece)
                    sent += len(piece)
            except OSError:
                return

        thread = threading.Thread(target=flood)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        assert sent < 40_000_000, "it went on reading requests whose answers nobody takes"
    with gateway.client() as other:
        assert other.infer("credit", BODY).status == 200


def test_a_status_that_nobody_registered_goes_through(start: Any, far: FaultBackend) -> None:
    gateway = start()
    with gateway.client() as client:
        for said, heard in ((299, 299), (420, 420), (499, 499), (529, 529), (599, 599), (700, 502)):
            far.set(f"status_{said}")
            assert [client.infer("far", BODY).status for _ in range(2)] == [heard, heard]


def test_the_header_bounds_of_the_settings_hold(start: Any) -> None:
    gateway = start(max_headers=8, max_line_bytes=256, max_head_bytes=1024, max_url_bytes=256)
    extra = {
        "many": b"".join(b"x-%d: y\r\n" % n for n in range(9)),
        "long": b"x-a: " + b"y" * 300 + b"\r\n",
        "large": b"".join(b"x-%d: %s\r\n" % (n, b"y" * 200) for n in range(6)),
    }
    for name, lines in extra.items():
        with RawClient(gateway.data_port) as client:
            client.send(infer().replace(b"host: a\r\n", b"host: a\r\n" + lines))
            answer = client.answer()
            assert answer is not None
            assert answer.status == 431, name
    with RawClient(gateway.data_port) as client:
        client.send(infer("m" * 128).replace(b"/infer", b"/versions/" + b"v" * 128 + b"/infer"))
        answer = client.answer()
        assert answer is not None
        assert answer.status == 414


def test_a_late_body_is_told_so_behind_another_message(start: Any) -> None:
    gateway = start(body_timeout_s=0.4, linger_s=1)
    with RawClient(gateway.data_port) as client:
        client.send(b"GET /v2 HTTP/1.1\r\nhost: a\r\n\r\n")
        assert client.answer() is not None
        client.send(infer()[:-10])
        answer = client.answer()
        assert answer is not None
        assert (answer.status, answer.headers["connection"], "date" in answer.headers) == (408, "close", True)
        client.send(b"12345", b"67890")  # it lingers: what is sent on is read and thrown away


def test_the_access_log_has_a_line_for_each(start: Any) -> None:
    gateway = start(access_log=True)
    with gateway.client() as client:
        assert client.infer("credit", BODY).status == 200
        assert client.infer("credit", BODY, version="1").status == 200
        assert client.infer("nobody", BODY).status == 404
    wanted = [
        '"POST /v2/models/credit/infer HTTP/1.1\\" 200',
        '"POST /v2/models/credit/versions/1/infer HTTP/1.1\\" 200',
        '"POST /v2/models/nobody/infer HTTP/1.1\\" 404',
    ]
    eventually(lambda: all(line in gateway.errors.read_text() for line in wanted), 5, "three lines")
