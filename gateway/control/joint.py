"""The judge over all gateways on a store: one of them holds a lease and steps the detectors for all."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic

import orjson

from gateway.control.collector import counted
from gateway.control.judge import Judge
from gateway.control.kept import state_in
from gateway.control.messages import Lowered
from routing.analysis.slots import SLOT_S
from routing.errors import StoreUnavailable
from routing.store import Entry, EvidenceLost, Judged, Lease, LeaseLost, Pool

log = logging.getLogger("turnout.judge")

STEP_S = 0.1  # between two steps of the judge, and two beats of its lease
LEASE_S = 2.0  # a lease whose beat has stood still for so long, by the watcher's own clock, is taken
LOOK_S = 0.25  # how often the others look at it
AWAY_S = 10.0  # how long it counts that a gateway said its stable is not ready
SOURCES_MIN = 2  # gateways without which there is nothing to merge


def slot_of(position: str) -> int:
    """When an entry came, by the store's clock, as a count of slots that all gateways share."""
    return int(int(position.partition("-")[0]) / (SLOT_S * 1_000))


class LeaseWatch:
    """Says when a lease may be taken. No clock but the watcher's own is asked, and only for how long.

    Args:
        own: Name of the watcher.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._seen: Lease | None = None
        self._since_s = 0.0

    def may_take(self, seen: Lease | None, now_s: float) -> bool:
        """Whether nobody holds it, the watcher does, or its beat has not moved for ``LEASE_S``."""
        if seen is None or seen.holder == self._own:
            return True
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        return now_s - self._since_s >= LEASE_S

    def blinked(self) -> None:
        """The store could not be asked: nothing is known of the time in between."""
        self._seen = None


class JointJudge:
    """Watches the lease; while it is held here, judges what all gateways flush.

    Args:
        pool: Where gateways add up.
        replica_id: Name of this one.
        lower: Receives what a guard in a worker would have sent.

    Attributes:
        judge: Steps the detectors; knows only what was flushed since the lease is held here.
        held: The lease, while it is held here.
        changes: How often it came here.
    """

    def __init__(self, pool: Pool, replica_id: str, lower: Callable[[Lowered], None]) -> None:
        self._pool = pool
        self._replica_id = replica_id
        self._watch = LeaseWatch(replica_id)
        self._position = ""
        self.judge = Judge(lower, over="gateways", least=SOURCES_MIN, steps_itself=False, away_s=AWAY_S)
        self.held: Lease | None = None
        self.changes = 0

    async def keep(self) -> None:
        """Watch and judge for ever."""
        while True:
            try:
                await (self._step() if self.held else self._look())
            except StoreUnavailable:
                self._watch.blinked()
            except EvidenceLost:
                self._position = ""
            except LeaseLost:
                log.warning("another gateway judges now", extra={"fence": self.held.fence if self.held else 0})
                self._put_down()
            except Exception:  # the top of a task that must not end
                log.exception("the judge over all gateways broke: it begins anew from what was kept")
                self._put_down()
            await asyncio.sleep(STEP_S if self.held else LOOK_S)

    async def leave(self) -> None:
        """Give the lease back, so that nobody has to wait for it."""
        held, self.held = self.held, None
        if held is not None:
            await self._pool.leave(held)

    def _put_down(self) -> None:
        self.held = None
        self._watch.blinked()
        self.judge.begin_anew()

    async def _look(self) -> None:
        seen = await self._pool.lease()
        if not self._watch.may_take(seen, monotonic()):
            return
        held = await self._pool.take(self._replica_id, seen)
        if held.holder == self._replica_id:
            await self._go_on(held)

    async def _go_on(self, held: Lease) -> None:
        """Begin where the one before has kept what it judged."""
        judged = await self._pool.judged()
        self.judge.begin_anew()
        for model, state in judged.states.items():
            self.judge.restore(model, state_in(model, state, self._pool.junk) or {})
            if not self.judge.state(model):  # of a route that is gone, or of epochs that are over
                self.judge.changed.add(model)
        self._position = judged.position
        self.held = held
        self.changes += 1
        log.info("this gateway judges for all", extra={"fence": held.fence})

    async def _step(self) -> None:
        assert self.held is not None
        changed = set(self.judge.changed)
        states = {model: self._state(model) for model in changed}
        entries = await self._pool.beat(self.held, self._position, Judged(self._position, states))
        self.judge.changed -= changed
        self._hear(entries)
        self.judge.step()

    def _state(self, model: str) -> bytes:
        state = self.judge.state(model)
        return orjson.dumps(state) if state else b""

    def _hear(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.judge.hear(entry.replica, counted(entry.evidence), slot_of(entry.position))
            self._position = entry.position
