"""What gateways add up, in Redis."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from routing.store import redis_pool_scripts as scripts
from routing.store.junk import Junk
from routing.store.pool import Entry, EvidenceLost, Flush, Judged, Lease, LeaseLost, Sums
from routing.store.redis_side import HASH, STREAM, STRING, SideKeys

KEPT_ENTRIES = 10_000  # evidence that nobody has judged yet, approximately
KEPT_MS = 3_600_000  # evidence, marks of flushes, the lease and what was judged, after the last word of anybody
TOTALS_KEPT_MS = 7 * 24 * 3_600_000  # sums, after the last of them changed
READ_ENTRIES = 500  # evidence read at once
READ_PLACES = 200  # sums read at once

LEASE_KIND = {scripts.LEASE: HASH}
JUDGED_KIND = {scripts.JUDGED: HASH}
POSITION = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
INTEGER_DIGITS = 15  # of a count; sums with more are numbers with a fraction
BEGUN_AGAIN, POSITION_LOST = 1, 2  # what BEAT answers of the stream


class RedisPool:
    """Implements Pool.

    Args:
        side: Sends commands.
        junk: Told of what is not of ours.
    """

    def __init__(self, side: SideKeys, junk: Junk) -> None:
        self._side = side
        self.junk = junk

    async def flush(self, flush: Flush) -> bool:
        """See Pool."""
        kinds = {scripts.flushed_key(flush.replica): STRING, scripts.EVIDENCE: STREAM}
        kinds |= {scripts.totals_key(sums.place): HASH for sums in flush.totals}
        limits = (KEPT_MS, flush.evidence, KEPT_ENTRIES, KEPT_MS, TOTALS_KEPT_MS)
        steps = chain.from_iterable(_steps(sums) for sums in flush.totals)
        is_new, mended, begun = await self._side.run(
            scripts.FLUSH, kinds, flush.replica, flush.sequence, *limits, *steps
        )
        if mended:
            self.junk.tell("{turnout}:totals", f"{mended} sums were no counts: they begin anew")
        if begun:
            self._used_up()
        return bool(is_new)

    async def lease(self) -> Lease | None:
        """See Pool."""
        found = await self._side.send(LEASE_KIND, "HMGET", scripts.LEASE, "fence", "holder", "beat")
        lease = _lease(found)
        if lease is None and found[1]:
            self.junk.tell(scripts.LEASE, "it is no lease: anybody's")
        return lease

    async def take(self, holder: str, seen: Lease | None) -> Lease:
        """See Pool."""
        fence, beat = (seen.fence, seen.beat) if seen else ("", "")
        found = _lease(await self._side.run(scripts.TAKE, LEASE_KIND, holder, fence, beat, KEPT_MS))
        assert found is not None
        return found

    async def leave(self, held: Lease) -> None:
        """See Pool."""
        await self._side.run(scripts.LEAVE, LEASE_KIND, held.holder, held.fence)

    async def beat(self, held: Lease, after: str, judged: Judged) -> Sequence[Entry]:
        """See Pool."""
        kinds = {**LEASE_KIND, scripts.EVIDENCE: STREAM, **JUDGED_KIND}
        states = chain.from_iterable(judged.states.items())
        said = (held.holder, held.fence, KEPT_MS, judged.position, after, READ_ENTRIES)
        verdict, entries, *stream = await self._side.run(scripts.BEAT, kinds, *said, *states)
        if verdict != b"held":
            raise LeaseLost
        if stream == [POSITION_LOST]:
            self.junk.tell(
                scripts.LEASE, "its position is beyond the evidence, which begins anew: what was unread is lost"
            )
            raise EvidenceLost
        if stream == [BEGUN_AGAIN]:
            self._used_up()
        return [self._entry(name, dict(zip(flat[::2], flat[1::2], strict=True))) for name, flat in entries]

    async def judged(self) -> Judged:
        """See Pool."""
        position, flat = await self._side.run(scripts.JUDGED_SO_FAR, LEASE_KIND | JUDGED_KIND)
        at = position.decode(errors="replace")
        if at and POSITION.fullmatch(at) is None:
            self.junk.tell(scripts.LEASE, "its position is none: all evidence is judged anew")
            return Judged("")
        return Judged(at, {m.decode(errors="replace"): s for m, s in zip(flat[::2], flat[1::2], strict=True)})

    async def states(self, models: Sequence[str]) -> Mapping[str, bytes]:
        """See Pool."""
        found = await self._side.send(JUDGED_KIND, "HMGET", scripts.JUDGED, *models) if models else []
        return {model: state for model, state in zip(models, found, strict=True) if state}

    async def totals(self, places: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """See Pool."""
        found: list[Mapping[str, float]] = []
        for begin in range(0, len(places), READ_PLACES):
            some = places[begin : begin + READ_PLACES]
            kinds = {scripts.totals_key(place): HASH for place in some}
            by_key = dict(zip(kinds, await self._side.run(scripts.TOTALS, kinds), strict=True))
            found += [self._numbers(by_key[scripts.totals_key(place)]) for place in some]
        return found

    def _used_up(self) -> None:
        self.junk.tell(scripts.EVIDENCE, "its last id is used up: it begins anew, what was unread may be lost")

    def _entry(self, name: bytes, fields: Mapping[bytes, bytes]) -> Entry:
        """One that is not of ours has no evidence, and is read past."""
        if b"replica" not in fields or b"data" not in fields:
            self.junk.tell(scripts.EVIDENCE, "an entry without evidence: skipped")
            return Entry(name.decode(), "", b"[]")
        return Entry(name.decode(), fields[b"replica"].decode(errors="replace"), fields[b"data"])

    def _numbers(self, flat: Sequence[bytes]) -> Mapping[str, float]:
        found = {}
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            try:
                found[name.decode()] = _number(value)
            except ValueError:
                self.junk.tell("{turnout}:totals", "a sum is no count: skipped")
        return found


def _steps(sums: Sums) -> Iterator[Any]:
    yield len(sums.added) + len(sums.largest)
    for name, value in sums.added.items():
        yield from ("i" if isinstance(value, int) else "f", name, value)
    for name, value in sums.largest.items():
        yield from ("m", name, value)


def _lease(found: Sequence[bytes | None]) -> Lease | None:
    """None where nobody holds it, or it is not of ours."""
    fence, holder, beat = found
    if not holder or not _is_count(fence) or not _is_count(beat):
        return None
    return Lease(int(fence or 0), holder.decode(errors="replace"), int(beat or 0))


def _is_count(value: bytes | None) -> bool:
    return value is not None and value.isdigit() and len(value) < 16


def _number(value: bytes) -> float:
    number = int(value) if value.isdigit() and len(value) <= INTEGER_DIGITS else float(value)
    if not 0 <= number < math.inf:  # no number at all is neither
        raise ValueError(value)
    return number
