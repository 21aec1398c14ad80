"""Connections to the server that Sentinels call the master, wherever it is when the connection is made."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Refused

from routing.store.redis_url import Place, said_by

Find = Callable[[], Awaitable[tuple[str, int]]]


class _Sought:
    """Looks for its server anew each time it connects, and takes no other than a master."""

    host: str
    port: int

    def __init__(self, *, find: Find, **options: Any) -> None:
        super().__init__(**options)
        self._find = find

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        await super()._connect()  # type: ignore[misc]

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect, log in, and ask for the role: a Sentinel may not know yet."""
        was_connected = self.is_connected  # type: ignore[attr-defined]
        await super().connect_check_health(*args, **options)  # type: ignore[misc]
        if was_connected:
            return
        await self.send_command("ROLE")  # type: ignore[attr-defined]
        role, *_ = await self.read_response()  # type: ignore[attr-defined]
        if role != b"master":
            await self.disconnect()  # type: ignore[attr-defined]
            raise Refused(f"{self.host}:{self.port} is no master")


class SoughtConnection(_Sought, Connection):
    """In the clear."""


class SoughtSSLConnection(_Sought, SSLConnection):
    """With TLS."""


class Sentinels:
    """Asks all Sentinels at once; the first that knows is believed, as the role is checked.

    Args:
        place: With at least one Sentinel.
        options: Of connections, as the library takes them; those of TLS hold for Sentinels too.
    """

    def __init__(self, place: Place, options: Mapping[str, Any]) -> None:
        self._place = place
        shared = {name: value for name, value in options.items() if name.startswith(("ssl_", "socket_", "retry"))}
        self._options = {**shared, "protocol": 2, "driver_info": None}
        self._is_secure = options.get("connection_class") is SSLConnection

    @property
    def connection_class(self) -> type[Connection]:
        """Of connections to the server."""
        return SoughtSSLConnection if self._is_secure else SoughtConnection

    @property
    def names(self) -> str:
        """Where they are, as in a sentence."""
        return ", ".join(_name(*address) for address in self._place.sentinels)

    async def find(self) -> tuple[str, int]:
        """Host and port of the master.

        Raises:
            redis.exceptions.ConnectionError: No Sentinel can be asked, or none knows the service.
        """
        said: list[str] = []
        asked = {asyncio.ensure_future(self._told(host, port)) for host, port in self._place.sentinels}
        try:
            for answer in asyncio.as_completed(asked):
                place, found = await answer
                if not isinstance(found, str):
                    return found
                said.append(f"{place} {found}")
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise Refused(f"no Sentinel names a master of {self._place.service!r}: {'; '.join(sorted(said))}")

    async def _told(self, host: str, port: int) -> tuple[str, tuple[str, int] | str]:
        """Name of a Sentinel, and whom it calls the master, or why not."""
        try:
            found = await self._ask(host, port) or "does not know it"
        except AuthenticationError as error:
            found = f"refused the user or password of Sentinels in the URL: {said_by(error)}"
        except ResponseError as error:
            found = f"refused: {said_by(error)}"
        except (RedisError, OSError) as error:
            found = f"cannot be reached: {said_by(error)}"
        return _name(host, port), found

    async def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        kind = SSLConnection if self._is_secure else Connection
        connection = kind(
            host=host, port=port, username=self._place.username, password=self._place.password, **self._options
        )
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._place.service)
            found = await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)
        return (found[0].decode(), int(found[1])) if found else None


def _name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
