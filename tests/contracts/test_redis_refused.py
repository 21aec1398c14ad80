"""What a person is told of a Redis that a gateway cannot use: what to look at, and never the password."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.gateway_process import ROOT
from tests.redis_server import RedisServer

TOKEN = {"tokens": [{"name": "ops", "role": "admin", "sha256": "0" * 64}]}
LOOPBACK = {"listen": "127.0.0.1:0"}


def refused(folder: Path, url: str, *check: str) -> tuple[str, str]:
    """What ``turnout check`` and ``turnout serve`` say of settings with this store."""
    config = folder / "gateway.yaml"
    plain = {"server": {**LOOPBACK, "spare_worker": False}, "admin": {**LOOPBACK, **TOKEN}, "store": {"url": url}}
    config.write_text(yaml.safe_dump({**plain, "state_dir": str(folder / "state")}))
    said = []
    for words in (["check", *check, str(config)], ["serve", "--config", str(config)]):
        command = [sys.executable, "-m", "gateway", *words]
        ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert ended.returncode == 1, ended
        assert "Traceback" not in ended.stderr
        said.append(ended.stdout + ended.stderr)
    assert not [words for words in said if "wrong-secret" in words]
    assert "/store/url: " in said[0]
    return said[0], said[1]


@pytest.mark.parametrize(
    ("option", "content"),
    [("ssl_ca_certs", None), ("ssl_ca_certs", b"no certificate"), ("ssl_certfile", b"none"), ("ssl_keyfile", None)],
)
def test_a_file_of_tls_that_cannot_be_used_is_named(tmp_path: Path, option: str, content: bytes | None) -> None:
    file = tmp_path / "given.pem"
    if content is not None:
        file.write_bytes(content)
    for said in refused(tmp_path, f"rediss://localhost:1/0?{option}={file}"):
        assert f"{option} {file} cannot be used" in said


def test_a_refused_password_is_called_that(tmp_path: Path) -> None:
    with RedisServer() as server:
        assert server.call(b"ACL SETUSER ops on >secret ~* +@all\r\n") == b"+OK\r\n"
        assert server.call(b"ACL SETUSER default resetpass >secret\r\n") == b"+OK\r\n"
        wrong = server.url.replace("redis://", "redis://ops:wrong-secret@")
        for said in refused(tmp_path, wrong, "--store"):
            assert f"127.0.0.1:{server.port} refused user 'ops' with the password of the URL" in said
            assert "reached" not in said
        for said in refused(tmp_path, server.url, "--store"):
            assert "refused to be asked without a password, and the URL has none" in said


def test_sentinels_that_do_not_help_are_named_with_the_master_they_were_asked_for(tmp_path: Path) -> None:
    with RedisServer() as server, RedisServer(sentinel=[f"sentinel monitor other 127.0.0.1 {server.port} 1"]) as knows:
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{knows.port}/primary"
        for said in refused(tmp_path, url, "--store"):
            assert "no Sentinel names a master of 'primary'" in said
            assert "127.0.0.1:1 cannot be reached" in said
            assert f"127.0.0.1:{knows.port} does not know it" in said


def test_sentinels_that_hang_are_named_too(tmp_path: Path) -> None:
    with RedisServer(sentinel=["sentinel monitor primary 127.0.0.1 1 1"]) as hangs:
        hangs.pause()
        for said in refused(tmp_path, f"redis+sentinel://127.0.0.1:{hangs.port}/primary", "--store"):
            assert f"'primary' of the Sentinels 127.0.0.1:{hangs.port} did not answer for 1 s" in said


def test_a_server_without_tls_a_sentinel_and_a_server_for_one_are_called_that(tmp_path: Path) -> None:
    with RedisServer() as server, RedisServer(sentinel=["sentinel monitor primary 127.0.0.1 1 1"]) as sentinel:
        words = {
            f"rediss://127.0.0.1:{server.port}/0": "perhaps it does not speak TLS",
            sentinel.url: "if it is one, write redis+sentinel://HOST:PORT/SERVICE/DB",
            f"redis+sentinel://127.0.0.1:{server.port}/primary/0": "it is no Sentinel",
            "redis://127.0.0.1:9/0": "cannot be reached",
        }
        for url, expected in words.items():
            for said in refused(tmp_path, url, "--store"):
                assert expected in said
                assert len(said.strip().splitlines()) == 1
                assert ".;" not in said
                assert "redis.call" not in said


def test_a_check_of_the_store_writes_nothing(tmp_path: Path) -> None:
    def checked(url: str) -> str:
        config = tmp_path / "gateway.yaml"
        config.write_text(yaml.safe_dump({"admin": {**LOOPBACK, **TOKEN}, "store": {"url": url}}))
        command = [sys.executable, "-m", "gateway", "check", "--store", str(config)]
        ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert ended.returncode == 0, ended
        return ended.stdout

    empty = "the store is empty: the first gateway that serves begins it"
    with RedisServer() as server:
        assert empty in checked(server.url)
        assert server.call(b"DBSIZE\r\n") == b":0\r\n"
        server.call(b"HSET {turnout}:meta layout 1 store_id x sequence 0\r\n")
        assert empty not in checked(server.url)
    file = tmp_path / "no" / "routes.db"
    assert empty in checked(f"sqlite:///{file}")
    assert not file.parent.exists()


@pytest.mark.parametrize("url", ["redis://h:0/0", "redis+sentinel://h:0/primary"])
def test_port_0_is_refused(tmp_path: Path, url: str) -> None:
    for said in refused(tmp_path, url):
        assert "nobody listens on port 0" in said
