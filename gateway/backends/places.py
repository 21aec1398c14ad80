"""What any pool of calls to one server has: a bounded wait for a place, and sentences for what did not go well."""

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from gateway.backends.health import Health, HealthRules
from gateway.backends.replies import Replies
from gateway.backends.sending import Sending
from routing.analysis.outcome import Kind

# A connection that fails with one of these says nothing about the backend: we ran out of something ourselves.
OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

CLOSE_TIMEOUT_S = 1.0  # aborted sockets are gone within a turn or two of the loop

# Finds another place for a sending that reached no server here; False when there is none.
Move = Callable[[Sending], bool]


class Socket(Protocol):
    """A connection that can be closed at once."""

    def abort(self) -> None:
        """Close it."""


SocketT = TypeVar("SocketT", bound=Socket)


class Places(Generic[SocketT]):
    """Sendings of one server that wait, and the sockets that are to be closed in the end.

    Args:
        url: Of the server, for sentences.
        replies: Makes replies out of failures.
        on_refused: Hears why no connection could be made, before the sendings that waited for it move on or end.
        move: Asked before a sending that reached no server here ends because of it.

    Attributes:
        in_flight: Sendings that were given to this server and have not ended.
        moved: Sendings that reached no server here and went on to another one.
        retried: Sendings that were sent again because their connection had gone.
        health: How the server fares.
        on_trip: Told of a failure that is once too often.
    """

    def __init__(
        self,
        url: str,
        replies: Replies,
        on_refused: Callable[[str], None],
        move: Move,
        *,
        connect_timeout_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._url = url
        self._failure = replies.failure
        self._on_refused = on_refused
        self._move = move
        self._connect_timeout_s = connect_timeout_s
        self._loop = loop
        self._sockets: set[SocketT] = set()  # closed ones stay until their socket is gone
        self._waiting: deque[Sending] = deque()
        self._closed = False
        self.health = Health(HealthRules())
        self.on_trip: Callable[[], None] = unheard
        self.in_flight = 0
        self.moved = 0
        self.retried = 0

    @property
    def waiting_count(self) -> int:
        """Sendings that wait for a place."""
        return len(self._waiting)

    def made(self, connection: SocketT) -> None:
        """There is a socket to close in the end."""
        self._sockets.add(connection)

    def ended(self, connection: SocketT) -> None:
        """The socket is gone."""
        self._sockets.discard(connection)

    async def _sockets_gone(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self._sockets:
                    for connection in list(self._sockets):
                        connection.abort()
                    await asyncio.sleep(0)

    def _drop_expired(self) -> None:
        now_s = self._loop.time()
        while self._waiting and self._waiting[0].deadline_s <= now_s:
            self._fail(self._waiting.popleft(), Kind.TIMEOUT, "had no connection free before the deadline")

    def _fail(self, sending: Sending, kind: Kind, sentence: str) -> None:
        sending.end(self._failure(kind, f"{self._url} {sentence}"))

    def _pass_on(self, sending: Sending, kind: Kind, sentence: str) -> None:
        """It reached no server here: another one may have it."""
        if sending.is_over:
            return
        if self._closed or not self._move(sending):
            self._fail(sending, kind, sentence)
            return
        self.in_flight -= 1
        self.moved += 1

    def _give_back(self, kind: Kind, sentence: str) -> None:
        """What waits goes elsewhere."""
        waiting, self._waiting = self._waiting, deque()
        for sending in waiting:
            self._pass_on(sending, kind, sentence)

    def _none_accepted(self, problem: Exception) -> None:
        """No connection could be made: say it, and then what waits goes elsewhere."""
        sentence = self._why_refused(problem)
        waiting, self._waiting = self._waiting, deque()
        self._on_refused(sentence)
        for sending in waiting:
            self._pass_on(sending, Kind.UNREACHABLE, sentence)

    def _why_refused(self, problem: Exception) -> str:
        if isinstance(problem, TimeoutError) and problem.errno is None:
            return f"refused connections: none was accepted within {self._connect_timeout_s:g} s"
        return f"refused connections: {problem}"


def is_own_limit(problem: Exception) -> bool:
    """Whether we ran out of something ourselves."""
    return isinstance(problem, OSError) and problem.errno in OWN_LIMITS


def unheard() -> None:
    """Who hears of failures where there is one server alone."""
