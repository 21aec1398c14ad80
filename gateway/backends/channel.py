"""The gRPC connection to one server: many calls at a time on it, a bounded queue behind it, a new one when it goes."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.backends.base import Call, Reply
from gateway.backends.grpc_replies import GrpcReplies
from gateway.backends.http2.connection import Http2Connection, Stream
from gateway.backends.http2.heads import Head, KnownBlocks
from gateway.backends.http2.reading import ReadingConnection
from gateway.backends.places import Move, Places, is_own_limit
from gateway.backends.replies import Replies
from gateway.backends.sending import Sending
from gateway.errors import BadRequest, error_body
from routing.analysis.outcome import Kind

# Opens a connection; raises OSError or UnicodeError.
Connect = Callable[[Callable[[], Http2Connection]], Awaitable[Http2Connection]]
# A call's header block, given the seconds that it has left, and its message.
BlockOf = Callable[[Call, float], bytes]
MessageOf = Callable[[Call], bytes]


class Channel(Places[Http2Connection]):
    """Calls of one server.

    Args:
        url: Of the server, for sentences.
        block_of: What goes out before a message.
        message_of: A call as a message with its prefix; raises ``BadRequest``.
        replies: Makes replies where there is no answer.
        grpc_replies: Makes replies out of answers.
        connect: Opens a connection.
        on_refused: Hears why no connection could be made, before the sendings that waited for it move on or end.
        move: Asked before a sending that reached no server here ends because of it.
        max_calls: Bound on calls in flight; the server's own counts if it is lower.
        max_waiting: Bound on sendings that wait for a place among them.

    Attributes:
        in_flight: Sendings that were given to this server and have not ended.
        moved: Sendings that reached no server here and went on to another one.
        retried: Sendings that were sent again because the connection had gone.
    """

    def __init__(
        self,
        url: str,
        block_of: BlockOf,
        message_of: MessageOf,
        replies: Replies,
        grpc_replies: GrpcReplies,
        connect: Connect,
        on_refused: Callable[[str], None],
        move: Move,
        *,
        max_calls: int,
        max_waiting: int,
        max_answer_bytes: int,
        connect_timeout_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(url, replies, on_refused, move, connect_timeout_s=connect_timeout_s, loop=loop)
        self._block_of = block_of
        self._message_of = message_of
        self._grpc_replies = grpc_replies
        self._connect = connect
        self._max_calls = max_calls
        self._max_waiting = max_waiting
        self._max_answer_bytes = max_answer_bytes
        self._current: Http2Connection | None = None
        self._dial: asyncio.Task[None] | None = None
        self._rides: dict[Sending, tuple[Http2Connection, Stream]] = {}
        self.known_blocks = KnownBlocks()

    @property
    def open_count(self) -> int:
        """Connections, those being opened and those that still end included."""
        return len(self._sockets) + (self._dial is not None)

    def counts(self) -> dict[str, Any]:
        """What it does now, as plain data."""
        return {
            "in_flight": self.in_flight,
            "waiting": self.waiting_count,
            "connections": self.open_count,
            "idle": int(self._current is not None and not self._current.calls),
            "retried": self.retried,
            "moved": self.moved,
            "heads_forgotten": self.known_blocks.forgotten,
        }

    def submit(self, sending: Sending) -> None:
        """Send it now, queue it, or refuse it; in this order."""
        self.in_flight += 1
        if not self._waiting and self._has_room():
            self._carry(sending)
            return
        self._drop_expired()
        if len(self._rides) + len(self._waiting) >= self._max_calls + self._max_waiting:
            self._fail(sending, Kind.OVERLOADED, f"has {len(self._waiting)} requests waiting already")
            return
        self._waiting.append(sending)
        self._serve_waiting()

    def give_up(self, sending: Sending) -> None:
        """Forget a cancelled sending; the server is told."""
        ride = self._rides.pop(sending, None)
        if ride is not None:
            connection, stream = ride
            connection.cancel(stream)
            self._serve_waiting()
        elif sending in self._waiting:
            self._waiting.remove(sending)

    def renew(self) -> None:
        """Carry what comes from now on over a new connection; what waits goes elsewhere."""
        if self._current is not None:
            self._current.retire()
        self._give_back(Kind.UNREACHABLE, "has failed too often and is not asked for now")

    def close(self) -> None:
        """Take nothing any more; sendings end as ``UNREACHABLE``."""
        self._closed = True
        over = [*self._rides, *self._waiting]
        self._rides.clear()
        self._waiting.clear()
        self._current = None
        if self._dial is not None:
            self._dial.cancel()
        for connection in self._sockets:
            connection.abort()
        for sending in over:
            self._fail(sending, Kind.UNREACHABLE, "was closed")

    async def closed(self) -> None:
        """Wait until every socket is gone."""
        if self._dial is not None:
            await asyncio.gather(self._dial, return_exceptions=True)
        await self._sockets_gone()

    # What a connection says.

    def answered(self, _connection: Http2Connection, stream: Stream, head: Head, message: bytes) -> None:
        """The next sending leaves before this one's reply is looked at."""
        sending = stream.owner
        assert isinstance(sending, Sending)
        self._rides.pop(sending, None)
        if self._waiting:
            self._serve_waiting()
        if not sending.is_over:
            sending.end(self._grpc_replies.of(sending.call, head, message, self._url))

    def broke(self, connection: Http2Connection, stream: Stream, sentence: str, *, is_untouched: bool) -> None:
        """What the server has not begun with goes out again; so does, once, what died with a connection that worked."""
        sending = stream.owner
        assert isinstance(sending, Sending)
        self._rides.pop(sending, None)
        if sending.is_over:
            return
        was_lost = not connection.is_open and connection.answers > 0 and not stream.began
        may_repeat = is_untouched or (was_lost and sending.call.may_repeat)
        if may_repeat and not sending.retried and not self._closed:
            sending.retried = True
            self.retried += 1
            self._waiting.appendleft(sending)
            self._serve_waiting()
        elif is_untouched:
            self._pass_on(sending, Kind.BROKEN, sentence)
        else:
            self._fail(sending, Kind.BROKEN, sentence)

    def lost(self, connection: Http2Connection) -> None:
        """It takes no more calls."""
        if connection is self._current:
            self._current = None
            self._serve_waiting()

    def roomier(self, _connection: Http2Connection) -> None:
        """The server takes another number of calls at a time."""
        if self._waiting:
            self._serve_waiting()

    # Places and the queue.

    def _has_room(self) -> bool:
        connection = self._current
        return (
            connection is not None
            and connection.is_open
            and len(self._rides) < self._max_calls
            and connection.calls < connection.may_hold
        )

    def _carry(self, sending: Sending) -> None:
        call, connection = sending.call, self._current
        assert connection is not None
        left_s = sending.deadline_s - self._loop.time()
        try:
            message = self._message_of(call)
        except BadRequest as problem:
            sentence = str(problem)
            sending.end(Reply(_kind_of(call), 400, error_body(sentence), detail=sentence))
            return
        self._rides[sending] = connection, connection.begin(sending, self._block_of(call, left_s), message)

    def _serve_waiting(self) -> None:
        self._drop_expired()
        while self._waiting and self._has_room():
            self._carry(self._waiting.popleft())
        if self._waiting and self._current is None and self._dial is None and not self._closed:
            self._dial = self._loop.create_task(self._open())

    # Opening.

    async def _open(self) -> None:
        made: list[Http2Connection] = []

        def make() -> Http2Connection:
            made.append(ReadingConnection(self, self.known_blocks, self._max_answer_bytes))
            return made[-1]

        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await self._connect(make)
        except (OSError, UnicodeError) as problem:  # TimeoutError is an OSError
            self._sockets.difference_update(made)  # the loop closes the socket; uvloop says no word to the protocol
            self._dial = None
            self._refused(problem)
            return
        except BaseException:
            self._sockets.difference_update(made)
            self._dial = None
            raise
        self._dial = None
        if connection.is_open:
            self._current = connection
            self._serve_waiting()
        else:  # it came and went
            self._give_back(Kind.BROKEN, "closed a new connection at once")

    def _refused(self, problem: Exception) -> None:
        if is_own_limit(problem):
            waiting, self._waiting = self._waiting, deque()
            for sending in waiting:
                self._fail(sending, Kind.OVERLOADED, f"could not be asked: {problem}")
            return
        self._none_accepted(problem)


def _kind_of(call: Call) -> Kind:
    """Whose fault a request is that has no gRPC form: nobody can read it, or this version's server cannot get it."""
    try:
        call.request()
    except BadRequest:
        return Kind.MALFORMED
    return Kind.REJECTED
