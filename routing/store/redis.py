"""A store in Redis, for several gateways. The layout is in ``redis_scripts``.

Nothing here retries: a repeated write is the caller's decision. One clock bounds every call, waiting for a free
connection, connecting, sending and reading together; the client library's own timeouts are only a second net.
"""

import asyncio
import contextlib
import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, ReadOnlyError, RedisError, ResponseError

from routing.errors import OutcomeUnknown, PositionLost, StaleRevision, StoreUnavailable
from routing.store import redis_scripts as scripts
from routing.store.base import Change, Record, Word, check_step, make_position, sequence_in
from routing.store.history import HistoryEntry, encode, entry_in
from routing.store.junk import Junk
from routing.store.redis_pool import RedisPool
from routing.store.redis_sentinel import Sentinels
from routing.store.redis_side import HASH, SideKeys, WrongType
from routing.store.redis_silence import LISTEN_S, Silence
from routing.store.redis_url import place_in, said_by, unusable_file

COMMAND_TIMEOUT_S = 1.0  # one command, from waiting for a connection to the whole reply
WATCH_BLOCK_S = 1.0  # how long the server holds a watch without news; then the store's identity is checked
WATCH_BATCH = 500  # changes read at once
CONNECTIONS = 8  # commands in flight; more wait within their time
WATCHES = 64  # each holds one connection of its own
KEPT_CHANGES = 100_000  # length of the change stream, approximately
PAST_S = 600  # how long a replica is told of that says nothing any more
WORD_MAX_S = 3_600  # a word that says it counts for longer is of no gateway
PRESENCE_KIND = {scripts.PRESENCE: HASH}
VOID_S = 3_600  # how long a given-up attempt is remembered; no command is on its way longer than that

T = TypeVar("T")


