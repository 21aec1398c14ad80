"""The connections of one remote backend: bounded, reused last in first out, with a bounded queue behind them."""

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gateway.backends.base import Reply
from gateway.backends.connection import Connect, Connection, RawAnswer
from gateway.backends.sending import Sending
from routing.analysis.outcome import Kind

# A connection that fails with one of these says nothing about the backend: we ran out of something ourselves.
OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

CLOSE_TIMEOUT_S = 1.0  # aborted sockets are gone within a turn or two of the loop


class Connections:
    """Connections to one address.

    Args:
        connect: Opens a connection, given the protocol factory; raises ``OSError`` or ``UnicodeError``.
        on_refused: Hears why no connection could be made, before the sending that asked for it ends.
        reply_of: Makes the reply out of an answer.
        failure_of: Makes the reply out of a kind and a sentence that starts with a verb.
        max_connections: Bound on connections, those being opened included.
        max_waiting: Bound on exchanges that wait for a connection when all are taken.
    """

    def __init__(
        self,
        connect: Connect,
        on_refused: Callable[[str], None],
        reply_of: Callable[[RawAnswer], Reply],
        failure_of: Callable[[Kind, str], Reply],
        *,
        max_connections: int,
        max_waiting: int,
        max_answer_bytes: int,
        connect_timeout_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._connect = connect
        self._on_refused = on_refused
        self._reply_of = reply_of
        self._failure_of = failure_of
        self._max_connections = max_connections
        self._max_waiting = max_waiting
        self._max_answer_bytes = max_answer_bytes
        self._connect_timeout_s = connect_timeout_s
        self._loop = loop
        self._idle: list[Connection] = []
        self._members: dict[Connection, Sending | None] = {}  # each holds one place; the sending it carries
        self._dials: dict[asyncio.Task[None], Sending] = {}  # each holds one place
        self._sockets: set[Connection] = set()  # closed ones stay until their socket is gone
        self._waiting: deque[Sending] = deque()
        self._closed = False

    @property
    def open_count(self) -> int:
        """Places taken: connections, and those being opened."""
        return len(self._members) + len(self._dials)

    @property
    def idle_count(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    @property
    def waiting_count(self) -> int:
        """Exchanges that wait for a connection."""
        return len(self._waiting)

    def submit(self, sending: Sending) -> None:
        """Send it now, open a connection for it, queue it, or refuse it; in this order."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                self._carry(connection, sending)
                return
            self._members.pop(connection, None)
        if self.open_count < self._max_connections:
            self._dial(sending)
            return
        self._drop_expired()
        if len(self._waiting) >= self._max_waiting:
            sending.end(self._failure_of(Kind.OVERLOADED, f"has {len(self._waiting)} requests waiting already"))
        else:
            self._waiting.append(sending)

    def give_up(self, sending: Sending) -> None:
        """Forget a cancelled sending and whatever it holds."""
        connection = sending.carrier
        if connection is not None:
            sending.carrier = None
            connection.abort()
            self._forget(connection)
        elif sending in self._waiting:
            self._waiting.remove(sending)
        # One that waits for its dial leaves the new connection to somebody else.

    async def close(self) -> None:
        """Close every connection and wait until it is gone; exchanges end as ``UNREACHABLE``."""
        self._closed = True
        over = [*self._waiting, *self._dials.values(), *(x for x in self._members.values() if x is not None)]
        dials = list(self._dials)
        for dial in dials:
            dial.cancel()
        self._waiting.clear()
        self._dials.clear()
        self._members.clear()
        self._idle.clear()
        for sending in over:
            sending.end(self._failure_of(Kind.UNREACHABLE, "was closed"))
        await asyncio.gather(*dials, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self._sockets:
                    for connection in list(self._sockets):
                        connection.abort()
                    await asyncio.sleep(0)

    # What a connection says.

    def made(self, connection: Connection) -> None:
        """There is a socket to close in the end."""
        self._sockets.add(connection)

    def answered(self, connection: Connection, answer: RawAnswer, reusable: bool) -> None:
        """The next sending leaves before this one's reply is looked at."""
        sending = self._members.get(connection)
        if sending is None:
            return
        sending.carrier = None
        if reusable:
            self._rest(connection)
        else:
            self._forget(connection)
        sending.end(self._reply_of(answer))

    def broke(self, connection: Connection, sentence: str) -> None:
        """A reused connection may have been closed before our request came: that is no failure yet."""
        sending = self._members.pop(connection, None)
        if sending is None:
            return
        sending.carrier = None
        is_stale = connection.answers > 0 and not connection.began
        if is_stale and sending.may_repeat and not sending.retried and not self._closed:
            sending.retried = True
            self._dial(sending)
            return
        self._serve_waiting()
        sending.end(self._failure_of(Kind.BROKEN, sentence))

    def lost(self, connection: Connection) -> None:
        """An idle connection went away."""
        if connection in self._members:
            self._forget(connection)

    def ended(self, connection: Connection) -> None:
        """The socket is gone."""
        self._sockets.discard(connection)

    # Places and the queue.

    def _carry(self, connection: Connection, sending: Sending) -> None:
        self._members[connection] = sending
        sending.carrier = connection
        connection.send(sending.head, sending.body)

    def _rest(self, connection: Connection) -> None:
        self._drop_expired()
        if self._waiting:
            self._carry(connection, self._waiting.popleft())
        else:
            self._members[connection] = None
            self._idle.append(connection)

    def _forget(self, connection: Connection) -> None:
        self._members.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        self._drop_expired()
        if self._waiting and self.open_count < self._max_connections:
            self._dial(self._waiting.popleft())

    def _drop_expired(self) -> None:
        now_s = self._loop.time()
        while self._waiting and self._waiting[0].deadline_s <= now_s:
            self._waiting.popleft().end(self._failure_of(Kind.TIMEOUT, "had no connection free before the deadline"))

    # Opening.

    def _dial(self, sending: Sending) -> None:
        task = self._loop.create_task(self._open_for(sending))
        self._dials[task] = sending

    async def _open_for(self, sending: Sending) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            connection = await self._open()
        except (OSError, UnicodeError) as problem:  # TimeoutError is an OSError
            if self._dials.pop(task, None) is not None:
                self._refused(sending, problem)
            return
        if self._dials.pop(task, None) is None:
            connection.abort()
        elif not connection.is_usable:  # it came and went
            self._serve_waiting()
            sending.end(self._failure_of(Kind.BROKEN, "closed a new connection at once"))
        elif sending.is_over:
            self._rest(connection)
        else:
            self._carry(connection, sending)

    async def _open(self) -> Connection:
        made: list[Connection] = []

        def make() -> Connection:
            made.append(Connection(self, self._max_answer_bytes))
            return made[-1]

        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._connect(make)
        except BaseException:
            # The loop closes the socket; uvloop does so without a word to the protocol.
            self._sockets.difference_update(made)
            raise

    def _refused(self, sending: Sending, problem: Exception) -> None:
        if isinstance(problem, OSError) and problem.errno in OWN_LIMITS:
            self._serve_waiting()
            sending.end(self._failure_of(Kind.OVERLOADED, f"could not be asked: {problem}"))
            return
        if isinstance(problem, TimeoutError) and problem.errno is None:
            sentence = f"refused connections: none was accepted within {self._connect_timeout_s:g} s"
        else:
            sentence = f"refused connections: {problem}"
        refused = [sending, *self._waiting]
        self._waiting.clear()
        self._on_refused(sentence)
        for each in refused:
            each.end(self._failure_of(Kind.UNREACHABLE, sentence))
