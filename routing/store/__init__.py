"""The one edge of ``routing``: where documents, their history and the order of changes are kept."""

from routing.store.base import Change, Record, Store, Word
from routing.store.history import GENESIS_SHA256, UNREADABLE, HistoryEntry, chain, verify
from routing.store.junk import Junk
from routing.store.memory import MemoryStore
from routing.store.pool import Entry, EvidenceLost, Flush, Judged, Lease, LeaseLost, Pool, Sums
from routing.store.redis import COMMAND_TIMEOUT_S, RedisStore
from routing.store.sqlite import SqliteStore
from routing.store.write import Draft, write

__all__ = [
    "GENESIS_SHA256",
    "UNREADABLE",
    "Change",
    "Draft",
    "Entry",
    "EvidenceLost",
    "Flush",
    "HistoryEntry",
    "Judged",
    "Junk",
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

SHAPES = "memory:, sqlite:///FILE, sqlite:////ABSOLUTE/FILE, redis://HOST:PORT/DB, rediss://HOST:PORT/DB or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"


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
    if scheme in ("redis", "rediss", "redis+sentinel", "rediss+sentinel") and separator:
        return RedisStore(url, command_timeout_s=timeout_s)
    raise ValueError(f"this is no store URL: write {SHAPES}")


def _sqlite_path(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host or not slash:
        raise ValueError("a sqlite URL has three slashes before a relative file, four before an absolute one")
    if not path or path.endswith("/") or path == ":memory:" or "\0" in path:
        raise ValueError("a sqlite URL names a file, as in sqlite:///turnout.db; to keep nothing write memory:")
    return path
