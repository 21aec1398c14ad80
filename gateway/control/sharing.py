"""What a gateway shares with others on its store: evidence, the judge over all, totals. Nothing where it is alone."""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from gateway.control.collector import Collector
from gateway.control.joint import JointJudge
from gateway.control.kept import state_in
from gateway.control.messages import Counted, Lowered, Summed
from gateway.metrics.families import FLUSHES, JUDGES, NEWS_DROPPED, STORE_JUNK
from gateway.metrics.totals import Samples
from gateway.runtime.totals import is_possible, nested
from routing.store import Pool

TOLD, REPEATED = "taken", "repeated"
TOTALS = "{turnout}:totals"


class Sharing:
    """Collector and judge of one gateway; with ``None`` as pool it does nothing.

    Args:
        pool: Where gateways add up.
        replica_id: Name of this one.
        lower: Receives what a guard in a worker would have sent.
    """

    def __init__(self, pool: Pool | None, replica_id: str, lower: Callable[[Lowered], None]) -> None:
        self._pool = pool
        self._collector = Collector(pool, replica_id) if pool else None
        self._joint = JointJudge(pool, replica_id, lower) if pool else None

    def tasks(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What runs as long as the gateway."""
        if self._collector is not None and self._joint is not None:
            yield self._collector.keep()
            yield self._joint.keep()

    def hear(self, message: Counted | Summed) -> None:
        """News of a worker."""
        if self._collector is None:
            return
        if isinstance(message, Counted):
            self._collector.hear(message)
        else:
            self._collector.add(message)

    def lowered(self, message: Lowered) -> None:
        """A guard of this gateway was first."""
        if self._joint is not None:
            self._joint.judge.lowered(message)

    def follow(self, model: str, data: bytes) -> None:
        """The store holds this document."""
        if self._joint is not None:
            self._joint.judge.follow(model, data)

    def forget(self, model: str) -> None:
        """There is no such route any more."""
        if self._joint is not None:
            self._joint.judge.forget(model)

    async def leave(self) -> None:
        """Bring what there is, and give the lease back.

        Raises:
            StoreUnavailable: As the store.
        """
        if self._collector is not None and self._joint is not None:
            await self._collector.flush()
            await self._joint.leave()

    async def totals(self, places: Sequence[str]) -> Mapping[str, Mapping[str, Any]] | None:
        """Sums of all gateways by place, this one's latest news among them; ``None`` where nobody shares.

        Raises:
            StoreUnavailable: As the store.
        """
        if self._pool is None or self._collector is None:
            return None
        await self._collector.flush()
        found = await self._pool.totals(places)
        return {place: self._nested(place, numbers) for place, numbers in zip(places, found, strict=True)}

    def _nested(self, place: str, numbers: Mapping[str, float]) -> Mapping[str, Any]:
        possible = {name: number for name, number in numbers.items() if is_possible(name, number)}
        if len(possible) < len(numbers):
            self.unreadable(place)
        try:
            return nested(possible)
        except (AttributeError, TypeError):  # a name that is the beginning of another
            self.unreadable(place)
            return {}

    async def judged(self, models: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """By model and version, what the judge over all gateways knows.

        Raises:
            StoreUnavailable: As the store.
        """
        if self._pool is None:
            return {}
        kept = await self._pool.states(models)
        states = {model: state_in(model, data, self._pool.junk) for model, data in kept.items()}
        return {model: state for model, state in states.items() if state is not None}

    def unreadable(self, model: str) -> None:
        """The sums of a route were none of ours."""
        if self._pool is not None:
            self._pool.junk.tell(TOTALS, f"sums of {model!r} that no gateway adds up: left out")

    def samples(self) -> Samples:
        """What was flushed, and whether this one judges, for the metrics."""
        if self._pool is None or self._collector is None or self._joint is None:
            return {}
        return {
            FLUSHES.name: {(TOLD,): self._collector.flushed, (REPEATED,): self._collector.repeated},
            NEWS_DROPPED.name: {(): self._collector.dropped},
            STORE_JUNK.name: {(): self._pool.junk.found},
            JUDGES.name: {(): int(self._joint.held is not None)},
        }
