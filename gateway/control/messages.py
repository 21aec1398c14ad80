"""What supervisor and workers tell each other, and the bytes of it."""

import struct
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from routing.analysis.slots import SlotNews
from routing.errors import Problem

MAX_MESSAGE_BYTES = 16 << 20
SIZES = struct.Struct("!II")  # of the head, which is JSON, and of the data behind it, which is sent as it is


class BadMessage(ValueError):
    """These bytes are no message of this release, or a message is too large to be sent."""


# Up, from a worker.


@dataclass(frozen=True, slots=True)
class Lowered:
    """Up: a guard in this worker lowered a version."""

    model: str
    version: str
    epoch: int
    reason: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Applied:
    """Up: the worker serves this revision."""

    model: str
    revision: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Up: the worker cannot serve this revision and keeps the last good one."""

    model: str
    revision: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """Evidence of one version since the last flush.

    Attributes:
        stable_is_ready: Whether the route's stable can be asked in this worker.
        deltas: By objective, attempts, and of each hit the hash of its sticky key (``None``: a keyless draw).
        slots: The same for the fuse, by the slot of dispatch: ``SLOT_S`` of this machine's monotonic clock.
    """

    model: str
    version: str
    epoch: int
    is_stable: bool
    stable_is_ready: bool
    deltas: dict[str, tuple[int, list[int | None]]]
    slots: tuple[SlotNews, ...] = ()


@dataclass(frozen=True, slots=True)
class Counted:
    """Up: evidence of this worker since the last flush."""

    counts: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class Summed:
    """Up: counts since the last time, by place: what to add, and what to keep the largest of."""

    sums: tuple[tuple[str, dict[str, int | float], dict[str, int | float]], ...]


@dataclass(frozen=True, slots=True)
class Told:
    """Up: the answer to a question, as JSON."""

    question: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """Up: the loop turns."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Up: everything that was sent before ``Serve`` is applied; connections are taken from now on."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Up: nothing is being loaded any more, or it takes too long to wait for."""


# Down, from the supervisor.


@dataclass(frozen=True, slots=True)
class Begin:
    """Down: the first message; the settings as JSON, and who the worker is."""

    worker: int
    workers: int
    replica_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """Down: serve this document, as it is stored."""

    model: str
    revision: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """Down: the store holds nothing for this model any more."""

    model: str


@dataclass(frozen=True, slots=True)
class Lower:
    """Down: send no draws to this version in this epoch; another worker's guard, or one before a restart, tripped."""

    model: str
    version: str
    epoch: int


@dataclass(frozen=True, slots=True)
class StoreAway:
    """Down: whether the table that is served may be older than the store's."""

    is_away: bool


@dataclass(frozen=True, slots=True)
class Serve:
    """Down: the table is complete."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Down: tell something of these models, or of the worker; ``data`` says more, as JSON."""

    question: int
    about: str
    models: tuple[str, ...] = field(default=())
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Ping:
    """Down: say that the loop turns."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Down: finish what is in work and end; ``at_once``: do not wait for it."""

    at_once: bool = False


Up = Lowered | Applied | Refused | Counted | Summed | Told | Pong | Serving | Ready
Down = Begin | StoredDocument | Forget | Lower | StoreAway | Serve | Ask | Ping | Drain
Message = Up | Down

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        *(Lowered, Applied, Refused, Counted, Summed, Told, Pong, Serving, Ready),
        *(Begin, StoredDocument, Forget, Lower, StoreAway, Serve, Ask, Ping, Drain),
    )
}


def encode(message: Message) -> bytes:
    """Sizes, head, data.

    Raises:
        BadMessage: It is larger than ``MAX_MESSAGE_BYTES``.
    """
    plain = {one.name: getattr(message, one.name) for one in fields(message) if one.name != "data"}
    head = orjson.dumps([type(message).__name__, plain], default=str, option=orjson.OPT_NON_STR_KEYS)
    data = getattr(message, "data", b"")
    if len(head) + len(data) > MAX_MESSAGE_BYTES:
        raise BadMessage(f"{type(message).__name__} of {len(head) + len(data)} bytes is too large for a link")
    return SIZES.pack(len(head), len(data)) + head + data


def sizes_of(header: bytes) -> tuple[int, int]:
    """Bytes of head and data that follow these ``SIZES.size`` bytes.

    Raises:
        BadMessage: More than ``MAX_MESSAGE_BYTES``.
    """
    head, data = SIZES.unpack(header)
    if head + data > MAX_MESSAGE_BYTES:
        raise BadMessage(f"a message of {head + data} bytes is too large for a link")
    return head, data


def decode(head: bytes, data: bytes) -> Message:
    """A message.

    Raises:
        BadMessage: It is none.
    """
    try:
        name, plain = orjson.loads(head)
        kind = _KINDS[name]
        if "data" in (one.name for one in fields(kind)):
            plain["data"] = data
        if kind is Refused:
            plain["problems"] = tuple(Problem(**problem) for problem in plain["problems"])
        elif kind is Counted:
            plain["counts"] = tuple(_count(count) for count in plain["counts"])
        elif kind is Summed:
            plain["sums"] = tuple((place, added, largest) for place, added, largest in plain["sums"])
        elif kind is Ask:
            plain["models"] = tuple(plain["models"])
        return kind(**plain)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadMessage(f"not a message of this release: {error}") from None


def _count(plain: dict[str, Any]) -> Count:
    deltas = {name: (attempts, list(hits)) for name, (attempts, hits) in plain.pop("deltas").items()}
    slots = tuple((slot, attempts, list(hits)) for slot, attempts, hits in plain.pop("slots"))
    return Count(**plain, deltas=deltas, slots=slots)
