"""Redis as people run it: few rights, TLS, a cluster of one node, Sentinels."""

import asyncio
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from routing.errors import OutcomeUnknown, StaleRevision, StoreUnavailable
from routing.store import Flush, Judged, RedisStore, Sums, verify
from routing.store.redis import _ReplyLost
from routing.store.redis_scripts import void_key
from tests.contracts.stores import opened, put, step, take
from tests.gateway_process import ROOT
from tests.ports import free_port
from tests.redis_server import RedisServer

PAGE = (ROOT / "docs" / "reference" / "store.md").read_text()
FAILOVER_S = 20.0


async def exercise(store: RedisStore) -> None:
    """Everything that a gateway asks of a store."""
    position = await store.position()
    await put(store, "credit", b"one")
    await put(store, "credit", b"two")
    async with aclosing(store.watch(position)) as changes:
        assert [change.revision for change in await take(changes, 2)] == [1, 2]
    with pytest.raises(StaleRevision):
        await store.compare_and_set(*step())
    held = await store.load("credit")
    with pytest.raises(StoreUnavailable, match="nothing was changed"):
        await store._settle(2, step(held)[2], void_key("a" * 32), _ReplyLost("lost"))
    assert await store.list() == [held]
    assert verify(await store.history("credit")) is None
    await store.put_presence("a", b"{}", 60)
    await store.put_presence("brief", b"{}", 0.001)
    assert "a" in await store.presences()
    await store.put_presence("a", b"", 0)
    sums = Sums("credit:version:2:1", {"drawn": 1, "seconds": 0.5}, {"max": 2.0})
    await store.pool.flush(Flush("a", 1, b"e", (sums,)))
    lease = await store.pool.take("a", await store.pool.lease())
    await store.pool.beat(lease, "", Judged("1-1", {"credit": b"state"}))
    assert await store.pool.states(["credit"]) == {"credit": b"state"}
    await store.pool.beat(lease, "", Judged("1-1", {"credit": b""}))
    await store.pool.judged()
    await store.pool.totals([sums.place])
    await store.pool.leave(lease)


def exercised(url: str) -> None:
    async def run() -> None:
        store = RedisStore(url)
        async with opened(store):
            await exercise(store)

    asyncio.run(run())


# Rights.


def documented_rights() -> list[str]:
    """The words of the rule on the page, but for its user and secret."""
    match = re.search(r"^user turnout on >SECRET (.*)$", PAGE, re.MULTILINE)
    assert match
    return match[1].split()


def test_the_documented_rights_are_enough_and_none_is_too_much() -> None:
    rights = documented_rights()
    commands = [right for right in rights if right.startswith("+")]
    with RedisServer() as server:
        url = server.url.replace("redis://", "redis://turnout:secret@")

        def allow(*words: str) -> None:
            server.flush()
            server.call(b"ACL DELUSER turnout\r\n")
            assert server.call(f"ACL SETUSER turnout on >secret {' '.join(words)}\r\n".encode()) == b"+OK\r\n"

        allow(*rights)
        exercised(url)
        for command in commands:
            allow(*(right for right in rights if right != command))
            with pytest.raises((StoreUnavailable, OutcomeUnknown)):
                exercised(url)
        allow(*(right.replace("{turnout}", "{other}") for right in rights))
        with pytest.raises(StoreUnavailable, match="permission"):
            exercised(url)


# A cluster of one node.


def test_a_cluster_of_one_node_is_a_store() -> None:
    # Without a bus port of its own, a node takes its port + 10,000, and refuses to start where that is above 65,535.
    bus = str(free_port())
    with RedisServer(options=["--cluster-enabled", "yes", "--cluster-port", bus]) as server:
        assert server.call(b"CLUSTER ADDSLOTSRANGE 0 16383\r\n") == b"+OK\r\n"
        _until(lambda: b"cluster_state:ok" in server.call(b"CLUSTER INFO\r\n"))
        exercised(server.url)


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async def wait() -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)

    asyncio.run(wait())


# TLS. The servers of the wheels are built without it, so it ends before them, as with stunnel.


