"""Wakes local watchers when this process has written."""

import asyncio


class Bell:
    """Wakes everybody who took a ticket since the last ring.

    Take the ticket before reading, wait on it after: a ring in between is then not missed.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        """Event that the next ring sets."""
        return self._next

    def ring(self) -> None:
        """Wake all who hold a ticket."""
        rung, self._next = self._next, asyncio.Event()
        rung.set()
