"""Asking a server by gRPC about a version, over a connection that ends with the answers."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from gateway.backends.http2.connection import PREFIX, Http2Connection, Stream
from gateway.backends.http2.heads import Head, KnownBlocks
from gateway.backends.http2.reading import ReadingConnection
from gateway.backends.probe import MAX_PROBE_BYTES, PROBE_TIMEOUT_S, NotReady, answered_within

Connect = Callable[[Callable[[], Http2Connection]], Awaitable[Http2Connection]]


class _Questioner:
    """Owner of a connection that asks one thing at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answer: asyncio.Future[bytes] | None = None
        self.gone: asyncio.Future[None] = loop.create_future()

    async def ask(self, connection: Http2Connection, block: bytes, message: bytes) -> bytes:
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answer = answer
        if not connection.is_open:
            raise NotReady("closed a new connection at once")
        connection.begin(None, block, PREFIX.pack(0, len(message)) + message)
        return await answer

    def made(self, connection: Http2Connection) -> None:
        pass

    def answered(self, _connection: Http2Connection, _stream: Stream, head: Head, message: bytes) -> None:
        if self._answer is None or self._answer.done():
            return
        if head.grpc_status == 0:
            self._answer.set_result(message)
        else:
            said = f" ({head.sentence})" if head.sentence else ""
            self._answer.set_exception(NotReady(f"does not know the version: gRPC status {head.grpc_status}{said}"))

    def broke(self, _connection: Http2Connection, _stream: Stream, sentence: str, *, is_untouched: bool) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NotReady(sentence))

    def lost(self, connection: Http2Connection) -> None:
        pass

    def roomier(self, connection: Http2Connection) -> None:
        pass

    def ended(self, _connection: Http2Connection) -> None:
        if not self.gone.done():
            self.gone.set_result(None)


async def ask_in_turn(
    connect: Connect, questions: Sequence[tuple[bytes, bytes]], timeout_s: float = PROBE_TIMEOUT_S
) -> AsyncGenerator[bytes, None]:
    """Ask one thing after the other.

    Args:
        connect: Opens a connection.
        questions: Header block and message of each.
        timeout_s: For each.

    Yields:
        The messages of the answers, in order.

    Raises:
        NotReady: One was refused, or did not come within ``timeout_s``.
    """
    questioner = _Questioner(asyncio.get_running_loop())
    connection = None
    try:
        for question in questions:
            async with answered_within(timeout_s):
                if connection is None:
                    connection = await connect(lambda: ReadingConnection(questioner, KnownBlocks(), MAX_PROBE_BYTES))
                answer = await questioner.ask(connection, *question)
            yield answer
    finally:
        if connection is not None:
            connection.abort()
            await questioner.gone
