"""The blocks of all workers, living and dead, added up."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from gateway.metrics.block import Entry, Reader
from gateway.metrics.families import FAMILIES
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


class Kept:
    """What blocks held whose writers are dead: as large as the number of their series, however many died."""

    def __init__(self) -> None:
        self.refused = 0
        self._held: dict[Entry, tuple[list[int], float]] = {}

    def with_(self, reader: Reader) -> "Kept":
        """Another one, with what a block holds added."""
        fresh = Kept()
        fresh.refused = self.refused + reader.refused
        fresh._held = dict(self._held)
        for entry, counts, sum_s in reader.read():
            before, before_s = fresh._held.get(entry, ([0] * len(counts), 0.0))
            added = [mine + theirs for mine, theirs in zip(before, counts, strict=True)]
            fresh._held[entry] = (added, before_s + sum_s)
        return fresh

    def read(self) -> list[tuple[Entry, Sequence[int], float]]:
        """As a block's reader."""
        return [(entry, counts, sum_s) for entry, (counts, sum_s) in self._held.items()]


class Sums:
    """Entries of any number of blocks, added up."""

    def __init__(self) -> None:
        self.refused = 0
        self._counts: dict[str, dict[Labels, int]] = {}
        self._parts: dict[str, dict[Labels, _Parts]] = {}

    def add(self, reader: Reader | Kept) -> None:
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
    """Readers of all workers' blocks. What a dead worker has counted stays counted.

    The state is replaced, never changed: a thread that adds up keeps what it began with.
    """

    def __init__(self, readers: Iterable[Reader] = ()) -> None:
        self._state: tuple[Kept, tuple[Reader, ...]] = (Kept(), tuple(readers))

    def add(self, reader: Reader) -> None:
        """One more block."""
        kept, readers = self._state
        self._state = (kept, (*readers, reader))

    def retire(self, reader: Reader) -> None:
        """Its writer is dead: keep what it has counted, and let go of the memory."""
        kept, readers = self._state
        self._state = (kept.with_(reader), tuple(held for held in readers if held is not reader))

    def sums(self) -> Sums:
        """Everything, as of now. May be called while writers write, in any thread but one at a time."""
        total = Sums()
        kept, readers = self._state
        total.add(kept)
        for reader in readers:
            total.add(reader)
        return total


def across(parts: Sequence[Samples]) -> Samples:
    """Gauges of several workers as those of one gateway, each family in its own way."""
    total: Samples = {}
    for samples in parts:
        for name, values in samples.items():
            held = total.setdefault(name, {})
            for labels, value in values.items():
                held[labels] = _across(name, held[labels], value) if labels in held else value
    return total


def _across(name: str, mine: Value, theirs: Value) -> Value:
    assert not isinstance(mine, Buckets)
    assert not isinstance(theirs, Buckets)
    match FAMILIES[name].across:
        case "max":
            return max(mine, theirs)
        case "min":
            return min(mine, theirs)
        case _:
            return mine + theirs
