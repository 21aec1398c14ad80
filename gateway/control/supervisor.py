"""One for a machine: keeps the workers in step with the store, and the store in step with what guards did."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any

from gateway.control.disk_copy import DiskCopy, Table
from gateway.control.homing import RETRY_FIRST_S, RETRY_MAX_S, Homing
from gateway.control.judge import Judge
from gateway.control.measures import Measures
from gateway.control.messages import (
    Applied,
    Counted,
    Forget,
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
    RoutingError,
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
        self._check_s = check_s
        self._table = Table()
        self._saving = Saving(copy, self._table, self._spawn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._reading = asyncio.Lock()
        self._writes = Writes(store, wall)
        self._measures = Measures(monotonic)
        self._is_read = asyncio.Event()
        self._is_one_of_several = workers_expected > 1
        self.judge = Judge(self._lowered)
        self.unready: Mapping[str, Mapping[str, str]] = {}
        self.sharing = Sharing(store.pool, replica_id, self._lowered)
        self.reach = Reach(stale_after_s, lambda is_stale: workers.down(StoreAway(is_stale)))
        self._homing = Homing(self._table, self._saving, self._writes, self.reach, lambda: self._is_open, self._written)
        self._presence = Presence(store, replica_id, self._served)
        self._presence.on_heard = lambda said, at_s: self._measures.heard(said["applied"], at_s)
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
            store_id = await self._reach()
            position = await self._store.position()
            if copied is not None:
                await self._writes.offer(copied)
            await self._writes.seed(seeds)
            self._table.store_id = store_id
            await self._compare()
        except (StoreUnavailable, OutcomeUnknown, PositionLost) as error:
            if copied is None or not copied.documents:
                await self._store.close()
                raise CannotStart(
                    f"store.url, which TURNOUT_STORE__URL overrides: {error}; there is no disk copy to serve from"
                ) from None
            self.reach.lost(error)
            log.warning("serving from the disk copy", extra={"routes": len(copied.documents)})
            for model, (revision, data) in copied.documents.items():
                self._push(model, revision, data)
            position = ""
        for lower in self._table.lowers.values():
            self._spawn(self._homing.bring(lower))
        self._is_read.set()
        self._spawn(self._follow(position))
        self._spawn(self._check())
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
        self._changed(record)
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
                if self._is_one_of_several:
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

    # Down from the store.

    async def _follow(self, position: str) -> None:
        """Watch the store for ever; after each loss read everything again."""
        wait_s = RETRY_FIRST_S
        while True:
            try:
                position = position or await self._read_again()
                async with aclosing(self._store.watch(position)) as changes:
                    self.reach.found()
                    wait_s = RETRY_FIRST_S
                    async for change in changes:
                        position = change.position
                        if change.at_s is not None:
                            self._measures.written(change.model, change.revision, change.at_s)
                        if self.known(change.model) != change.revision:
                            await self._fetch(change.model)
            except PositionLost:
                position = ""
                log.warning("the store's changes were lost: reading everything again")
                await asyncio.sleep(RETRY_FIRST_S)
            except (StoreUnavailable, OutcomeUnknown) as error:
                position = ""
                self.reach.lost(error)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
            except Exception:  # the top of a task that must not end: without it edits are taken and never served
                position = ""
                log.exception("the watch broke: reading everything again")
                await asyncio.sleep(RETRY_MAX_S)

    async def _read_again(self) -> str:
        """Everything, after the watch was lost; the position to watch from."""
        async with self._reading:
            store_id = await self._reach()
            position = await self._store.position()
            await self._writes.offer(self._table)
            self._table.store_id = store_id
            await self._compare()
        self._presence.change()
        return position

    async def _check(self) -> None:
        """Compare everything now and then, should the watch have missed something."""
        while True:
            await asyncio.sleep(self._check_s)
            try:
                async with self._reading:
                    await self._compare()
                    self.reach.found()
            except PositionLost:
                continue  # the watch will see it too, and offers our copy before anything is taken from there
            except RoutingError as error:
                self.reach.lost(error)
            except Exception:  # the top of a task that must not end
                log.exception("the table could not be compared with the store")

    async def _reach(self) -> str:
        """Open the store if need be; its identity, which is ours only after our copy was offered to it."""
        if not self._is_open:
            await self._store.open()
            self._is_open = True
        store_id = await self._store.ping()
        if self._table.store_id not in {"", store_id}:
            log.warning("the store holds other contents than before", extra={"store_id": store_id})
        self.reach.found()
        return store_id

    async def _compare(self) -> None:
        """Bring the workers to what the store holds.

        Raises:
            PositionLost: It holds other contents than those that our copy was last offered to.
        """
        records = await self._store.list()
        if await self._store.ping() != self._table.store_id:
            raise PositionLost(self._table.store_id)
        for record in records:
            self._changed(record)
        gone = set(self._table.documents) - {record.model for record in records}
        for model in gone:
            del self._table.documents[model]
            self._measures.forgotten(model)
            self.judge.forget(model)
            self.sharing.forget(model)
            self._workers.forget(model)
            self._workers.down(Forget(model))
            self._presence.change()
        if self._table.documents or gone:
            await self._saving.now()

    async def _fetch(self, model: str) -> None:
        record = await self._store.load(model)
        if record is not None:
            self._changed(record)
            self._saving.soon()

    def _written(self, record: Record) -> None:
        """A lower is in the store; what is newer may have come first."""
        if record.revision > self.known(record.model):
            self._changed(record)

    def _changed(self, record: Record) -> None:
        """The store holds this record: serve it, unless a newer one came first."""
        if record.revision >= self.known(record.model) and self._table.documents.get(record.model) != (
            record.revision,
            record.document,
        ):
            self._push(record.model, record.revision, record.document)

    def _push(self, model: str, revision: int, data: bytes) -> None:
        self._table.documents[model] = (revision, data)
        self._workers.down(StoredDocument(model, revision, data))  # first: everything else may wait
        self._measures.seen(model, revision, data)
        self.judge.follow(model, data)
        self.sharing.follow(model, data)

    def held(self) -> list[Record]:
        """Every route as it was last seen in the store."""
        return [Record(model, revision, data, "") for model, (revision, data) in self._table.documents.items()]

    def known(self, model: str) -> int:
        """Newest revision of a route that this replica has seen; 0: none."""
        held = self._table.documents.get(model)
        return held[0] if held else 0

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
