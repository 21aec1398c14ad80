"""Which URL names which store."""

import asyncio
from pathlib import Path

import pytest

from routing.store import MemoryStore, RedisStore, SqliteStore, store_from_url


def test_memory() -> None:
    assert isinstance(store_from_url("memory:"), MemoryStore)


def test_three_slashes_are_relative_and_four_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        for url in ("sqlite:///here/a.db", f"sqlite:///{tmp_path}/b.db"):
            store = store_from_url(url)
            assert isinstance(store, SqliteStore)
            await store.open()
            await store.close()

    monkeypatch.chdir(tmp_path)
    asyncio.run(scenario())
    assert (tmp_path / "here" / "a.db").exists()
    assert (tmp_path / "b.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:1,b/primary",
        "rediss+sentinel://u:p@[::1]:26379,b:2/primary/3?ssl_ca_certs=ca.pem&sentinel_password=x",
        "redis://localhost",
        "redis://:pw@h:1/3",
        "rediss://u:p@[::1]:6380/0?ssl_cert_reqs=required",
        "redis://h/",
    ],
)
def test_redis(url: str) -> None:
    assert isinstance(store_from_url(url), RedisStore)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory://",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite://host/file.db",
        "sqlite:///folder/",
        "sqlite:///:memory:",
        "redis:",
        "redis://",
        "redis://h:port",
        "redis://h:70000",
        "redis://h/name",
        "redis://h/0#x",
        "redis://h/0?socket_timeout=99",
        "redis://h/0?retry_on_timeout=yes",
        "redis://h/0?ssl_cert_reqs=none",
        "redis+sentinel://a:1/primary?ssl_cert_reqs=none",
        "rediss://u:secret@h/0?ssl_cert_reqs=maybe",
        "rediss://h/0?ssl_check_hostname=perhaps",
        "redis+sentinel://a:1,b:2",
        "redis+sentinel://u:secret@a:1,b:x/primary",
        "redis+sentinel://a:1,,b:2/primary",
        "redis+sentinel://a:1/primary/db",
        "redis+sentinel://a:1/primary?timeout=3",
        "redis://a:1/0?sentinel_password=secret",
        "unix:///tmp/redis.sock",
        "postgres://u:secret@h/db",
    ],
)
def test_anything_else_is_refused_in_a_sentence_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ .*") as refusal:
        store_from_url(url)
    assert "secret" not in str(refusal.value)
