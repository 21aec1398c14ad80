"""The bounds of a listener, who is behind its connections, and one timer for all of them."""

import ipaddress
import logging
from asyncio import TimerHandle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from gateway.settings import Server

if TYPE_CHECKING:
    from gateway.dataplane.doorway import Doorway

log = logging.getLogger("turnout.dataplane")

SILENT = 0  # nothing was received since the connection was made
IDLE = 1  # between messages
HEAD = 2  # a head is arriving
BODY = 3  # a body is arriving
WORK = 4  # a complete request is being answered
REST = 5  # the answer has gone, and the rest of the request's body is thrown away
LINGER = 6  # the last answer has gone: what still comes is thrown away, so that the client can read that answer
CLOSING = 7  # closed by us; what was written is still being taken

V4_IN_V6_BITS, CLIENT_PREFIX_BITS = 96, 64


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a connection may do; refusals are counted as ``{where}.{name}``. Times in seconds."""

    where: str
    max_connections: float
    max_connections_per_client: float
    max_pipelined: int
    max_url_bytes: int
    max_line_bytes: int
    max_head_bytes: int
    max_headers: int
    max_body_bytes: float
    silent_timeout_s: float
    head_timeout_s: float
    body_timeout_s: float
    write_timeout_s: float
    keep_alive_s: float
    half_close_s: float
    linger_s: float
    linger_bytes: int


def data_bounds(server: Server) -> Bounds:
    """Bounds of the data plane."""
    return Bounds(
        where="server",
        max_connections=server.max_connections,
        max_connections_per_client=server.max_connections_per_client or max(1, server.max_connections // 2),
        max_pipelined=server.max_pipelined,
        max_url_bytes=server.max_url_bytes,
        max_line_bytes=server.max_line_bytes,
        max_head_bytes=server.max_head_bytes,
        max_headers=server.max_headers,
        max_body_bytes=server.max_body_bytes,
        silent_timeout_s=server.silent_timeout_s,
        head_timeout_s=server.head_timeout_s,
        body_timeout_s=server.body_timeout_s,
        write_timeout_s=server.write_timeout_s,
        keep_alive_s=server.keep_alive_s,
        half_close_s=server.half_close_s,
        linger_s=server.linger_s,
        linger_bytes=server.linger_bytes,
    )


def admin_bounds(server: Server) -> Bounds:
    """The same heads for operators; how large their bodies and how slow their readers may be is the admin app's."""
    return Bounds(
        where="admin",
        max_connections=inf,
        max_connections_per_client=inf,
        max_pipelined=server.max_pipelined,
        max_url_bytes=server.max_url_bytes,
        max_line_bytes=server.max_line_bytes,
        max_head_bytes=server.max_head_bytes,
        max_headers=server.max_headers,
        max_body_bytes=inf,
        silent_timeout_s=server.silent_timeout_s,
        head_timeout_s=server.head_timeout_s,
        body_timeout_s=server.body_timeout_s,
        write_timeout_s=inf,
        keep_alive_s=server.keep_alive_s,
        half_close_s=0.0,
        linger_s=server.linger_s,
        linger_bytes=server.linger_bytes,
    )


def client_of(address: str) -> str:
    """Who is behind an address: of IPv6 whoever holds the /64, for nobody is given less."""
    if ":" not in address:
        return address
    try:
        whole = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if whole.ipv4_mapped is not None:
        return str(whole.ipv4_mapped)
    return str(ipaddress.IPv6Network((whole, CLIENT_PREFIX_BITS), strict=False))


class Doorkeeper:
    """Holds the connections of one listener and sweeps them; there is no timer for a request or a connection.

    Args:
        count: Told the name of every bound that was hit.
    """

    PERIOD_S = 0.05
    SLICE = 512  # connections that a sweep looks at, at least
    ROUND = 8  # sweeps in which all are looked at, when there are more
    CLOSING_S = 60.0  # time in which what was written before the end is taken, at most
    MAX_LINGERING = 256  # connections over a bound that may linger; one more is cut

    def __init__(self, bounds: Bounds, count: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self.bounds = bounds
        self.doors: set[Doorway] = set()
        self.lingering = 0
        self._count = count
        self._clock = clock
        self._clients: Counter[str] = Counter()
        self._admitted: dict[Doorway, str] = {}
        self._half_closed: dict[Doorway, float] = {}
        self._round: Iterator[Doorway] = iter(())
        self._timer: TimerHandle | None = None
        self._due_s = 0.0
        self._is_late = False
        self._limits_s = (
            bounds.silent_timeout_s,
            bounds.keep_alive_s,
            bounds.head_timeout_s,
            bounds.body_timeout_s,
            inf,  # whoever answers has deadlines of his own
            bounds.linger_s,
            bounds.linger_s,
            min(bounds.write_timeout_s, self.CLOSING_S),
        )

    def hit(self, bound: str) -> None:
        """Count a refusal at a bound, by its name without the section."""
        self._count(f"{self.bounds.where}.{bound}")

    def admit(self, door: "Doorway") -> str | None:
        """Take a connection under watch; the name of the bound that it is over, if it is."""
        self.doors.add(door)
        if self._timer is None:
            self._arm(door, self._clock())
        if len(self._admitted) >= self.bounds.max_connections:
            return "max_connections"
        client = client_of(door.client[0]) if door.client else ""
        if client and self._clients[client] >= self.bounds.max_connections_per_client:
            return "max_connections_per_client"
        self._admitted[door] = client
        self._clients[client] += 1
        return None

    def forget(self, door: "Doorway") -> None:
        """The connection is gone."""
        self.doors.discard(door)
        self._half_closed.pop(door, None)
        if door.phase == LINGER:
            self.lingering -= 1
        client = self._admitted.pop(door, None)
        if client is None:
            return
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    def may_linger(self, door: "Doorway") -> bool:
        """Whether a connection may stay for a while after its last answer."""
        return door in self._admitted or self.lingering < self.MAX_LINGERING

    def half_closed(self, door: "Doorway") -> None:
        """The client sends nothing more and is owed an answer."""
        self._half_closed[door] = self._clock()

    def _arm(self, door: "Doorway", now_s: float) -> None:
        self._due_s = now_s + self.PERIOD_S
        self._timer = door.loop.call_later(self.PERIOD_S, self._tick)

    def _tick(self) -> None:
        now_s = self._clock()
        # After the loop was stopped for long, what came meanwhile has not been read yet: judge one sweep later.
        self._is_late = now_s - self._due_s > self.PERIOD_S and not self._is_late
        self._timer = None
        for door in self.doors:
            self._arm(door, now_s)
            break
        if not self._is_late:
            self._sweep(now_s)

    def _sweep(self, now_s: float) -> None:
        limits_s, doors = self._limits_s, self.doors
        for door in self._some():
            if door not in doors:
                continue
            try:
                if now_s - door.phase_since_s > limits_s[door.phase]:
                    door.overdue(now_s)
                door.watch_writes(now_s)
            except Exception:  # one connection that cannot be judged must not keep the others from their deadlines
                log.exception("a connection could not be swept")
                door.transport.abort()
        for door, since_s in list(self._half_closed.items()):
            if now_s - since_s > self.bounds.half_close_s:
                self._half_closed.pop(door, None)
                door.gone()

    def _some(self) -> Iterator["Doorway"]:
        wanted = max(self.SLICE, len(self.doors) // self.ROUND + 1)
        taken = list(islice(self._round, wanted))
        if len(taken) < wanted:
            self._round = iter(list(self.doors))
            if not taken:
                taken = list(islice(self._round, wanted))
        return iter(taken)
