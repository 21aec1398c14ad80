"""What the supervisor has seen of documents and of the store, as samples."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import orjson

from gateway.metrics.families import (
    APPLY_LAG,
    CONVERGENCE,
    FLIPS,
    REFUSED_DOCUMENTS,
    STALE,
    STORE_LOSSES,
    STORE_REACHABLE,
    UNSENT_LOWERS,
)
from gateway.metrics.totals import Buckets, Labels, Samples
from routing.analysis.histogram import EDGES_S, Histogram

WRITTEN_MAX = 64  # changes of a route whose convergence is being measured
OPERATOR = "operator"
OTHER = "other"
REASONS = frozenset({"errors", "fuse", "latency_p50", "latency_p95", "latency_p99", "unready"})


class Measures:
    """Follows documents from the store's word to the worker's.

    Args:
        clock: Monotonic seconds.

    Attributes:
        flips: By model, version and reason, since the start: latches that were not there in the document before.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._latched: dict[str, dict[str, Any]] = {}
        self._waiting: dict[str, tuple[int, float]] = {}
        self._last_lag_s = 0.0
        self._written: dict[str, dict[int, float]] = {}
        self._convergence = Histogram()
        self.flips: Counter[Labels] = Counter()

    def seen(self, model: str, revision: int, data: bytes) -> None:
        """The store holds this document, and the worker is about to be told."""
        _, since_s = self._waiting.get(model, (0, self._clock()))
        self._waiting[model] = (revision, since_s)
        latched = latches(data)
        before = self._latched.get(model)
        self._latched[model] = latched
        if before is None:  # what was latched before this process began, or in a route that came back, is no news
            return
        for version, latch in latched.items():
            if before.get(version) != latch:
                self.flips[model, version, _reason(latch)] += 1

    def applied(self, model: str, revision: int) -> None:
        """The worker serves this revision."""
        waited = self._waiting.get(model)
        if waited is not None and waited[0] <= revision:
            self._last_lag_s = self._clock() - waited[1]
            del self._waiting[model]

    def written(self, model: str, revision: int, at_s: float) -> None:
        """A change was written at this time, by the store's clock; this gateway's word of it is waited for."""
        waiting = self._written.setdefault(model, {})
        waiting[revision] = at_s
        if len(waiting) > WRITTEN_MAX:
            del waiting[min(waiting)]

    def heard(self, applied: Mapping[str, int], at_s: float) -> None:
        """The store has heard at this time, by the same clock, what this gateway serves."""
        for model in [model for model in self._written if model in applied]:
            waiting = self._written[model]
            for revision in [revision for revision in waiting if revision <= applied[model]]:
                took_s = at_s - waiting.pop(revision)
                if took_s >= 0:  # else the store's clock was set back in between: nothing is known
                    self._convergence.observe(took_s)
            if not waiting:
                del self._written[model]

    def forgotten(self, model: str) -> None:
        """The store holds nothing of it any more."""
        self._waiting.pop(model, None)
        self._written.pop(model, None)
        self._latched.pop(model, None)

    @property
    def apply_lag_s(self) -> float:
        """Of the change that waits longest, or of the last one."""
        now_s = self._clock()
        return max((now_s - since_s for _, since_s in self._waiting.values()), default=self._last_lag_s)

    def samples(self, *, is_reachable: bool, is_stale: bool, losses: int, refused: int, unsent: int) -> Samples:
        """As of now."""
        return {
            FLIPS.name: dict(self.flips),
            APPLY_LAG.name: {(): self.apply_lag_s},
            CONVERGENCE.name: {(): self._buckets()},
            STORE_REACHABLE.name: {(): int(is_reachable)},
            STALE.name: {(): int(is_stale)},
            STORE_LOSSES.name: {(): losses},
            REFUSED_DOCUMENTS.name: {(): refused},
            UNSENT_LOWERS.name: {(): unsent},
        }

    def _buckets(self) -> Buckets:
        counts = tuple(accumulate(self._convergence.as_counts()))
        return Buckets(EDGES_S, counts, self._convergence.sum_s)


def latches(data: bytes) -> dict[str, Any]:
    """The latches of a stored document, of any schema; none where it cannot be read."""
    try:
        found = orjson.loads(data)["guard"]["latched"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(latch: Any) -> str:
    evidence = latch.get("evidence") if isinstance(latch, dict) else None
    if evidence is None:
        return OPERATOR
    objective = evidence.get("objective") if isinstance(evidence, dict) else None
    return objective if objective in REASONS else OTHER
