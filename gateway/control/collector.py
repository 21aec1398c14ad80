"""Brings what the workers have seen and counted to the store that gateways share, each piece exactly once."""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from gateway.control.messages import Count, Counted, Summed
from routing.analysis.guard import FRESH_MAX
from routing.analysis.slots import SLOTS_MAX
from routing.errors import StoreUnavailable
from routing.store import Flush, Pool, Sums

log = logging.getLogger("turnout.collector")

FLUSH_S = 0.1  # from the first news to the flush that brings them
RETRY_MAX_S = 1.0
ROWS_A_FLUSH = 500  # of evidence and of totals each; more go with the next
WAITING_MAX = 10_000  # rows of each kind that wait while the store is away; news of further ones are dropped

Row = tuple[str, str, int, bool]
Numbers = dict[str, int | float]
News = tuple[int, list[int | None]]  # attempts, and the keys of those that were hits


class _Evidence:
    """What the workers have said of one version since the last flush."""

    def __init__(self) -> None:
        self._has_stable = True
        self._deltas: dict[str, News] = {}
        self._slots: dict[int, News] = {}

    def add(self, count: Count) -> None:
        self._has_stable = count.stable_is_ready
        for name, (attempts, keys) in count.deltas.items():
            self._deltas[name] = _sum(self._deltas.get(name), attempts, keys)
        for slot, attempts, keys in count.slots:
            self._slots[slot] = _sum(self._slots.get(slot), attempts, keys)
        while len(self._slots) > SLOTS_MAX:
            del self._slots[min(self._slots)]

    def as_plain(self) -> list[Any]:
        return [self._has_stable, self._deltas, [[slot, *news] for slot, news in self._slots.items()]]


def _sum(before: News | None, attempts: int, keys: list[int | None]) -> News:
    told, fresh = before or (0, [])
    return told + attempts, [*fresh, *keys][:FRESH_MAX]


class Collector:
    """Adds up what comes and flushes it, when there is something, ``FLUSH_S`` after the first of it came.

    A flush has a number, and the store takes each number of a gateway once. The next one is made when the one before
    is known to be taken, so a flush may be sent again as often as it takes. What comes meanwhile is added up.

    Args:
        pool: Where gateways add up.
        replica_id: Name that no other process ever has.

    Attributes:
        flushed: Flushes that were taken in.
        repeated: Times that one was sent again.
        dropped: Rows of news that found no room.
    """

    def __init__(self, pool: Pool, replica_id: str) -> None:
        self._pool = pool
        self._replica_id = replica_id
        self._evidence: dict[Row, _Evidence] = {}
        self._totals: dict[str, tuple[Numbers, Numbers]] = {}
        self._in_doubt: Flush | None = None
        self._sequence = 0
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self.flushed = self.repeated = self.dropped = 0

    def hear(self, message: Counted) -> None:
        """Evidence of a worker, for the judge over all gateways."""
        for count in message.counts:
            row = (count.model, count.version, count.epoch, count.is_stable)
            if row not in self._evidence and len(self._evidence) >= WAITING_MAX:
                self.dropped += 1
                continue
            self._evidence.setdefault(row, _Evidence()).add(count)
        self._news.set()

    def add(self, message: Summed) -> None:
        """Counts of a worker, for the totals."""
        for place, added, largest in message.sums:
            if place not in self._totals and len(self._totals) >= WAITING_MAX:
                self.dropped += 1
                continue
            sums, most = self._totals.setdefault(place, ({}, {}))
            for name, number in added.items():
                sums[name] = sums.get(name, 0) + number
            for name, number in largest.items():
                most[name] = max(most.get(name, number), number)
        self._news.set()

    async def keep(self) -> None:
        """Flush for ever."""
        wait_s = FLUSH_S
        while True:
            await self._news.wait()
            await asyncio.sleep(wait_s)
            try:
                await self.flush()
                wait_s = FLUSH_S
            except StoreUnavailable:
                wait_s = min(wait_s * 2, RETRY_MAX_S)
            except Exception:  # the top of a task that must not end
                log.exception("a flush broke")
                wait_s = RETRY_MAX_S

    async def flush(self) -> None:
        """Bring what there is now.

        Raises:
            StoreUnavailable: What was not brought is kept.
        """
        async with self._turn:
            if self._in_doubt is not None:
                self.repeated += 1
                await self._send(self._in_doubt)
            if self._evidence or self._totals:
                self._sequence += 1
                self._in_doubt = self._made()
                await self._send(self._in_doubt)
            if not self._evidence and not self._totals:
                self._news.clear()

    async def _send(self, flush: Flush) -> None:
        await self._pool.flush(flush)
        self._in_doubt = None
        self.flushed += 1

    def _made(self) -> Flush:
        rows = list(islice(self._evidence, ROWS_A_FLUSH))
        evidence = [[*row, *self._evidence.pop(row).as_plain()] for row in rows]
        places = list(islice(self._totals, ROWS_A_FLUSH))
        totals = tuple(Sums(place, *self._totals.pop(place)) for place in places)
        return Flush(self._replica_id, self._sequence, orjson.dumps(evidence) if evidence else b"", totals)


def counted(evidence: bytes) -> Counted:
    """What ``Collector`` made of the words of its workers; rows of another release are left out."""
    return Counted(tuple(_counts(evidence)))


def _news(attempts: Any, keys: Iterable[Any]) -> News:
    if (number := int(attempts)) < 0:
        raise ValueError(f"{number} attempts")
    return number, [None if key is None else int(key) for key in keys]


def _counts(evidence: bytes) -> Iterator[Count]:
    try:
        for model, version, epoch, is_stable, is_ready, deltas, *more in orjson.loads(evidence):
            plain = {name: _news(*told) for name, told in deltas.items()}
            slots = tuple((int(slot), *_news(*told)) for slot, *told in (more[0] if more else ()))
            yield Count(str(model), str(version), int(epoch), bool(is_stable), bool(is_ready), plain, slots)
    except (ValueError, TypeError, AttributeError):
        log.warning("evidence of another gateway cannot be read")
