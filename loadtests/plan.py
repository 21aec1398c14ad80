"""What a generator is told to do: plain values that travel as JSON between processes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Open:
    """Requests that arrive when they are due, whether or not earlier ones have been answered.

    Attributes:
        rate: Arrivals a second, over all gateways.
        customers: How many there are; 0: every request is another one's.
        timeout_ms: Sent as ``x-request-timeout-ms``.
        pause_s: Pauses of this length and spans of traffic as long take turns, a pause first; 0: no pauses.
    """

    model: str
    rate: float
    seed: int = 1
    customers: int = 0
    timeout_ms: int | None = None
    pause_s: float = 0


@dataclass(frozen=True, slots=True)
class Closed:
    """Users that wait for their answer before they ask again.

    Attributes:
        wait_s: Pause between an answer and the next request.
    """

    model: str
    users: int
    customers: int = 100
    seed: int = 1
    wait_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """The traffic of one generator.

    Attributes:
        gateways: Base URLs; requests take turns.
        fault_versions: Versions of credit behind a fault backend.
    """

    gateways: Sequence[str]
    seconds: float
    open: Sequence[Open] = ()
    closed: Sequence[Closed] = ()
    fault_versions: Sequence[str] = field(default=())

    def encode(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Plan":
        """Inverse of ``encode``."""
        plain = json.loads(text)
        return cls(
            tuple(plain["gateways"]),
            plain["seconds"],
            tuple(Open(**item) for item in plain["open"]),
            tuple(Closed(**item) for item in plain["closed"]),
            tuple(plain["fault_versions"]),
        )
