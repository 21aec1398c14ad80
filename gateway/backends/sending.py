"""One attempt on a remote version: from its call to its reply, whichever server gives it."""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from gateway.backends.base import Call, Reply
from gateway.backends.health import Health
from gateway.backends.statistics import Statistics
from routing.analysis.outcome import Kind, is_fault

OK = Kind.OK  # looked up once


class Pool(Protocol):
    """What carries sendings to one server.

    Attributes:
        in_flight: Sendings that were given to this server and have not ended.
        health: How the server fares; each sending that ends tells it.
        on_trip: Told of a failure that is once too often.
    """

    in_flight: int
    health: Health
    on_trip: Callable[[], None]

    @property
    def open_count(self) -> int:
        """Connections, those being opened included."""

    @property
    def waiting_count(self) -> int:
        """Sendings that wait."""

    def counts(self) -> dict[str, Any]:
        """What it does now, as plain data."""

    def submit(self, sending: "Sending") -> None:
        """Send it now, queue it, or refuse it."""

    def give_up(self, sending: "Sending") -> None:
        """Forget a cancelled sending and whatever it holds."""

    def renew(self) -> None:
        """Trust no connection that is open: what comes from now on goes over new ones, what waits goes elsewhere."""

    def close(self) -> None:
        """Take nothing any more; sendings end as ``UNREACHABLE``."""

    async def closed(self) -> None:
        """Wait until every socket is gone."""


class Sending:
    """One call on its way: waits, rides a connection, ends once, and is timed for the version's statistics.

    Attributes:
        place: What it was given to.
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
        place: Pool,
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
        place = self.place
        place.in_flight -= 1
        now_s = perf_counter()
        if reply.kind is OK:
            statistics = self._statistics
            statistics.others += 1
            statistics.others_s += now_s - self._begin_s
            statistics.last_s = now_s
            if place.health.faults:
                place.health.good()
        elif is_fault(reply.kind):
            self._statistics.failed(now_s - self._begin_s)
            self._fault()
        elif reply.kind is Kind.REJECTED:
            place.health.good()
        self._on_reply(reply)

    def cancel(self) -> None:
        """Nobody waits any more. The connection goes with the sending, for the answer may still be coming."""
        if self.is_over:
            return
        self.is_over = True
        self.place.in_flight -= 1
        self._statistics.failed(perf_counter() - self._begin_s)
        self.place.give_up(self)
        if asyncio.get_running_loop().time() >= self.deadline_s:  # else it is the client that did not wait
            self._fault()

    def _fault(self) -> None:
        place = self.place
        if place.health.fault():
            place.on_trip()
