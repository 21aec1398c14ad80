"""One for a machine: keeps the workers in step with the store, and the store in step with what guards did."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from gateway.control.disk_copy import DiskCopy, Table
from gateway.control.following import Following
from gateway.control.holding import Follows, Holding
from gateway.control.homing import Homing
from gateway.control.judge import Judge
from gateway.control.measures import Measures
from gateway.control.messages import (
    Applied,
    Counted,
    Lower,
    Lowered,
    Refused,
    Serve,
    Serving,
    StoreAway,
    StoredDocument,
    Summed,
    Up,
)
from gateway.control.presence import Presence
from gateway.control.reach import Reach
from gateway.control.saving import Saving
from gateway.control.sharing import Sharing
from gateway.control.workers import Member, Workers
from gateway.control.writes import Writes
from gateway.errors import CannotStart
from gateway.metrics.totals import Samples
from routing.errors import (
    OutcomeUnknown,
    PositionLost,
    StoreUnavailable,
)
from routing.store import Record, Store
from routing.table import Route

log = logging.getLogger("turnout.supervisor")

STALE_AFTER_S = 10.0
STOP_S = 3.0  # an end must not wait for a store that hangs


class Supervisor:
    """Owner of the store, the watch and the disk copy.

    Args:
        store: Not yet open.
        workers: Those that are linked, now and later.
        copy: The disk copy.
        wall: Wall clock, for records only.
        check_s: Period of the full comparison with the store.
        replica_id: Name of this process among those on the store.
        workers_expected: How many there are when all are there; what one alone has seen needs no judge.
        stale_after_s: How long the store may be away until that is said.

    Attributes:
        reach: Whether the store is there.
        judge: Judges what all workers saw together.
        unready: By model and version, why stable answers its share here.
        sharing: What is shared with other gateways on the store.
    """

    def __init__(
        self,
        store: Store,
        workers: Workers,
        copy: DiskCopy,
        wall: Callable[[], float],
        *,
        check_s: float,
        replica_id: str,
        workers_expected: int = 1,
        stale_after_s: float = STALE_AFTER_S,
    ) -> None:
        self._store = store
        self._workers = workers
        self._copy = copy
        self._table = Table()
        self._saving = Saving(copy, self._table, self._spawn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes = Writes(store, wall)
        self._measures = Measures(monotonic)
        self._is_read = asyncio.Event()
        self._is_judged = workers_expected > 1 or store.pool is not None
        self.judge = Judge(
            self._lowered,
            least=2 if workers_expected == 1 else 1,
            is_last=lambda: store.pool is None or not self.reach.is_there,
        )
        self.unready: Mapping[str, Mapping[str, str]] = {}
        self.sharing = Sharing(store.pool, replica_id, self._lowered)
        self.reach = Reach(stale_after_s, lambda is_stale: workers.down(StoreAway(is_stale)))
        self._presence = Presence(store, replica_id, self._served)
        self._presence.on_heard = lambda said, at_s: self._measures.heard(said["applied"], at_s)
        followers: list[Follows] = [self.judge, self.sharing]
        self._holding = Holding(self._table, workers, self._measures, followers, self._presence.change)
        self._following = Following(
            *(store, self._table, self._holding, self._writes, self._saving, self.reach, self._measures),
            check_s=check_s,
            on_read=self._presence.change,
        )
        homing = self._table, self._saving, self._writes, self.reach, lambda: self._following.is_open
        self._homing = Homing(*homing, self._holding.written)
        workers.on_up = self._hear
        workers.on_join = lambda member: self._spawn(self._greet(member))
        workers.on_change = self._presence.change

    async def start(self, seeds: Iterable[Route]) -> None:
        """Read the table, from the store or else from the disk copy, create seeds, and begin to watch.

        Raises:
            CannotStart: Neither the store nor a disk copy is there.
        """
        copied = self._copy.read()
        if copied is not None:
            self._table.store_id, self._table.lowers = copied.store_id, copied.lowers
        try:
            store_id = await self._following.opened()
            position = await self._store.position()
            if copied is not None:
                await self._writes.offer(copied)
            await self._writes.seed(seeds)
            self._table.store_id = store_id
            await self._following.compare()
        except (StoreUnavailable, OutcomeUnknown, PositionLost) as error:
            if copied is None or not copied.documents:
                await self._store.close()
                raise CannotStart(
                    f"store.url, which TURNOUT_STORE__URL overrides: {error}; there is no disk copy to serve from"
                ) from None
            self.reach.lost(error)
            log.warning("serving from the disk copy", extra={"routes": len(copied.documents)})
            for model, (revision, data) in copied.documents.items():
                self._holding.push(model, revision, data)
            position = ""
        for lower in self._table.lowers.values():
            self._spawn(self._homing.bring(lower))
        self._is_read.set()
        self._spawn(self._following.keep(position))
        self._spawn(self._following.check())
        self._spawn(self._presence.keep())
        for task in self.sharing.tasks():
            self._spawn(task)

    async def stop(self) -> None:
        """End the watch and leave the store."""
        self.judge.stop()
        self.reach.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_S)
            if late:
                log.error("tasks of the supervisor did not end in time", extra={"tasks": len(late)})
        if self._saving.is_unsaved:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await self._saving.now()
        if self.reach.is_there:
            await self._leave()
        await self._store.close()

    async def _leave(self) -> None:
        """Say good-bye, so that nobody waits for this gateway."""
        with suppress(StoreUnavailable):
            await self.sharing.leave()
        await self._presence.leave()

    def overview(self) -> dict[str, Any]:
        """What the whole process says of itself."""
        return {
            "store": {
                "kind": self._store.kind,
                "reachable": self.reach.is_there,
                "problem": self.reach.problem,
                "away_s": round(self.reach.away_s, 3),
                "stale": self.reach.is_stale,
                "store_id": self._table.store_id,
            },
            "unsent_lowers": [f"{model}/{version}" for model, version in self._table.lowers],
            "replica": self._presence.replica_id,
            **self._served(),
        }

    @property
    def store_id(self) -> str:
        """Of the store that the table is from."""
        return self._table.store_id

    @property
    def stored(self) -> list[bytes]:
        """Every document as it is stored, those that cannot be read too."""
        return [data for _, data in self._table.documents.values()]

    @property
    def refused(self) -> dict[str, Refused]:
        """By model, what a worker could not serve and why."""
        return self._workers.refused()

    async def keep(self, record: Record) -> None:
        """A person's edit was stored: serve it, and have it on the disk before anybody is told of it."""
        self._holding.changed(record)
        await self._saving.now()

    def _served(self) -> dict[str, Any]:
        refused = {model: refusal.revision for model, refusal in self.refused.items()}
        return {"applied": self._workers.applied(), "refused": refused, "unready": self.unready}

    def note_unready(self, unready: Mapping[str, Mapping[str, str]]) -> None:
        """Versions that get no draws here, for the word in the store."""
        if unready != self.unready:
            self.unready = unready
            self._presence.change()

    def samples(self) -> Samples:
        """What it has seen, for the metrics."""
        measured = self._measures.samples(
            is_reachable=self.reach.is_there,
            is_stale=self.reach.is_stale,
            losses=self.reach.losses,
            refused=len(self.refused),
            unsent=len(self._table.lowers),
        )
        return measured | self.sharing.samples()

    # To and from the workers.

    async def _greet(self, member: Member) -> None:
        """Send a worker the whole table and what was lowered; then it may serve."""
        await self._is_read.wait()
        for model in list(self._table.documents):
            if (held := self._table.documents.get(model)) is not None:
                member.send(StoredDocument(model, *held))
                await member.end.drained()
        for lower in self._table.lowers.values():
            member.send(Lower(lower.model, lower.version, lower.epoch))
        member.send(StoreAway(self.reach.is_stale))
        member.send(Serve())

    def _hear(self, member: Member, message: Up) -> None:
        match message:
            case Applied():
                self._measures.applied(message.model, self._workers.serves(message.model))
                self._presence.change()
            case Refused():
                self._presence.change()
            case Serving():
                for model, revision in self._workers.applied().items():
                    self._measures.applied(model, revision)
                self._presence.change()
            case Counted():
                self.sharing.hear(message)
                if self._is_judged:
                    self.judge.hear(member.number, message)
            case Summed():
                self.sharing.hear(message)
            case Lowered():
                self.judge.lowered(message)
                self.sharing.lowered(message)
                self._lowered(message)

    def _lowered(self, message: Lowered) -> None:
        """A guard tripped: its siblings first, then the disk, then the store."""
        self._table.lowers[message.model, message.version] = message
        self._workers.down(Lower(message.model, message.version, message.epoch))
        self._spawn(self._homing.bring(message))

    def held(self) -> list[Record]:
        """Every route as it was last seen in the store."""
        return self._holding.all()

    def known(self, model: str) -> int:
        """Newest revision of a route that this replica has seen; 0: none."""
        return self._holding.known(model)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # the top of a task
        log.exception("a task of the supervisor crashed")
        raise
