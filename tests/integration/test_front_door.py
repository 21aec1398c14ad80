"""What raw clients send to a real gateway, and what they get: framing, heads, sizes, and the ends of connections."""

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.backends.test_onnx_binary import identity
from tests.gateway_process import GatewayProcess, corpus, eventually
from tests.raw_client import RawAnswer, RawClient

BODY = json.dumps(corpus("credit")[0]["request"]).encode()
LIMIT = 8 << 20
PATH = b"/v2/models/credit/infer"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
CREDIT = {"model": "credit", "stable": "1", "variants": [{"version": "1", "weight": 100}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    settings = {
        "store": {"url": "memory:"},
        "server": {"listen": "127.0.0.1:0", "max_body_bytes": LIMIT, "max_pipelined": 8},
    }
    with GatewayProcess(folder, routes=[CREDIT], settings=settings) as process:
        yield process


@pytest.fixture(autouse=True)
def lives_on(gateway: GatewayProcess) -> Iterator[None]:
    """After every case the gateway answers as before, and nothing was unforeseen."""
    yield
    with gateway.client() as client:
        assert client.send("POST", PATH.decode(), BODY).status == 200
    assert "Traceback" not in gateway.errors.read_text()


def head(*lines: bytes, method: bytes = b"POST", path: bytes = PATH, version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"%s %s %s" % (method, path, version), *lines, b"", b""])


def plain(*lines: bytes, body: bytes = BODY) -> bytes:
    return head(b"host: x", b"content-length: %d" % len(body), *lines) + body


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head(b"host: x", b"transfer-encoding: chunked") + framed + end


def hits(gateway: GatewayProcess, bound: str) -> int:
    with gateway.admin() as admin:
        for line in admin.send("GET", "/metrics").body.decode().splitlines():
            if line.startswith(f'turnout_bound_hits_total{{bound="{bound}"}}'):
                return int(float(line.split()[-1]))
    return 0


def refused(answers: list[RawAnswer], status: int) -> dict[str, Any]:
    """One answer, ours, the last on its connection."""
    assert [answer.status for answer in answers] == [status]
    found = answers[0].headers
    assert found["content-type"] == "application/json"
    assert found["connection"] == "close"
    assert len(found["x-request-id"]) == 32
    return {"error": answers[0].json()["error"]}


BOTH = head(b"host: x", b"content-length: 4", b"transfer-encoding: chunked") + b"0\r\n\r\n"
BOTH_TURNED = head(b"host: x", b"transfer-encoding: chunked", b"content-length: 4") + b"0\r\n\r\n"
ENDED = b"5\r\nhello\r\n0\r\n\r\n"
coded = lambda value: head(b"host: x", b"transfer-encoding: " + value) + ENDED  # noqa: E731
got = lambda *lines: head(*lines, method=b"GET", path=b"/v2/health/live")  # noqa: E731

TABLE: dict[str, tuple[bytes, int]] = {
    "content length and chunked": (BOTH, 400),
    "chunked and content length": (BOTH_TURNED, 400),
    "both, and a second request behind": (BOTH + LIVE, 400),
    "two content lengths": (head(b"host: x", b"content-length: 5", b"content-length: 6") + b"hello", 400),
    "two equal content lengths": (head(b"host: x", b"content-length: 5", b"content-length: 5") + b"hello", 400),
    "a list of content lengths": (head(b"host: x", b"content-length: 5, 5") + b"hello", 400),
    "content length with a sign": (head(b"host: x", b"content-length: +5") + b"hello", 400),
    "no content length in the header": (head(b"host: x", b"content-length:") + b"hello", 400),
    "content length of many digits": (head(b"host: x", b"content-length: " + b"9" * 30) + b"hello", 400),
    "xchunked": (coded(b"xchunked"), 501),
    "chunked, identity": (coded(b"chunked, identity"), 400),
    "gzip, chunked": (coded(b"gzip, chunked"), 501),
    "chunked twice": (head(b"host: x", *[b"transfer-encoding: chunked"] * 2) + ENDED, 400),
    "gzip as transfer coding": (coded(b"gzip"), 501),
    "no transfer coding in the header": (coded(b""), 400),
    "chunked in HTTP/1.0": (head(b"transfer-encoding: chunked", version=b"HTTP/1.0") + ENDED, 400),
    "a space before the colon": (got(b"host: x", b"a : b"), 400),
    "a bare CR": (got(b"host: x", b"a: b\rc: d"), 400),
    "a NUL": (got(b"host: x", b"a: b\0"), 400),
    "a NUL in a name": (got(b"host: x", b"a\0: b"), 400),
    "a chunk size in 0x": (head(b"host: x", b"transfer-encoding: chunked") + b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    "a bare LF behind a chunk size": (head(b"host: x", b"transfer-encoding: chunked") + b"5\nhello\r\n0\r\n\r\n", 400),
    "a chunk that is longer than it says": (
        head(b"host: x", b"transfer-encoding: chunked") + b"3\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    "a huge chunk size": (head(b"host: x", b"transfer-encoding: chunked") + b"f" * 20 + b"\r\n", 400),
    "a version in lower case": (head(b"host: x", version=b"http/1.1"), 400),
    "a folded header": (got(b"host: x", b"a: b", b" c"), 400),
    "bare LF": (LIVE.replace(b"\r\n", b"\n"), 400),
    "no host": (got(), 400),
    "two hosts": (got(b"host: x", b"Host: y"), 400),
    "two equal hosts": (got(b"host: x", b"host: x"), 400),
    "an empty host": (got(b"host:"), 400),
    "a host with a path": (got(b"host: x/y"), 400),
    "a host with a user": (got(b"host: me@x"), 400),
    "two hosts in one": (got(b"host: x, y"), 400),
    "an underscore in a name": (got(b"host: x", b"Content_Length: 5"), 400),
    "1,000 headers": (got(b"host: x", *[b"a%d: b" % n for n in range(1000)]), 431),
    "a header of 100 KB": (got(b"host: x", b"a: " + b"b" * 100_000), 431),
    "a header's name of 100 KB": (got(b"host: x", b"a" * 100_000 + b": b"), 431),
    "a header of 8 MB": (got(b"host: x", b"a: " + b"b" * 8_000_000), 431),
    "a header of 8 MB that never ends": (got(b"host: x", b"a: " + b"b" * 8_000_000)[:-4], 431),
    "many headers of a legal size": (got(b"host: x", *[b"a%d: " % n + b"b" * 10_000 for n in range(10)]), 431),
    "a URL of 1 MB": (head(b"host: x", path=b"/" + b"a" * (1 << 20), method=b"GET"), 414),
    "a URL just over": (head(b"host: x", path=b"/" + b"a" * (8 << 10), method=b"GET"), 414),
    "another version": (head(b"host: x", version=b"HTTP/2.0", method=b"GET"), 505),
    "the first HTTP": (b"GET /v2/health/live\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a tunnel": (head(b"host: x", method=b"CONNECT", path=b"a:443"), 501),
    "a method in lower case": (head(b"host: x", method=b"get"), 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
    "an upgrade with a body": (plain(b"connection: upgrade", b"upgrade: h2c") + LIVE, 400),
    "a body of 20 MB": (plain(body=b" " * (20 << 20)), 413),
    "a chunked body of 20 MB": (chunked(*[b" " * (1 << 20)] * 20), 413),
    "a body on a path that reads none": (
        head(b"host: x", b"content-length: %d" % (20 << 20), method=b"PUT", path=b"/nowhere"),
        404,
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_raw_request_gets_the_wanted_status_and_nothing_behind_it(gateway: GatewayProcess, case: str) -> None:
    data, status = TABLE[case]
    with RawClient(gateway.data_port) as client:
        sender = threading.Thread(target=_send_all, args=(client, data))
        sender.start()
        assert refused(client.answers(), status)["error"]
        sender.join()


def _send_all(client: RawClient, data: bytes) -> None:
    try:
        client.send(data)
    except OSError:  # closed after the answer: nobody has to take the rest of 20 MB
        return


@pytest.mark.parametrize("case", TABLE)
def test_a_request_before_it_is_answered_first(gateway: GatewayProcess, case: str) -> None:
    data, status = TABLE[case]
    with RawClient(gateway.data_port) as client:
        sender = threading.Thread(target=_send_all, args=(client, plain() + data))
        sender.start()
        assert [answer.status for answer in client.answers()] == [200, status]
        sender.join()


LEGAL: dict[str, bytes] = {
    "plain": plain(),
    "chunked": chunked(BODY),
    "chunked, in capitals": chunked(BODY).replace(b"chunked", b"Chunked"),
    "many small chunks": chunked(*[BODY[at : at + 1] for at in range(len(BODY))]),
    "chunk extensions and trailers": chunked(end=b"%x;a=b\r\n%s\r\n0\r\nx-request-id: no\r\n\r\n" % (len(BODY), BODY)),
    "the length in zeros": plain().replace(b"content-length: ", b"content-length: 000"),
    "line ends before it": b"\r\n\r\n\r\n" + plain(),
    "a host with a port": plain().replace(b"host: x", b"host: [::1]:8080"),
    "HTTP/1.0 without a host": plain().replace(b"host: x\r\n", b"").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "100 headers": plain(*[b"a%d: b" % n for n in range(98)]),
    "a header of 16,000 bytes": plain(b"a: " + b"b" * 16_000),
}


@pytest.mark.parametrize("case", LEGAL)
def test_what_is_legal_is_served_whole_and_byte_by_byte(gateway: GatewayProcess, case: str) -> None:
    data = LEGAL[case]
    with RawClient(gateway.data_port) as whole, RawClient(gateway.data_port) as split:
        whole.send(data)
        split.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = max(1, len(data) // 500)
        for at in range(0, len(data), step):
            split.send(data[at : at + step])
        for client in (whole, split):
            answer = client.answer()
            assert answer is not None
            assert answer.status == 200
            assert answer.headers["x-request-id"] != "no"


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(gateway: GatewayProcess) -> None:
    ids = [b"r%d" % n for n in range(8)]
    with RawClient(gateway.data_port) as client:
        client.send(b"".join(plain(b"x-request-id: " + name) for name in ids))
        for name in ids:
            answer = client.answer()
            assert answer is not None
            assert (answer.status, answer.headers["x-request-id"]) == (200, name.decode())
        assert client.send(LIVE).answer() is not None


def test_more_pipelined_requests_than_the_bound_are_503_after_the_others(gateway: GatewayProcess) -> None:
    before = hits(gateway, "server.max_pipelined")
    with RawClient(gateway.data_port) as client:
        answers = client.send(LIVE * 40).answers()
    assert [answer.status for answer in answers] == [200] * 9 + [503]
    assert answers[-1].headers["retry-after"] == "1"
    assert hits(gateway, "server.max_pipelined") == before + 1


def test_an_upgrade_without_a_body_is_served_as_it_is(gateway: GatewayProcess) -> None:
    upgrade = got(b"host: x", b"connection: upgrade", b"upgrade: websocket")
    with RawClient(gateway.data_port) as client:
        client.send(upgrade + upgrade + LIVE)
        assert [answer.status for answer in (client.answer(), client.answer(), client.answer()) if answer] == [200] * 3


def test_what_stands_behind_the_last_request_of_a_connection_is_not_served(gateway: GatewayProcess) -> None:
    with RawClient(gateway.data_port) as client:
        answers = client.send(got(b"host: x", b"connection: close") + LIVE * 3).answers()
    assert [answer.status for answer in answers] == [200]


def test_a_client_that_waits_for_100_gets_it_and_not_when_the_body_is_too_large(gateway: GatewayProcess) -> None:
    with RawClient(gateway.data_port) as client:
        client.send(head(b"host: x", b"content-length: %d" % len(BODY), b"expect: 100-continue"))
        interim = client.answer()
        assert interim is not None
        assert interim.status == 100
        answer = client.send(BODY).answer()
        assert answer is not None
        assert answer.status == 200
    with RawClient(gateway.data_port) as client:
        client.send(head(b"host: x", b"content-length: %d" % (LIMIT + 1), b"expect: 100-continue"))
        assert refused(client.answers(), 413)


def test_refusals_are_counted_by_their_bound(gateway: GatewayProcess) -> None:
    cases = {
        "server.malformed": "two hosts",
        "server.max_headers": "1,000 headers",
        "server.max_line_bytes": "a header of 100 KB",
        "server.max_head_bytes": "a header of 8 MB that never ends",
        "server.max_url_bytes": "a URL of 1 MB",
        "server.max_body_bytes": "a body of 20 MB",
    }
    for bound, case in cases.items():
        before = hits(gateway, bound)
        with RawClient(gateway.data_port) as client:
            sender = threading.Thread(target=_send_all, args=(client, TABLE[case][0]))
            sender.start()
            client.answers()
            sender.join()
        assert hits(gateway, bound) == before + 1, bound


def test_the_admin_plane_has_the_same_door_and_its_own_count(gateway: GatewayProcess) -> None:
    for case in ("two hosts", "an underscore in a name", "a header of 100 KB", "gzip, chunked", "bare LF"):
        data, status = TABLE[case]
        with RawClient(gateway.admin_port) as client:
            assert refused(client.send(data).answers(), status)
    assert hits(gateway, "admin.malformed") >= 3
    with RawClient(gateway.admin_port) as client:
        sent = client.send(head(b"host: x", b"content-length: 5", path=b"/admin/v1/nothing") + b"hello").answer()
        assert sent is not None
        assert sent.status in {401, 404}


def test_a_client_that_sends_no_more_gets_its_answers(gateway: GatewayProcess) -> None:
    with RawClient(gateway.data_port) as client:
        answers = client.send(plain() + LIVE).half_close().answers()
    assert [answer.status for answer in answers] == [200, 200]


def test_a_request_that_is_cut_off_is_answered_by_nothing(gateway: GatewayProcess) -> None:
    for cut in (plain()[:-1], plain()[:30], chunked(BODY)[:-1], b"", b"\r\n"):
        with RawClient(gateway.data_port) as client:
            assert client.send(cut).half_close().answers() == []


def test_it_serves_large_tensors_both_ways(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Back-pressure: a body far above every buffer, at the limit, to a slow model and back."""
    folder = tmp_path_factory.mktemp("large")
    models = folder / "models"
    (models / "same/1").mkdir(parents=True)
    identity(models / "same/1", "UINT8", ["n"])
    settings = {"store": {"url": "memory:"}, "server": {"listen": "127.0.0.1:0", "max_body_bytes": LIMIT}}
    with GatewayProcess(folder, models=models, settings=settings) as gateway, gateway.client() as client:
        raw = bytes(range(256)) * (LIMIT // 256)
        path = "/v2/models/same/versions/1/infer"
        eventually(lambda: client.send("GET", "/v2/models/same/versions/1/ready").status == 200)
        answer = client.send("POST", path, raw, {"inference-header-content-length": "0"})
        assert answer.status == 200
        assert answer.body.endswith(raw)
