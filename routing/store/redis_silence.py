"""A server that takes connections and does not answer: one question waits at it, for all.

The kernel goes on taking connections for a server that hangs, up to its backlog. Questions that come again and again
fill it within a minute, and whoever connects after the thaw is let in a second later or not at all.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

LISTEN_S = 5.0  # one question; then it is asked anew, for the address may lead somewhere else now


class Silence:
    """Lets one question wait for a server that did not answer in time, and all others wait for that one.

    Args:
        options: Of connections, as the library takes them.
        patience_s: Of one question.
    """

    def __init__(self, options: Mapping[str, Any], patience_s: float = LISTEN_S) -> None:
        bounds = {"socket_connect_timeout": patience_s, "socket_timeout": patience_s, "timeout": patience_s}
        self._options = {**options, **bounds, "max_connections": 1}
        self._patience_s = patience_s
        self._question: asyncio.Task[None] | None = None

    def noticed(self) -> None:
        """An answer did not come in time."""
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._ask())

    async def over(self) -> None:
        """Wait while it lasts. Does not fail, and does not end by itself either: bound it."""
        if self._question is not None and not self._question.done():
            await asyncio.wait([self._question])

    def stop(self) -> None:
        """Wait for it no more."""
        if self._question is not None:
            self._question.cancel()

    async def _ask(self) -> None:
        """Ask until there is an answer, whatever it is. A server that is not there is none that hangs."""
        while True:
            pool = BlockingConnectionPool(**self._options)
            try:
                async with asyncio.timeout(self._patience_s):
                    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
                    await connection.send_command("PING")
                    await connection.read_response()
                return
            except (TimeoutError, RedisTimeout):
                continue
            except (RedisError, OSError):
                return
            finally:
                await pool.disconnect()
