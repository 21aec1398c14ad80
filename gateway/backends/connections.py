"""The connections to one server: bounded, reused last in first out, with a bounded queue behind them."""

import asyncio
from collections.abc import Callable

from gateway.backends.connection import Connect, Connection
from gateway.backends.heads import KnownHeads, RequestHeads
from gateway.backends.places import Move, Places, is_own_limit
from gateway.backends.replies import Replies
from gateway.backends.sending import Sending
from routing.analysis.outcome import Kind


class Connections(Places[Connection]):
    """Connections to one address.

    Args:
        url: Of the server, for sentences.
        heads: What goes out before a body.
        replies: Makes replies out of answers and failures.
        connect: Opens a connection, given the protocol factory; raises ``OSError`` or ``UnicodeError``.
        on_refused: Hears why no connection could be made, before the sending that asked for it moves on or ends.
        move: Asked before a sending that nothing was sent of ends because of this server.
        max_connections: Bound on connections, those being opened included.
        max_waiting: Bound on sendings that wait for a connection when all are taken.

    Attributes:
        in_flight: Sendings that were given to this server and have not ended.
        moved: Sendings that reached no server here and went on to another one.
        retried: Sendings that were sent again because a reused connection had died.
        health: How the server fares.
        on_trip: Told of a failure that is once too often.
        known_heads: What was learned of its answers.
    """

    def __init__(
        self,
        url: str,
        heads: RequestHeads,
        replies: Replies,
        connect: Connect,
        on_refused: Callable[[str], None],
        move: Move,
        *,
        max_connections: int,
        max_waiting: int,
        max_answer_bytes: int,
        connect_timeout_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(url, replies, on_refused, move, connect_timeout_s=connect_timeout_s, loop=loop)
        self._heads = heads
        self._replies = replies
        self._reply = replies.of
        self._connect = connect
        self._max_connections = max_connections
        self._max_waiting = max_waiting
        self._max_answer_bytes = max_answer_bytes
        self._idle: list[Connection] = []
        self._members: set[Connection] = set()  # each holds one place
        self._dials: dict[asyncio.Task[None], Sending] = {}  # each holds one place
        self._ending: list[asyncio.Task[None]] = []  # dials that were cancelled
        self.known_heads = KnownHeads()

    @property
    def open_count(self) -> int:
        """Places taken: connections, and those being opened."""
        return len(self._members) + len(self._dials)

    def expect_strings(self, has_strings: bool) -> None:
        """Whether answers may hold strings, which are looked at."""
        self._reply = self._replies.of_text if has_strings else self._replies.of

    @property
    def idle_count(self) -> int:
        """Connections that wait for a sending."""
        return len(self._idle)

    def counts(self) -> dict[str, int]:
        """What they do now, as plain data."""
        return {
            "in_flight": self.in_flight,
            "waiting": self.waiting_count,
            "connections": self.open_count,
            "idle": self.idle_count,
            "retried": self.retried,
            "moved": self.moved,
            "heads_forgotten": self.known_heads.forgotten,
        }

    def submit(self, sending: Sending) -> None:
        """Send it now, open a connection for it, queue it, or refuse it; in this order."""
        self.in_flight += 1
        call, idle, heads = sending.call, self._idle, self._heads
        body = call.body
        opening = heads.openings.get(len(body))
        if opening is None or call.header_length is not None or call.via is not heads.via:
            head = heads.of(call)
        else:
            head = f"{opening}{call.request_id}{heads.ending}".encode("latin-1")
        while idle:
            connection = idle.pop()
            if connection.send(sending, head, body):
                return
            self._members.discard(connection)
        if self.open_count < self._max_connections:
            self._dial(sending)
            return
        self._drop_expired()
        if len(self._waiting) >= self._max_waiting:
            self._fail(sending, Kind.OVERLOADED, f"has {len(self._waiting)} requests waiting already")
        else:
            self._waiting.append(sending)

    def give_up(self, sending: Sending) -> None:
        """Forget a cancelled sending and whatever it holds."""
        if sending in self._waiting:
            self._waiting.remove(sending)
            return
        for connection in self._members:
            if connection.sending is sending:
                connection.abort()
                self._forget(connection)
                return
        # One that waits for its dial leaves the new connection to somebody else.

    def renew(self) -> None:
        """Trust no idle connection: what comes from now on goes over new ones, what waits goes elsewhere."""
        for connection in self._idle:
            self._members.discard(connection)
            connection.abort()
        self._idle.clear()
        self._give_back(Kind.UNREACHABLE, "has failed too often and is not asked for now")

    def close(self) -> None:
        """Take nothing any more; sendings end as ``UNREACHABLE``."""
        self._closed = True
        over = [*self._waiting, *self._dials.values()]
        for connection in self._members:
            if connection.sending is not None:
                over.append(connection.sending)
                connection.sending = None
        self._ending = list(self._dials)
        for dial in self._ending:
            dial.cancel()
        self._waiting.clear()
        self._dials.clear()
        self._members.clear()
        self._idle.clear()
        for sending in over:
            self._fail(sending, Kind.UNREACHABLE, "was closed")

    async def closed(self) -> None:
        """Wait until every socket is gone."""
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._sockets_gone()

    # What a connection says.

    def answered(
        self,
        connection: Connection,
        sending: Sending,
        status: int,
        body: bytes,
        header_length: int | None,
        reusable: bool,
    ) -> None:
        """The next sending leaves before this one's reply is looked at."""
        if not reusable:
            self._forget(connection)
        elif self._waiting:
            self._rest(connection)
        else:
            self._idle.append(connection)
        sending.end(self._reply(status, body, header_length, self._url))

    def broke(self, connection: Connection, sending: Sending, sentence: str) -> None:
        """A reused connection may have been closed before our request came: that is no failure yet."""
        self._members.discard(connection)
        is_stale = connection.has_answered and not connection.began
        if is_stale and sending.call.may_repeat and not sending.retried and not self._closed:
            sending.retried = True
            self.retried += 1
            self._dial(sending)
            return
        self._serve_waiting()
        self._fail(sending, Kind.BROKEN, sentence)

    def lost(self, connection: Connection) -> None:
        """An idle connection went away."""
        if connection in self._members:
            self._forget(connection)

    # Places and the queue.

    def _carry(self, connection: Connection, sending: Sending) -> bool:
        """Send it there; ``False`` when the connection cannot be used."""
        call = sending.call
        return connection.send(sending, self._heads.of(call), call.body)

    def _rest(self, connection: Connection) -> None:
        self._drop_expired()
        if self._waiting:
            sending = self._waiting.popleft()
            if not self._carry(connection, sending):
                self._members.discard(connection)
                self._dial(sending)
        else:
            self._idle.append(connection)

    def _forget(self, connection: Connection) -> None:
        self._members.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        self._drop_expired()
        if self._waiting and self.open_count < self._max_connections:
            self._dial(self._waiting.popleft())

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
            self._pass_on(sending, Kind.BROKEN, "closed a new connection at once")
        else:
            self._members.add(connection)
            if sending.is_over:
                self._rest(connection)
            else:
                self._carry(connection, sending)

    async def _open(self) -> Connection:
        made: list[Connection] = []

        def make() -> Connection:
            made.append(Connection(self, self.known_heads, self._max_answer_bytes))
            return made[-1]

        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._connect(make)
        except BaseException:
            # The loop closes the socket; uvloop does so without a word to the protocol.
            self._sockets.difference_update(made)
            raise

    def _refused(self, sending: Sending, problem: Exception) -> None:
        if is_own_limit(problem):
            self._serve_waiting()
            self._fail(sending, Kind.OVERLOADED, f"could not be asked: {problem}")
            return
        self._waiting.appendleft(sending)
        self._none_accepted(problem)
