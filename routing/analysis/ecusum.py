"""The arithmetic of the guard: an absolute e-CUSUM against a tolerated rate, and the length of the fuse."""

from dataclasses import dataclass, field
from math import ceil, exp, log

C_DEFAULT = 1e6  # attempts between two false trips of a version that sits exactly at its objective, at least
P0_MIN, P0_MAX = 1e-5, 0.5
FUSE_MIN = 5
FUSE_NATS = 23.0  # e**-23 is 1e-10: the chance that a given attempt begins a full run at the tolerated rate
ODDS_CAP = 100.0  # times c: a long bad spell must not take as long to forget

Odds = tuple[float, ...]


def fuse_length(p0: float) -> int:
    """How many failures in a row trip the fuse when a share ``p0`` (0 to 1, both excluded) of failures is tolerated."""
    return max(FUSE_MIN, ceil(FUSE_NATS / log(1 / p0)))


def alternatives(p0: float) -> tuple[float, ...]:
    """Rates worse than ``p0`` that the evidence bets on, ascending; never empty for a valid ``p0``."""
    return tuple(sorted({p for p in (2 * p0, 5 * p0, 20 * p0, 0.5, 0.999) if p0 < p < 1}))


@dataclass(frozen=True, slots=True)
class Ecusum:
    """One test: "at most a share ``p0`` of the attempts is bad".

    Odds are a tuple of floats, one for each alternative, that starts at ones and is handed from step to step.
    At any rate up to ``p0`` the mean number of attempts until ``evidence`` reaches ``c`` is at least ``c``, however
    often it is looked at and however long the healthy past was.

    Attributes:
        p0: Tolerated rate, ``P0_MIN`` to ``P0_MAX``.
        c: Evidence that trips.

    Raises:
        ValueError: ``p0`` or ``c`` is out of range.

    Source:
        Shin, Ramdas and Rinaldo, "E-detectors", New England Journal of Statistics in Data Science, 2023.
    """

    p0: float
    c: float = C_DEFAULT
    start: Odds = field(init=False, repr=False)
    up: Odds = field(init=False, repr=False)
    down: Odds = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not P0_MIN <= self.p0 <= P0_MAX:
            raise ValueError(f"the tolerated rate is {self.p0:g}, it must lie between {P0_MIN:g} and {P0_MAX:g}")
        if not self.c > 1:
            raise ValueError(f"c is {self.c:g}, it must be greater than 1")
        rates = alternatives(self.p0)
        object.__setattr__(self, "start", (1.0,) * len(rates))
        object.__setattr__(self, "up", tuple(p / self.p0 for p in rates))
        object.__setattr__(self, "down", tuple((1 - p) / (1 - self.p0) for p in rates))

    def step(self, odds: Odds, bad: bool) -> Odds:
        """Odds after one attempt."""
        if not bad:
            return self.step_good(odds, 1)
        cap = ODDS_CAP * self.c
        return tuple([min(cap, m * u) for m, u in zip(odds, self.up, strict=True)])

    def step_good(self, odds: Odds, count: int) -> Odds:
        """Odds after ``count`` good attempts in a row (0 or more): the same as so many single steps."""
        if odds == self.start or not count:
            return odds
        return tuple([max(1.0, m * d**count) for m, d in zip(odds, self.down, strict=True)])

    def step_batch(self, odds: Odds, attempts: int, bad: int) -> Odds:
        """Odds after a batch whose order is not known: ``bad`` of ``attempts``, 0 <= bad <= attempts.

        Floor and cap act once, on the product: cheaper and a little slower to trip than single steps.
        """
        if not 0 <= bad <= attempts:
            raise ValueError(f"{bad} of {attempts} attempts cannot be bad")
        if not bad:
            return self.step_good(odds, attempts)
        top = log(ODDS_CAP * self.c)
        good = attempts - bad
        return tuple(
            [
                exp(min(top, max(0.0, log(m) + bad * log(u) + good * log(d))))
                for m, u, d in zip(odds, self.up, self.down, strict=True)
            ]
        )

    def evidence(self, odds: Odds) -> float:
        """Odds against "at most ``p0``", 1 to ``100 c``: trip when they reach ``c``."""
        return sum(odds) / len(odds)
