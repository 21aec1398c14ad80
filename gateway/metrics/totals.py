"""The blocks of all workers, living and dead, added up."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from gateway.metrics.block import Entry, Reader
from gateway.metrics.pace import give_way

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram as it is exposed.

    Attributes:
        edges_s: Upper edges of all buckets but the last, which has none.
        counts: How many times are at most each edge, then how many there are.
        sum_s: Their sum.
    """

    edges_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float


Value = int | float | Buckets
Samples = dict[str, dict[Labels, Value]]


@dataclass(slots=True)
class _Parts:
    """Histograms of one label set that may have different edges."""

    by_edges: dict[tuple[float, ...], list[int]] = field(default_factory=dict)
    sum_s: float = 0.0

    def add(self, edges_s: tuple[float, ...], counts: Sequence[int], sum_s: float) -> None:
        held = self.by_edges.pop(edges_s, None)  # the newest edges stand last
        self.by_edges[edges_s] = (
            list(counts) if held is None else [mine + theirs for mine, theirs in zip(held, counts, strict=True)]
        )
        self.sum_s += sum_s

    def merged(self) -> Buckets:
        """With the newest edges. A time counted under other edges appears from the next edge on that proves it."""
        edges_s = next(reversed(self.by_edges))
        if len(self.by_edges) == 1:
            return Buckets(edges_s, tuple(accumulate(self.by_edges[edges_s])), self.sum_s)
        totals = [0] * (len(edges_s) + 1)
        for own_s, counts in self.by_edges.items():
            below = list(accumulate(counts))
            if own_s != edges_s:
                below = [_at_most(edge_s, own_s, below) for edge_s in edges_s] + [below[-1]]
            totals = [mine + theirs for mine, theirs in zip(totals, below, strict=True)]
        return Buckets(edges_s, tuple(totals), self.sum_s)


def _at_most(edge_s: float, own_s: tuple[float, ...], below: Sequence[int]) -> int:
    """How many times are known to be at most ``edge_s``."""
    index = bisect_right(own_s, edge_s)
    return below[index - 1] if index else 0


class Sums:
    """Entries of any number of blocks, added up."""

    def __init__(self) -> None:
        self.refused = 0
        self._counts: dict[str, dict[Labels, int]] = {}
        self._parts: dict[str, dict[Labels, _Parts]] = {}

    def add(self, reader: Reader) -> None:
        """Add what a block holds now."""
        self.refused += reader.refused
        turn_s = 0.0
        for entry, counts, sum_s in reader.read():
            turn_s = give_way(turn_s)
            if entry.edges_s:
                parts = self._parts.setdefault(entry.metric, {})
                parts.setdefault(entry.labels, _Parts()).add(entry.edges_s, counts, sum_s)
            else:
                self._add_counts(entry, counts)

    def _add_counts(self, entry: Entry, counts: Sequence[int]) -> None:
        held = self._counts.setdefault(entry.metric, {})
        if not entry.each:
            held[entry.labels] = held.get(entry.labels, 0) + counts[0]
            return
        for last, count in zip(entry.each, counts, strict=True):
            if count:  # most outcomes never happen: a series begins with its first
                labels = (*entry.labels, last)
                held[labels] = held.get(labels, 0) + count

    def samples(self) -> Samples:
        """By metric and labels."""
        found: Samples = {metric: dict(counts) for metric, counts in self._counts.items()}
        turn_s = 0.0
        for metric, parts in self._parts.items():
            held = found[metric] = {}
            for labels, part in parts.items():
                turn_s = give_way(turn_s)
                held[labels] = part.merged()
        return found


class Blocks:
    """Readers of all workers' blocks. What a dead worker has counted stays counted."""

    def __init__(self, readers: Iterable[Reader] = ()) -> None:
        self._readers = list(readers)

    def add(self, reader: Reader) -> None:
        """One more block. It stays when its writer dies: a worker that takes its place brings a new one."""
        self._readers.append(reader)

    def sums(self) -> Sums:
        """Everything, as of now. May be called while writers write, in any thread but one at a time."""
        total = Sums()
        for reader in self._readers:
            total.add(reader)
        return total