class RedisStore:
    """Implements Store on one Redis or Valkey server, 6.2 or later. Use it from one event loop.

    Args:
        url: ``redis://``, ``rediss://``, or either with ``+sentinel``.
        command_timeout_s: Bound of one command. A write whose reply is lost takes up to two of them.
        block_s: How long a watch waits at the server.

    Raises:
        ValueError: The URL cannot be read.
    """

    kind = "redis"

    def __init__(
        self, url: str, *, command_timeout_s: float = COMMAND_TIMEOUT_S, block_s: float = WATCH_BLOCK_S
    ) -> None:
        self.store_id = ""
        self.junk = Junk()
        self._side = SideKeys(self._command, self.junk)
        self.pool = RedisPool(self._side, self.junk)
        self._timeout_s = command_timeout_s
        self._block_s = block_s
        self._url = url
        place = place_in(url)
        self._is_secure = url.startswith("rediss")
        self._options: dict[str, Any] = {
            **parse_url(place.url),
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": command_timeout_s,
            "socket_timeout": block_s + 2 * command_timeout_s,
            "health_check_interval": 0,
            "driver_info": None,
            "protocol": 2,
            "timeout": command_timeout_s,
        }
        self._where = f"{self._options.get('host', 'localhost')}:{self._options.get('port', 6379)}"
        if place.sentinels:
            sentinels = Sentinels(place, self._options)
            self._options |= {"find": sentinels.find, "connection_class": sentinels.connection_class}
            self._where = f"{place.service!r} of the Sentinels {sentinels.names}"
        patience_s = command_timeout_s if place.sentinels else LISTEN_S  # the next connection may be to another server
        self._silence = Silence(self._options, patience_s)
        self._commands: BlockingConnectionPool | None = None
        self._watches: BlockingConnectionPool | None = None

    async def open(self) -> None:
        """See Store."""
        if self._commands is not None:
            return
        await self._opened(self.ping)

    async def is_begun(self) -> bool:
        """Whether it holds what a gateway began; asks a closed store, and writes nothing.

        Raises:
            StoreUnavailable: As ``open``.
        """

        async def is_there() -> bool:
            (found,) = await self._command("HMGET", scripts.META, "layout")
            is_begun = found is not None or await self._command("EXISTS", scripts.META)
            if is_begun:
                self._check_layout(found)
            return bool(is_begun)

        try:
            return await self._opened(is_there)
        finally:
            await self.close()

    async def _opened(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to the first question; closed again where there is none."""
        if problem := unusable_file(self._url):
            raise StoreUnavailable(f"redis at {self._where} cannot be asked: {problem}")
        self._commands = BlockingConnectionPool(**{**self._options, "max_connections": CONNECTIONS})
        self._watches = BlockingConnectionPool(**{**self._options, "max_connections": WATCHES})
        try:
            return await ask()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See Store. Says nothing to the server; a connection that does not close is left after a bounded wait."""
        self._silence.stop()
        pools, self._commands, self._watches = (self._commands, self._watches), None, None
        for pool in pools:
            if pool is not None:
                with contextlib.suppress(RedisError):
                    await pool.disconnect()

    @property
    def _who(self) -> str:
        """As whom it is asked."""
        user, password = (self._options.get(name) for name in ("username", "password"))
        if password is None:
            return "to be asked without a password, and the URL has none"
        return f"user {user or 'default'!r} with the password of the URL"

    async def load(self, model: str) -> Record | None:
        """See Store."""
        packed = await self._command("HGET", scripts.ROUTES, model)
        return None if packed is None else _unpack(model, packed)

    async def list(self) -> Sequence[Record]:
        """See Store."""
        flat = await self._command("HGETALL", scripts.ROUTES)
        packed = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        return [_unpack(model, packed[model]) for model in sorted(packed)]

    async def compare_and_set(self, expected: int, record: Record, entry: HistoryEntry) -> None:
        """See Store."""
        check_step(expected, record, entry)
        attempt = scripts.void_key(secrets.token_hex(16))
        keys = (scripts.META, scripts.ROUTES, scripts.history_key(record.model), scripts.CHANGES, attempt)
        args = (
            *(scripts.LAYOUT, secrets.token_hex(16), record.model, expected, record.revision),
            *(_pack(record), encode(entry), KEPT_CHANGES),
        )
        try:
            verdict, *rest = await self._command("EVAL", scripts.COMPARE_AND_SET, len(keys), *keys, *args)
        except _ReplyLost as error:
            await self._settle(expected, entry, attempt, error)
            return
        if verdict == b"stale":
            _require_stored(entry, expected, int(rest[0]), rest[1])
        elif verdict == b"layout":
            self._check_layout(rest[0])
        elif verdict != b"done":
            raise StoreUnavailable(f"redis at {self._where} refused a late write; nothing was changed")

    async def position(self) -> str:
        """See Store."""
        return make_position(*await self._identify())

    async def watch(self, after: str) -> AsyncGenerator[Change, None]:
        """See Store."""
        async with self._connection(self._watches) as connection:
            store_id, newest = await self._identify(connection)
            seen = sequence_in(after, store_id)
            if seen > newest:
                raise PositionLost(after)
            while True:
                news = await self._news(connection, seen)
                if not news and (await self._identify(connection))[0] != store_id:
                    raise PositionLost(make_position(store_id, seen))
                for sequence, fields in news:
                    # Another identity: flushed while we were blocked. A gap: trimmed before we read it.
                    if fields[b"store"] != store_id.encode() or sequence != seen + 1:
                        raise PositionLost(make_position(store_id, seen))
                    seen = sequence
                    yield _change(make_position(store_id, seen), fields)

    async def history(self, model: str, *, limit: int = 1000, until: int | None = None) -> Sequence[HistoryEntry]:
        """See Store."""
        if limit <= 0:
            return []
        newest = "+inf" if until is None else until
        command = ("ZREVRANGEBYSCORE", scripts.history_key(model), newest, "-inf", "WITHSCORES", "LIMIT", 0, limit)
        flat = await self._command(*command)
        rows = [*zip(flat[::2], flat[1::2], strict=True)]
        return [entry_in(entry, model, int(float(revision))) for entry, revision in reversed(rows)]

    async def put_presence(self, replica_id: str, data: bytes, ttl_s: float) -> float | None:
        """See Store."""
        ttl_ms = max(0, math.ceil(ttl_s * 1000))
        said = (replica_id, data, ttl_ms, PAST_S * 1000)
        at_us = await self._side.run(scripts.PUT_PRESENCE, PRESENCE_KIND, *said)
        return int(at_us) / 1e6 if at_us else None

    async def presences(self) -> Mapping[str, bytes]:
        """See Store."""
        return {name: word.data for name, word in (await self.words()).items() if word.left_s > 0}

    async def words(self) -> Mapping[str, Word]:
        """See Store."""
        removed, *flat = await self._side.run(scripts.WORDS, PRESENCE_KIND, PAST_S * 1000, WORD_MAX_S * 1000)
        if removed:
            self.junk.tell(scripts.PRESENCE, f"{removed} words of no gateway: deleted")
        said = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return {name.decode(errors="replace"): Word(data, int(left_ms) / 1000) for name, data, left_ms in sorted(said)}

    async def ping(self) -> str:
        """See Store."""
        self.store_id, _ = await self._identify()
        return self.store_id

    async def _settle(self, expected: int, entry: HistoryEntry, attempt: str, lost: "_ReplyLost") -> None:
        """Find out what became of a write whose reply was lost. Returns if it happened.

        The pool hands the broken connection out first, to be made anew, so this does not trip over other idle ones
        that died with it.
        """
        keys = (scripts.ROUTES, scripts.history_key(entry.model), attempt)
        try:
            current, past = await self._command(
                "EVAL", scripts.SETTLE, len(keys), *keys, entry.model, entry.revision, VOID_S
            )
        except StoreUnavailable as error:
            raise OutcomeUnknown(entry.model) from error
        if int(current) == expected:
            raise StoreUnavailable(f"{lost}; nothing was changed") from lost
        _require_stored(entry, expected, int(current), past)

    async def _identify(self, connection: AbstractConnection | None = None) -> tuple[str, int]:
        command = ("EVAL", scripts.IDENTIFY, 1, scripts.META, scripts.LAYOUT, secrets.token_hex(16))
        if connection is None:
            layout, store_id, sequence = await self._command(*command)
        else:
            layout, store_id, sequence = await self._exchange(connection, self._timeout_s, *command)
        self._check_layout(layout)
        return store_id.decode(), int(sequence)

    def _check_layout(self, found: bytes | None) -> None:
        if found != str(scripts.LAYOUT).encode():
            raise StoreUnavailable(
                f"redis at {self._where} holds layout {found!r}, this release knows {scripts.LAYOUT}: "
                "use the release that wrote it, or another database; nothing was changed"
            )

    async def _news(self, connection: AbstractConnection, seen: int) -> Sequence[tuple[int, dict[bytes, bytes]]]:
        block_ms = max(1, int(self._block_s * 1000))
        command = ("XREAD", "BLOCK", block_ms, "COUNT", WATCH_BATCH, "STREAMS", scripts.CHANGES, f"{seen}-0")
        reply = await self._exchange(connection, self._block_s + self._timeout_s, *command)
        return [
            (int(name.partition(b"-")[0]), dict(zip(flat[::2], flat[1::2], strict=True)))
            for _, entries in reply or ()
            for name, flat in entries
        ]

    async def _command(self, *args: Any) -> Any:
        async with self._connection(self._commands) as connection:
            return await self._exchange(connection, self._timeout_s, *args)

    async def _exchange(self, connection: AbstractConnection, timeout_s: float, *args: Any) -> Any:
        async with self._ours(timeout_s, _ReplyLost):
            try:
                await connection.send_command(*args)
                return await connection.read_response()
            except ReadOnlyError:  # it is no master any more: the next connection looks for the one there is
                await connection.disconnect()
                raise

    @contextlib.asynccontextmanager
    async def _connection(self, pool: BlockingConnectionPool | None) -> AsyncIterator[AbstractConnection]:
        if pool is None:
            raise StoreUnavailable("the store is closed")
        async with self._ours(self._timeout_s, StoreUnavailable):
            await self._silence.over()
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            yield connection
        finally:
            await pool.release(connection)

    @contextlib.asynccontextmanager
    async def _ours(self, timeout_s: float, lost: type[StoreUnavailable]) -> AsyncIterator[None]:
        """Bound the time and turn the library's errors into ours; ``lost`` when no reply came."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except AuthenticationError as error:
            raise StoreUnavailable(f"redis at {self._where} refused {self._who}: {said_by(error)}") from error
        except (ResponseError, BusyLoadingError) as error:
            if "WRONGTYPE" in str(error):  # of a script it stands in the middle
                raise WrongType(f"redis at {self._where} refused: {error}; nothing was changed") from error
            raise StoreUnavailable(f"redis at {self._where} refused: {said_by(error)}; nothing was changed") from error
        except TimeoutError as error:
            self._silence.noticed()
            hint = ": perhaps it does not speak TLS" if self._is_secure and lost is StoreUnavailable else ""
            raise lost(f"redis at {self._where} did not answer for {timeout_s:g} s{hint}") from error
        except (RedisError, OSError) as error:
            raise lost(f"redis at {self._where} cannot be reached: {said_by(error)}") from error


class _ReplyLost(StoreUnavailable):
    """A command was sent, and no reply came."""


def _change(position: str, fields: Mapping[bytes, bytes]) -> Change:
    at_us = fields.get(b"at")  # an older release does not say
    at_s = int(at_us) / 1e6 if at_us else None
    return Change(position, fields[b"model"].decode(), int(fields[b"revision"]), at_s)


def _pack(record: Record) -> bytes:
    return b"%d %s\n" % (record.revision, record.head_sha256.encode()) + record.document


def _unpack(model: str, packed: bytes) -> Record:
    head, _, document = packed.partition(b"\n")
    revision, _, head_sha256 = head.partition(b" ")
    return Record(model, int(revision), document, head_sha256.decode())


def _require_stored(entry: HistoryEntry, expected: int, current: int, past: bytes) -> None:
    """Accept that another revision is held if ``past``, the entry of our revision, is this very change."""
    if not past or entry_in(past, entry.model, entry.revision).change_id != entry.change_id:
        raise StaleRevision(expected, current)
