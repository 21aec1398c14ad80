"""The one edge of ``routing``: where documents, their history and the order of changes are kept."""

from urllib.parse import parse_qsl, urlsplit

from routing.store.base import Change, Record, Store, Word
from routing.store.history import GENESIS_SHA256, UNREADABLE, HistoryEntry, chain, verify
from routing.store.memory import MemoryStore
from routing.store.pool import Entry, Flush, Judged, Lease, LeaseLost, Pool, Sums
from routing.store.redis import COMMAND_TIMEOUT_S, RedisStore
from routing.store.sqlite import SqliteStore
from routing.store.write import Draft, write

__all__ = [
    "GENESIS_SHA256",
    "UNREADABLE",
    "Change",
    "Draft",
    "Entry",
    "Flush",
    "HistoryEntry",
    "Judged",
    "Lease",
    "LeaseLost",
    "MemoryStore",
    "Pool",
    "Record",
    "RedisStore",
    "SqliteStore",
    "Store",
    "Sums",
    "Word",
    "chain",
    "store_from_url",
    "verify",
    "write",
]

SHAPES = "memory:, sqlite:///FILE, sqlite:////ABSOLUTE/FILE, redis://HOST:PORT/DB or rediss://HOST:PORT/DB"


def store_from_url(url: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> Store:
    """The store a URL names, not yet open; ``timeout_s`` bounds a command of one in Redis.

    Raises:
        ValueError: The URL names none; the sentence says which shapes there are. It never repeats the URL, which
            may hold a password.
    """
    if url == "memory:":
        return MemoryStore()
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        return SqliteStore(_sqlite_path(rest))
    if scheme in ("redis", "rediss") and separator:
        _check_redis_url(url)
        return RedisStore(url, command_timeout_s=timeout_s)
    raise ValueError(f"this is no store URL: write {SHAPES}")


def _sqlite_path(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host or not slash:
        raise ValueError("a sqlite URL has three slashes before a relative file, four before an absolute one")
    if not path or path.endswith("/") or path == ":memory:" or "\0" in path:
        raise ValueError("a sqlite URL names a file, as in sqlite:///turnout.db; to keep nothing write memory:")
    return path


def _check_redis_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"the redis URL cannot be read: {error}") from None
    database = parts.path.removeprefix("/")
    if not host or (database and not database.isdigit()) or parts.fragment:
        raise ValueError("a redis URL is redis://HOST:PORT/DB, where DB is a number and may be left out")
    unknown = sorted(name for name, _ in parse_qsl(parts.query) if not name.startswith("ssl_"))
    if unknown:
        raise ValueError(f"a redis URL takes only ssl_* options, not {', '.join(unknown)}: timeouts are turnout's own")
