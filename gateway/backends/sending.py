"""One attempt on a remote version: from its call to its reply, whichever server gives it."""

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.backends.base import Call, Reply
from gateway.backends.statistics import Statistics
from routing.analysis.outcome import Kind, is_fault

if TYPE_CHECKING:
    from gateway.backends.connections import Connections

OK = Kind.OK  # looked up once


class Sending:
    """One call on its way: waits, rides a connection, ends once, and is timed for the version's statistics.

    Attributes:
        place: The connections that it was given to.
        is_over: Whether it was replied to or given up.
        moves: How often it went on to another server, having been sent nowhere.
        retried: Whether a stale connection has already cost it one try.
    """

    __slots__ = (
        "_begin_s",
        "_on_reply",
        "_statistics",
        "call",
        "deadline_s",
        "is_over",
        "moves",
        "place",
        "retried",
    )

    def __init__(
        self,
        place: "Connections",
        call: Call,
        deadline_s: float,
        statistics: Statistics,
        on_reply: Callable[[Reply], None],
    ) -> None:
        self.place = place
        self.call = call
        self.deadline_s = deadline_s
        self._statistics = statistics
        self._on_reply = on_reply
        self._begin_s = perf_counter()
        self.is_over = False
        self.moves = 0
        self.retried = False

    def end(self, reply: Reply) -> None:
        """Hand the reply over, unless somebody was quicker."""
        if self.is_over:
            return
        self.is_over = True
        self.place.in_flight -= 1
        now_s = perf_counter()
        if reply.kind is OK:
            statistics = self._statistics
            statistics.others += 1
            statistics.others_s += now_s - self._begin_s
            statistics.last_s = now_s
        elif is_fault(reply.kind):
            self._statistics.failed(now_s - self._begin_s)
        self._on_reply(reply)

    def cancel(self) -> None:
        """Nobody waits any more. The connection goes with the sending, for the answer may still be coming."""
        if self.is_over:
            return
        self.is_over = True
        self.place.in_flight -= 1
        self._statistics.failed(perf_counter() - self._begin_s)
        self.place.give_up(self)
