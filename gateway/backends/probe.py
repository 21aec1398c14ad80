"""Asking a remote server whether it can serve a version, and what the version's tensors are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import orjson

from gateway.backends.connection import Connect, Connection
from gateway.backends.heads import KnownHeads
from gateway.protocol.metadata import parse_signature
from gateway.protocol.shapes import Signature

PROBE_TIMEOUT_S = 5.0  # for one question, connecting included
MAX_PROBE_BYTES = 4 * 1024 * 1024


class RawAnswer(NamedTuple):
    """A complete answer."""

    status: int
    body: bytes


class NotReady(Exception):
    """The version cannot be served; the message is a sentence that starts with a verb."""


class NoAnswer(NotReady):
    """Nothing was said within the time of a probe."""


class _Question:
    """Owner of a connection that asks one thing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[RawAnswer] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()

    def made(self, connection: Connection) -> None:
        pass

    def answered(
        self,
        _connection: Connection,
        _sending: object,
        status: int,
        body: bytes,
        _header_length: int | None,
        _reusable: bool,
    ) -> None:
        if not self.answer.done():
            self.answer.set_result(RawAnswer(status, body))

    def broke(self, _connection: Connection, _sending: object, sentence: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(NotReady(sentence))

    def lost(self, connection: Connection) -> None:
        self.broke(connection, self, "closed a new connection at once")

    def ended(self, _connection: Connection) -> None:
        if not self.gone.done():
            self.gone.set_result(None)


@asynccontextmanager
async def answered_within(timeout_s: float) -> AsyncIterator[None]:
    """Bound one question, connecting included.

    Raises:
        NotReady: There was no connection, or no answer in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise NoAnswer(f"did not answer a probe within {timeout_s:g} s") from None
    except (OSError, UnicodeError) as problem:
        raise NotReady(f"refused connections: {problem}") from None


async def ask(connect: Connect, head: bytes, timeout_s: float = PROBE_TIMEOUT_S) -> RawAnswer:
    """Send one request, all of it given as ``head``, over a connection of its own.

    Raises:
        NotReady: No complete answer came within ``timeout_s``.
    """
    question = _Question(asyncio.get_running_loop())
    connection = None
    try:
        async with answered_within(timeout_s):
            connection = await connect(lambda: Connection(question, KnownHeads(), MAX_PROBE_BYTES))
            if connection.is_usable:
                connection.send(question, head, b"")
            return await question.answer
    finally:
        if connection is not None:
            connection.abort()
            await question.gone
        if question.answer.done() and not question.answer.cancelled():
            question.answer.exception()  # seen, if nobody waited for it


async def inspect(connect: Connect, ready_head: bytes, metadata_head: bytes) -> Signature:
    """Ask for readiness, then for metadata.

    Raises:
        NotReady: Says which of the two failed, and how.
    """
    ready = await ask(connect, ready_head)
    if ready.status != 200 or _says_not_ready(ready.body):
        raise NotReady(f"is not ready: its ready endpoint answers {ready.status}")
    metadata = await ask(connect, metadata_head)
    if metadata.status != 200:
        raise NotReady(f"does not know the version: its metadata endpoint answers {metadata.status}")
    try:
        return parse_signature(metadata.body)
    except ValueError as problem:
        raise NotReady(f"has no usable metadata: {problem}") from None


def _says_not_ready(body: bytes) -> bool:
    """Some servers answer 200 with ``{"ready": false}``; most send nothing."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and document.get("ready") is False