class Certificates:
    """An authority, and what it has signed; made by openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._openssl("req", "-x509", *self._new("ca"), "-subj", "/CN=authority", "-out", self.file("ca"))
        for name, alternative in (("server", "DNS:localhost"), ("client", "DNS:gateway")):
            self._openssl("req", *self._new(name), "-subj", f"/CN={name}", "-out", f"{folder}/{name}.csr")
            (folder / "extensions").write_text(f"subjectAltName={alternative}\n")
            signed_by = ["-CA", self.file("ca"), "-CAkey", self.file("ca", "key"), "-CAcreateserial"]
            signing = ["x509", "-req", "-in", f"{folder}/{name}.csr", *signed_by, "-days", "2"]
            self._openssl(*signing, "-extfile", f"{folder}/extensions", "-out", self.file(name))

    def file(self, name: str, kind: str = "pem") -> str:
        return str(self.folder / f"{name}.{kind}")

    def _new(self, name: str) -> list[str]:
        return ["-newkey", "rsa:2048", "-nodes", "-keyout", self.file(name, "key"), "-days", "2"]

    @staticmethod
    def _openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def tls_before(port: int, certificates: Certificates) -> Any:
    """A port with TLS, which asks for a certificate, before a server without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.file("server"), certificates.file("server", "key"))
    context.load_verify_locations(certificates.file("ca"))
    context.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def test_tls_checks_who_the_server_is_and_shows_who_we_are(
    certificates: Certificates, shared_server: RedisServer
) -> None:
    trusted = f"ssl_ca_certs={certificates.file('ca')}"
    ours = f"ssl_certfile={certificates.file('client')}&ssl_keyfile={certificates.file('client', 'key')}"

    async def scenario() -> None:
        shared_server.flush()
        async with tls_before(shared_server.port, certificates) as port:
            store = RedisStore(f"rediss://localhost:{port}/0?{trusted}&{ours}")
            async with opened(store):
                await exercise(store)
            for host, options in (("localhost", ours), ("127.0.0.1", f"{trusted}&{ours}"), ("localhost", trusted)):
                with pytest.raises(StoreUnavailable):
                    await RedisStore(f"rediss://{host}:{port}/0?{options}").open()
            another = RedisStore(f"rediss://127.0.0.1:{port}/0?{trusted}&{ours}&ssl_check_hostname=false")
            async with opened(another):
                assert await another.load("credit") is not None

    asyncio.run(scenario())


# Sentinel.


def test_a_store_follows_the_master_that_sentinels_name() -> None:
    with RedisServer() as first, RedisServer(options=["--replicaof", "127.0.0.1", str(first.port)]) as second:
        watched = f"sentinel monitor primary 127.0.0.1 {first.port} 1"
        quick = ["sentinel down-after-milliseconds primary 300", "sentinel failover-timeout primary 2000"]
        with RedisServer(sentinel=[watched, *quick]) as sentinel:
            _until(lambda: b"master_link_status:up" in second.call(b"INFO replication\r\n"))
            # Sentinel finds the replica in the master's own words.
            _until(lambda: str(second.port).encode() in sentinel.call(b"SENTINEL REPLICAS primary\r\n"), 20)
            gone = "127.0.0.1:1"
            asyncio.run(_failed_over(f"redis+sentinel://{gone},127.0.0.1:{sentinel.port}/primary/0", first, second))


async def _failed_over(url: str, first: RedisServer, second: RedisServer) -> None:
    store = RedisStore(url)
    async with opened(store):
        await exercise(store)
        kept = await store.load("credit")
        while str(second.call(b"HLEN {turnout}:routes\r\n")) != str(b":1\r\n"):
            await asyncio.sleep(0.02)
        first.kill()
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            await store.compare_and_set(*step(kept))
        async with asyncio.timeout(FAILOVER_S):
            while True:
                try:
                    await store.compare_and_set(*step(kept, document=b"three"))
                    break
                except (StoreUnavailable, OutcomeUnknown):
                    await asyncio.sleep(0.1)
        assert verify(await store.history("credit")) is None
        assert b"role:master" in second.call(b"INFO replication\r\n")


def test_a_replica_is_no_store_and_an_unknown_service_is_none_either() -> None:
    with RedisServer() as first, RedisServer(options=["--replicaof", "127.0.0.1", str(first.port)]) as second:
        watched = [f"sentinel monitor primary 127.0.0.1 {second.port} 1"]  # what a Sentinel that is behind would say
        with RedisServer(sentinel=watched) as sentinel:
            for service, reason in (("primary", "no master"), ("nobody", "no Sentinel names")):
                store = RedisStore(f"redis+sentinel://127.0.0.1:{sentinel.port}/{service}")
                with pytest.raises(StoreUnavailable, match=reason):
                    asyncio.run(store.open())
