"""What is held of the store: whatever comes newer goes down to the workers, and to all that follow routes."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.control.disk_copy import Table
from gateway.control.measures import Measures
from gateway.control.messages import Forget, StoredDocument
from gateway.control.workers import Workers
from routing.store import Record


class Follows(Protocol):
    """Keeps something of each route."""

    def follow(self, model: str, data: bytes) -> None:
        """The store holds this document."""

    def forget(self, model: str) -> None:
        """The store holds nothing of it any more."""


class Holding:
    """Keeps the table, and those who serve and judge by it, at the newest that was seen.

    Args:
        table: What is held.
        workers: Serve it.
        measures: Counts what comes.
        followers: Told after the workers.
        on_forget: Called when a route is gone.
    """

    def __init__(
        self,
        table: Table,
        workers: Workers,
        measures: Measures,
        followers: Sequence[Follows],
        on_forget: Callable[[], None],
    ) -> None:
        self._table = table
        self._workers = workers
        self._measures = measures
        self._followers = followers
        self._on_forget = on_forget

    def all(self) -> list[Record]:
        """Every route as it was last seen in the store."""
        return [Record(model, revision, data, "") for model, (revision, data) in self._table.documents.items()]

    def known(self, model: str) -> int:
        """Newest revision of a route that this replica has seen; 0: none."""
        held = self._table.documents.get(model)
        return held[0] if held else 0

    def written(self, record: Record) -> None:
        """A lower is in the store; what is newer may have come first."""
        if record.revision > self.known(record.model):
            self.changed(record)

    def changed(self, record: Record) -> None:
        """The store holds this record: serve it, unless a newer one came first."""
        if record.revision >= self.known(record.model) and self._table.documents.get(record.model) != (
            record.revision,
            record.document,
        ):
            self.push(record.model, record.revision, record.document)

    def push(self, model: str, revision: int, data: bytes) -> None:
        """Serve this document, whatever is held."""
        self._table.documents[model] = (revision, data)
        self._workers.down(StoredDocument(model, revision, data))  # first: everything else may wait
        self._measures.seen(model, revision, data)
        for follower in self._followers:
            follower.follow(model, data)

    def forget(self, model: str) -> None:
        """The store holds nothing of it any more."""
        del self._table.documents[model]
        self._measures.forgotten(model)
        for follower in self._followers:
            follower.forget(model)
        self._workers.forget(model)
        self._workers.down(Forget(model))
        self._on_forget()
