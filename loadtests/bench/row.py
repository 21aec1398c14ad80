"""A row of the benchmark: who is compared at what work, and what the ratios should be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.bench.machine import Lab
from loadtests.bench.measure import Summary
from loadtests.bench.target import Target

Start = Callable[[Lab], Target]


@dataclass(frozen=True, slots=True)
class Figure:
    """A further number; ``limit`` is the most it should be, or ``None``."""

    name: str
    value: float
    limit: float | None = None

    @property
    def sentence(self) -> str:
        """For below the table."""
        if self.limit is None:
            return f"{self.name}: {self.value:.4g}"
        verdict = "met" if self.value <= self.limit else "MISSED"
        return f"{self.name} <= {self.limit:.4g}: {self.value:.4g}, {verdict}"


Derive = Callable[[Lab, Mapping[str, Summary]], Sequence[Figure]]


def no_figures(_lab: Lab, _summaries: Mapping[str, Summary]) -> Sequence[Figure]:
    """The table says it all."""
    return ()


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
        derive: Further figures, from the summaries or measured apart.
    """

    name: str
    what: str
    contenders: dict[str, Start]
    goals: Sequence[Goal] = field(default_factory=tuple)
    note: str = ""
    derive: Derive = no_figures
