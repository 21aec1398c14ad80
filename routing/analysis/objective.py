"""What a version promises, and the sentence when it breaks the promise."""

from collections.abc import Sequence
from dataclasses import dataclass

from routing.analysis.ecusum import C_DEFAULT, Ecusum

ERRORS = "errors"
FUSE = "fuse"
MAX_RATE_DEFAULT = 0.01  # tolerated failures where there is no SLO for errors


@dataclass(frozen=True, slots=True)
class Objective:
    """What a version promises: "at most a share ``p0`` of its attempts is a hit".

    Attributes:
        name: ``"errors"``, or ``"latency_p50"``, ``"latency_p95"``, ``"latency_p99"``.
        p0: Tolerated share of hits, 1e-5 to 0.5.
        threshold_s: A latency above it is a hit; ``None``: a charged failure is one.
        c: Evidence that trips, and attempts between false trips at exactly ``p0``.
    """

    name: str
    p0: float
    threshold_s: float | None = None
    c: float = C_DEFAULT

    @property
    def test(self) -> Ecusum:
        """The e-CUSUM of this promise."""
        return Ecusum(self.p0, self.c)


def objectives(
    max_rate: float | None = None,
    p50_ms: float | None = None,
    p95_ms: float | None = None,
    p99_ms: float | None = None,
) -> tuple[Objective, ...]:
    """Objectives of an SLO, errors first; "p99_ms: 50" says that 1 % may take longer than 50 ms."""
    found = [] if max_rate is None else [Objective(ERRORS, max_rate)]
    for name, p0, limit_ms in (("p50", 0.5, p50_ms), ("p95", 0.05, p95_ms), ("p99", 0.01, p99_ms)):
        if limit_ms is not None:
            found.append(Objective(f"latency_{name}", p0, limit_ms / 1_000))
    return tuple(found)


def tolerated_failures(slo: Sequence[Objective]) -> float:
    """Share of failures, 0 to 1, that a fuse beside these objectives is cut for."""
    return next((objective.p0 for objective in slo if objective.threshold_s is None), MAX_RATE_DEFAULT)


def held_against_stable(slo: Sequence[Objective]) -> tuple[Objective, ...]:
    """What stable is watched for, so that faults it shares are known: its failures always, errors first."""
    return Objective(ERRORS, tolerated_failures(slo)), *(o for o in slo if o.threshold_s is not None)


@dataclass(frozen=True, slots=True)
class Trip:
    """Why a guard tripped.

    Attributes:
        objective: Name of the objective, or ``"fuse"``.
        p0: Tolerated share of hits.
        c: Evidence that trips.
        odds: Evidence at the trip; 1 where the fuse alone watches.
        attempts: Attempts of the epoch, those in flight included, those that are no evidence left out.
        charged: Hits of the epoch.
        run: Failures in a row at the trip (``"fuse"``), else 0.
        threshold_s: The latency that was exceeded, ``None`` for failures.
    """

    objective: str
    p0: float
    c: float
    odds: float
    attempts: int
    charged: int
    run: int = 0
    threshold_s: float | None = None

    def sentence(self) -> str:
        """The reason, for people."""
        if self.objective == FUSE:
            return f"{self.run} attempts in a row failed ({self.charged:,} of {self.attempts:,} in all)"
        fate = "failed" if self.threshold_s is None else f"took longer than {self.threshold_s * 1_000:g} ms"
        odds = float(f"{self.odds:.3g}")
        return (
            f"{self.charged:,} of {self.attempts:,} attempts {fate}; "
            f"odds {odds:,.0f} : 1 against a rate of at most {self.p0 * 100:g} %"
        )
