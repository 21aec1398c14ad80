"""The scenarios: each starts what it needs, sends traffic, and says which promises held."""

from collections.abc import Callable, Mapping

from loadtests.options import Options
from loadtests.result import Result
from loadtests.scenarios import broken, canary, edits, latency, neighbours, pairs, replicas, shadows, soak, steady

SCENARIOS: Mapping[str, Callable[[Options], Result]] = {
    "steady": steady.steady,
    "canary-errors": canary.canary_errors,
    "canary-slow": canary.canary_slow,
    "canary-hangs": canary.canary_hangs,
    "operator-edits": edits.operator_edits,
    "sentiment-beside-credit": neighbours.sentiment_beside_credit,
    "edit-latency": latency.edit_latency,
    "convergence": replicas.convergence,
    "redis-frozen": replicas.redis_frozen,
    "shadow-hangs": shadows.shadow_hangs,
    "pairs-compared": pairs.pairs_compared,
    "replicas-canary-killed": broken.canary_killed,
    "replicas-canary-errors": broken.canary_errors,
    "soak": soak.soak,
}

__all__ = ["SCENARIOS"]
