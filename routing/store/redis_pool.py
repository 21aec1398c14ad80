"""What gateways add up, in Redis."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from routing.store import redis_pool_scripts as scripts
from routing.store.pool import Entry, Flush, Judged, Lease, LeaseLost, Sums

KEPT_ENTRIES = 10_000  # evidence that nobody has judged yet, approximately
KEPT_MS = 3_600_000  # evidence, marks of flushes, the lease and what was judged, after the last word of anybody
TOTALS_KEPT_MS = 7 * 24 * 3_600_000  # sums, after the last of them changed
READ_ENTRIES = 500  # evidence read at once
READ_PLACES = 200  # sums read at once

Command = Callable[..., Awaitable[Any]]


class RedisPool:
    """Implements Pool.

    Args:
        command: Sends one command within its time.
    """

    def __init__(self, command: Command) -> None:
        self._command = command

    async def flush(self, flush: Flush) -> bool:
        """See Pool."""
        keys = [scripts.flushed_key(flush.replica), scripts.EVIDENCE]
        keys += [scripts.totals_key(sums.place) for sums in flush.totals]
        limits = (KEPT_MS, flush.evidence, KEPT_ENTRIES, KEPT_MS, TOTALS_KEPT_MS)
        steps = chain.from_iterable(_steps(sums) for sums in flush.totals)
        return bool(await self._eval(scripts.FLUSH, keys, flush.replica, flush.sequence, *limits, *steps))

    async def lease(self) -> Lease | None:
        """See Pool."""
        return _lease(await self._command("HMGET", scripts.LEASE, "fence", "holder", "beat"))

    async def take(self, holder: str, seen: Lease | None) -> Lease:
        """See Pool."""
        fence, beat = (seen.fence, seen.beat) if seen else ("", "")
        found = _lease(await self._eval(scripts.TAKE, [scripts.LEASE], holder, fence, beat, KEPT_MS))
        assert found is not None
        return found

    async def leave(self, held: Lease) -> None:
        """See Pool."""
        await self._eval(scripts.LEAVE, [scripts.LEASE], held.holder, held.fence)

    async def beat(self, held: Lease, after: str, judged: Judged) -> Sequence[Entry]:
        """See Pool."""
        keys = [scripts.LEASE, scripts.EVIDENCE, scripts.JUDGED]
        states = chain.from_iterable(judged.states.items())
        said = (held.holder, held.fence, KEPT_MS, judged.position, f"({after}" if after else "-", READ_ENTRIES)
        verdict, entries = await self._eval(scripts.BEAT, keys, *said, *states)
        if verdict != b"held":
            raise LeaseLost
        return [_entry(name, dict(zip(flat[::2], flat[1::2], strict=True))) for name, flat in entries]

    async def judged(self) -> Judged:
        """See Pool."""
        position, flat = await self._eval(scripts.JUDGED_SO_FAR, [scripts.LEASE, scripts.JUDGED])
        return Judged(position.decode(), {m.decode(): s for m, s in zip(flat[::2], flat[1::2], strict=True)})

    async def states(self, models: Sequence[str]) -> Mapping[str, bytes]:
        """See Pool."""
        found = await self._command("HMGET", scripts.JUDGED, *models) if models else []
        return {model: state for model, state in zip(models, found, strict=True) if state}

    async def totals(self, places: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """See Pool."""
        found: list[Mapping[str, float]] = []
        for begin in range(0, len(places), READ_PLACES):
            keys = [scripts.totals_key(place) for place in places[begin : begin + READ_PLACES]]
            found += [_numbers(flat) for flat in await self._eval(scripts.TOTALS, keys)]
        return found

    async def _eval(self, script: str, keys: Sequence[str], *args: Any) -> Any:
        return await self._command("EVAL", script, len(keys), *keys, *args)


def _steps(sums: Sums) -> Iterator[Any]:
    yield len(sums.added) + len(sums.largest)
    for name, value in sums.added.items():
        yield from ("i" if isinstance(value, int) else "f", name, value)
    for name, value in sums.largest.items():
        yield from ("m", name, value)


def _lease(found: Sequence[bytes | None]) -> Lease | None:
    fence, holder, beat = found
    return Lease(int(fence or 0), holder.decode(), int(beat or 0)) if holder else None


def _entry(name: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    return Entry(name.decode(), fields[b"replica"].decode(), fields[b"data"])


def _numbers(flat: Sequence[bytes]) -> Mapping[str, float]:
    return {name.decode(): _number(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _number(value: bytes) -> float:
    return int(value) if value.lstrip(b"-").isdigit() else float(value)
