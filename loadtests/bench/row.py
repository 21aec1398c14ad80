"""A row of the benchmark: who is compared at what work, and what the ratios should be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loadtests.bench.machine import Lab
from loadtests.bench.target import Target

Start = Callable[[Lab], Target]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on turnout's figure over a peer's.

    Attributes:
        against: The peer.
        measure: Attribute of ``Summary``.
        limit: Of the ratio.
        at_least: The ratio shall not be below the limit, instead of not above.
        ours: Which of our own contenders.
    """

    against: str
    limit: float
    measure: str = "cpu_us"
    at_least: bool = False
    ours: str = "turnout"


@dataclass(frozen=True, slots=True)
class Contest:
    """Contenders at one kind of work, by name; the first is turnout.

    Attributes:
        note: Said below the table.
    """

    name: str
    what: str
    contenders: dict[str, Start]
    goals: Sequence[Goal] = field(default_factory=tuple)
    note: str = ""
