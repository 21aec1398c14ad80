"""One attempt on a remote version, timed for its statistics."""

from collections.abc import Callable
from time import perf_counter

from gateway.backends.base import Reply
from gateway.backends.statistics import Statistics
from routing.analysis.outcome import Kind, is_fault


class Attempt:
    """Stands between an exchange and whoever waits for its reply.

    Attributes:
        give_up: What cancels the exchange.
    """

    __slots__ = ("_begin_s", "_is_over", "_on_reply", "_statistics", "give_up")

    def __init__(self, statistics: Statistics, on_reply: Callable[[Reply], None]) -> None:
        self._statistics = statistics
        self._on_reply = on_reply
        self._begin_s = perf_counter()
        self._is_over = False
        self.give_up: Callable[[], None] | None = None

    def replied(self, reply: Reply) -> None:
        """The exchange has ended."""
        self._is_over = True
        took_s = perf_counter() - self._begin_s
        if reply.kind is Kind.OK:
            self._statistics.answered(took_s)
        elif is_fault(reply.kind):
            self._statistics.failed(took_s)
        self._on_reply(reply)

    def cancel(self) -> None:
        """Nobody waits any more: the client left, or the attempt's time is up."""
        if not self._is_over:
            self._is_over = True
            self._statistics.failed(perf_counter() - self._begin_s)
        if self.give_up is not None:
            self.give_up()
