"""What a route promises, as the guards' objectives: apart, so that who judges need not import who serves."""

from routing.analysis.objective import Objective, objectives
from routing.table import Slo


def slo_objectives(slo: Slo | None) -> tuple[Objective, ...]:
    """The promises that a route's SLO makes."""
    if slo is None:
        return ()
    return objectives(
        slo.errors.max_rate if slo.errors else None,
        slo.latency.p50_ms if slo.latency else None,
        slo.latency.p95_ms if slo.latency else None,
        slo.latency.p99_ms if slo.latency else None,
    )
