"""One request on its way to a remote server."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.backends.base import Reply
from gateway.backends.connection import Connection

if TYPE_CHECKING:
    from gateway.backends.connections import Connections


class Sending:
    """One request on its way: waits, rides a connection, and ends once.

    Attributes:
        is_over: Whether it was replied to or given up.
        may_repeat: Whether it may be sent a second time when a reused connection died under it.
        retried: Whether a stale connection has already cost it one try.
    """

    __slots__ = (
        "_connections",
        "body",
        "carrier",
        "deadline_s",
        "head",
        "is_over",
        "may_repeat",
        "on_reply",
        "retried",
    )

    def __init__(
        self,
        connections: "Connections",
        head: bytes,
        body: bytes,
        deadline_s: float,
        on_reply: Callable[[Reply], None],
        *,
        may_repeat: bool,
    ) -> None:
        self._connections = connections
        self.may_repeat = may_repeat
        self.head = head
        self.body = body
        self.deadline_s = deadline_s
        self.on_reply = on_reply
        self.carrier: Connection | None = None
        self.is_over = False
        self.retried = False

    def end(self, reply: Reply) -> None:
        """Hand the reply over, unless somebody was quicker."""
        if not self.is_over:
            self.is_over = True
            self.carrier = None
            self.on_reply(reply)

    def cancel(self) -> None:
        """Give the sending up; its connection goes with it, for the answer may still be coming."""
        if not self.is_over:
            self.is_over = True
            self._connections.give_up(self)
