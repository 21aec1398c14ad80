"""Bounds at the front door: bodies, concurrency, deadlines, identifiers."""

import re
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from itertools import chain, count
from math import ceil
from random import SystemRandom

from gateway.errors import BadRequest, LoopDetected, Overloaded
from gateway.settings import Deadline, Overload, Settings

VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]{1,128}")
RETRY_AFTER_S = 1
PRIORITY = b"x-turnout-priority"
KEY = b"x-turnout-key"
PRIORITIES = {b"normal": False, b"low": True}  # whether it is low
PASSED_ON = re.compile(rb"[\x20-\x7e]{1,1024}")  # of a `via`; another is not passed on


_LAST_DIGITS = tuple(f"{number:02x}" for number in range(0x100))


class Gate:
    """How many requests one worker has in hand: those that came whole and whose answer has not gone out.

    Near the limit there is an order in which things go: copies for shadows, canaries, low priority, and the rest.

    Args:
        limit: Of ``in_hand``.
        shares: Of ``limit``, where what goes first goes.

    Attributes:
        in_hand: Of both lanes.
        limit: One more is refused, as soon as its head is there if it is known by then.
        low_limit: The same for requests of low priority; not more than ``limit``.
        is_draining: The process is about to end: every answer closes its connection.
        is_late: The loop has more to do than it can.
    """

    __slots__ = ("_canary_limit", "_copy_limit", "in_hand", "is_draining", "is_late", "limit", "low_limit")

    def __init__(self, limit: int, shares: Overload | None = None) -> None:
        shares = shares or Overload()
        self.in_hand = 0
        self.limit = limit
        self._copy_limit = ceil(limit * shares.mirrors)
        self._canary_limit = ceil(limit * shares.canaries)
        self.low_limit = ceil(limit * shares.low_priority)
        self.is_draining = False
        self.is_late = False

    @property
    def takes_copies(self) -> bool:
        """Whether there is room for copies, beside the request that is in hand."""
        return self.in_hand <= self._copy_limit and not self.is_late

    @property
    def takes_canaries(self) -> bool:
        """Whether there is room for canaries, for the request that is in hand."""
        return self.in_hand <= self._canary_limit and not self.is_late

    def has_room(self, is_low: bool) -> bool:
        """Whether there is room for one more."""
        return self.in_hand < (self.low_limit if is_low else self.limit)

    def check(self, *, is_low: bool = False) -> None:
        """See whether there is room for one more.

        Args:
            is_low: It has low priority.

        Raises:
            Overloaded: There is none.
        """
        if not self.has_room(False):
            raise Overloaded(f"{self.limit} requests are in work already")
        if not self.has_room(is_low):
            raise LowPriorityRefused(f"{self.in_hand} requests are in work: there is no room for low priority now")


class LowPriorityRefused(Overloaded):
    """Too much is in work for a request of low priority."""


class Priorities:
    """Who may say that a request matters less."""

    def __init__(self, settings: Settings) -> None:
        self._digests = {consumer.sha256 for consumer in settings.consumers if "priority" in consumer.may}

    def is_low(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request has low priority. Of one that may not say so the header is as if it were not there.

        Raises:
            BadRequest: Somebody who may say it says something else.
        """
        said = headers.get(PRIORITY)
        if said is None or not self._digests:
            return False
        if sha256(headers.get(KEY, b"")).hexdigest() not in self._digests:
            return False
        is_low = PRIORITIES.get(said.lower())
        if is_low is None:
            raise BadRequest("x-turnout-priority is normal or low")
        return is_low


class RequestIds:
    """Identifiers for requests that bring none: unlike any other process's, and never the same twice.

    Attributes:
        new: Gives the next one: 32 hexadecimal digits.
    """

    __slots__ = ("_mine", "new")

    def __init__(self) -> None:
        self._mine = f"{SystemRandom().getrandbits(64):016x}"
        self.new: Callable[[], str] = chain.from_iterable(map(self._next, count())).__next__

    def _next(self, number: int) -> Iterator[str]:
        """The next 256."""
        beginning = f"{self._mine}{number:014x}"
        return map(beginning.__add__, _LAST_DIGITS)


def request_id(headers: Mapping[bytes, bytes], ids: RequestIds) -> str:
    """The client's ``x-request-id`` when it is 1 to 128 visible ASCII characters, else one of ours."""
    given = headers.get(b"x-request-id")
    if given is not None and VISIBLE_ASCII.fullmatch(given):
        return given.decode("ascii")
    return ids.new()


def timeout_s(headers: Mapping[bytes, bytes], deadline: Deadline) -> float:
    """How long this request may take, in seconds.

    Raises:
        BadRequest: ``x-request-timeout-ms`` is no positive number.
    """
    given = headers.get(b"x-request-timeout-ms")
    if given is None:
        return deadline.default_ms / 1000
    try:
        asked_ms = float(given)
    except ValueError:
        asked_ms = -1.0
    if not 0 < asked_ms < float("inf"):
        raise BadRequest("x-request-timeout-ms is a positive number of milliseconds")
    return min(asked_ms, deadline.max_ms) / 1000


def header_length(headers: Mapping[bytes, bytes], body_bytes: int) -> int | None:
    """Length of the JSON part of a body with binary tensors; ``None`` for plain JSON.

    Raises:
        BadRequest: ``Inference-Header-Content-Length`` is no number or beyond the body.
    """
    given = headers.get(b"inference-header-content-length")
    if given is None:
        return None
    if not given.isdigit() or len(given) > 19 or int(given) > body_bytes:
        raise BadRequest("Inference-Header-Content-Length is not a number of bytes within the body")
    length = int(given)
    return None if length == body_bytes > 0 else length


def via(headers: Mapping[bytes, bytes], name: str) -> str:
    """The ``via`` that goes along to remote backends: what came, and this gateway (RFC 9110, section 7.6.3).

    Raises:
        LoopDetected: This gateway stands in it already.
    """
    came = headers.get(b"via")
    if came is None:
        return f"1.1 {name}"
    if name.encode() in (word for hop in came.split(b",") for word in hop.split()):
        raise LoopDetected("the request has been through this gateway already: a backend's url leads back to it")
    return f"{came.decode()}, 1.1 {name}" if PASSED_ON.fullmatch(came) else f"1.1 {name}"
