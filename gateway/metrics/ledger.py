"""What a worker counts, as rows of its block."""

import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable

from gateway.metrics.block import Block, Entry, Row, private_row
from gateway.metrics.families import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    BOUND_HITS,
    EJECTIONS,
    JUDGED,
    MIRROR,
    MIRROR_PAIRS,
    OVERHEAD_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    ROUTED,
)
from routing.analysis.histogram import count_sorted
from routing.analysis.outcome import Kind

HOW = ("drawn", "redirected", "pinned", "failover")
VERDICTS = ("charged", "shared", "excused")
OUTCOMES = tuple(kind.value for kind in Kind)
VERSION_COUNTS = len(HOW) + len(VERDICTS) + len(OUTCOMES)

ATTEMPT_EDGES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
REQUEST_EDGES_S = ATTEMPT_EDGES_S
OVERHEAD_EDGES_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)


def with_edges(edges_s: Iterable[float], own_s: Iterable[float]) -> tuple[float, ...]:
    """The usual edges and a route's own thresholds, in order."""
    return tuple(sorted({*edges_s, *own_s}))


class Timing:
    """A histogram in a block."""

    __slots__ = ("_counts", "_edges_s", "_floats", "_sum")

    def __init__(self, row: Row, edges_s: tuple[float, ...]) -> None:
        self._counts, self._floats = row.counts, row.floats
        self._edges_s = edges_s
        self._sum = len(edges_s) + 1

    def observe(self, seconds: float) -> None:
        """Count one time; a bucket holds what is at most its edge."""
        self._counts[bisect_left(self._edges_s, seconds)] += 1
        self._floats[self._sum] += seconds

    def observe_all(self, seconds: list[float]) -> None:
        """Count many at once; ``seconds`` is put in order."""
        count_sorted(seconds, self._edges_s, self._counts)
        self._floats[self._sum] += sum(seconds)


class Times:
    """How long requests of a model took, and how much of that was the gateway's own.

    Attributes:
        whole_s: Of each request, not yet counted: appending costs a fifth of counting one by one.
        added_s: The gateway's part, of those where it is not 0.
    """

    __slots__ = ("_overhead", "_requests", "added_s", "whole_s")

    def __init__(self, requests: Timing, overhead: Timing) -> None:
        self._requests = requests
        self._overhead = overhead
        self.whole_s: list[float] = []
        self.added_s: list[float] = []

    def settle(self) -> None:
        """Count what has come since the last time."""
        whole_s, self.whole_s = self.whole_s, []
        added_s, self.added_s = self.added_s, []
        added_s += [0.0] * (len(whole_s) - len(added_s))
        self._requests.observe_all(whole_s)
        self._overhead.observe_all(added_s)


class VersionRow:
    """Counts of one version, and the times of its good attempts."""

    __slots__ = ("__weakref__", "counts", "seconds")

    def __init__(self, row: Row, edges_s: tuple[float, ...]) -> None:
        self.counts = row.counts[:VERSION_COUNTS]
        self.seconds = Timing(row.part(VERSION_COUNTS, len(row.counts)), edges_s)


class Ledger:
    """Gives out rows. A row that nobody writes any more goes to the next epoch of the same version, as it stands.

    So a block does not grow with the number of epochs, a late answer is counted where its own epoch counts, and what is
    exposed, the sum over a version's rows, never goes back.

    Args:
        block: Where to count; ``None``: privately, for nobody to see.
    """

    def __init__(self, block: Block | None = None) -> None:
        self._claim: Callable[[list[Entry]], Row] = _privately if block is None else block.claim
        self._free: dict[tuple[str, str, tuple[float, ...]], list[Row]] = {}
        self._requests: dict[tuple[str, str, str], dict[int, memoryview]] = {}
        self._timings: dict[tuple[str, str, tuple[float, ...]], Timing] = {}
        self._cells: dict[tuple[str, ...], memoryview] = {}

    def version(self, model: str, version: str, thresholds_s: Iterable[float] = ()) -> VersionRow:
        """A row of this version that nobody else writes; what it holds already belongs to earlier epochs."""
        edges_s = with_edges(ATTEMPT_EDGES_S, thresholds_s)
        key = (model, version, edges_s)
        free = self._free.setdefault(key, [])
        row = free.pop() if free else self._claim(_version_entries(*key))
        held = VersionRow(row, edges_s)
        weakref.finalize(held, free.append, row).atexit = False
        return held

    def request(self, model: str, version: str, role: str, code: int) -> None:
        """Count one request by the status that went out."""
        self.request_cell(model, version, role, code)[0] += 1

    def request_cell(self, model: str, version: str, role: str, code: int) -> memoryview:
        """Where such requests are counted: one word."""
        codes = self._requests.get((model, version, role))
        if codes is None:
            codes = self._requests[model, version, role] = {}
        cell = codes.get(code)
        if cell is None:
            labels = (model, version, role, str(code))
            cell = codes[code] = self._claim([Entry(REQUESTS.name, labels)]).counts
        return cell

    def bound_hit(self, bound: str) -> None:
        """Count one refusal at a bound, by its name in the settings."""
        self._count(BOUND_HITS.name, bound)

    def copy(self, model: str, version: str, result: str) -> None:
        """Count one copy for a shadow by what became of it."""
        self._count(MIRROR.name, model, version, result)

    def ejection(self, model: str, version: str) -> None:
        """Count one server of a version that is not asked because it failed too often."""
        self._count(EJECTIONS.name, model, version)

    def pair(self, model: str, version: str, *, agrees: bool) -> None:
        """Count one pair of answers."""
        self._count(MIRROR_PAIRS.name, model, version, "true" if agrees else "false")

    def _count(self, *key: str) -> None:
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._claim([Entry(key[0], key[1:])]).counts
        cell[0] += 1

    def times(self, model: str, thresholds_s: Iterable[float] = ()) -> Times:
        """Times of a model's requests."""
        own_s = tuple(thresholds_s)
        return Times(
            self._timing(REQUEST_SECONDS.name, model, with_edges(REQUEST_EDGES_S, own_s)),
            self._timing(OVERHEAD_SECONDS.name, model, with_edges(OVERHEAD_EDGES_S, own_s)),
        )

    def _timing(self, metric: str, model: str, edges_s: tuple[float, ...]) -> Timing:
        found = self._timings.get((metric, model, edges_s))
        if found is None:
            row = self._claim([Entry(metric, (model,), edges_s=edges_s)])
            found = self._timings[metric, model, edges_s] = Timing(row, edges_s)
        return found


def _version_entries(model: str, version: str, edges_s: tuple[float, ...]) -> list[Entry]:
    labels = (model, version)
    return [
        Entry(ROUTED.name, labels, HOW),
        Entry(JUDGED.name, labels, VERDICTS),
        Entry(ATTEMPTS.name, labels, OUTCOMES),
        Entry(ATTEMPT_SECONDS.name, labels, edges_s=edges_s),
    ]


def _privately(entries: list[Entry]) -> Row:
    return private_row(sum(entry.size for entry in entries))
