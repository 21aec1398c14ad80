"""People who edit while parts die: each owns a number in the route, and no acknowledged number may be lost."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.chaos.replica import Replica
from tests.chaos.subject import MODEL

PAUSE_S = 0.03
REGISTERS = ("timeout_ms", "max_body_kb")  # of the shadow: they change nothing that a client sees, and no epoch


@dataclass(slots=True)
class Operator:
    """One person at one replica.

    Attributes:
        value: Last tried.
        acknowledged: Last one that was answered with 200.
        answers: How often, by status; 0: no answer came.
        revisions: Acknowledged ones, in order.
    """

    replica: Replica
    register: str
    value: int
    acknowledged: int = 0
    answers: dict[int, int] = field(default_factory=dict)
    revisions: list[int] = field(default_factory=list)
    last_s: float = 0.0

    def edit(self) -> None:
        """Read, raise the own number by one, write on the revision that was read."""
        document = self.replica.read(f"/routes/{MODEL}")
        if document is None:
            return
        self.value += 1
        shadow = {**document["route"]["shadows"][0], self.register: self.value}
        match = {"if-match": f'"{document["revision"]}"'}
        answer = self.replica.ask("PATCH", f"/routes/{MODEL}?reason=drill", {"shadows": [shadow]}, match)
        status = 0 if answer is None else answer.status
        self.answers[status] = self.answers.get(status, 0) + 1
        if answer is not None and status == 200:
            self.acknowledged, self.last_s = self.value, time.monotonic()
            self.revisions.append(int(answer.json()["revision"]))


class Operators:
    """All of them, each on a thread, until they are told to stop."""

    def __init__(self, replicas: Sequence[Replica], document: Any, *, pause_s: float = PAUSE_S) -> None:
        shadow = document["route"]["shadows"][0]
        self.people = [
            Operator(replica, register, int(shadow[register]))
            for replica, register in zip(replicas, REGISTERS, strict=False)
        ]
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(one,)) for one in self.people]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Let everybody finish the edit in hand."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, operator: Operator) -> None:
        while not self._stop.wait(self._pause_s):
            operator.edit()

    @property
    def writes(self) -> int:
        """Acknowledged ones."""
        return sum(len(one.revisions) for one in self.people)

    def problems(self, document: Any) -> list[str]:
        """Acknowledged writes that are not in the document, and revisions that were given twice."""
        shadow = document["route"]["shadows"][0]
        found = [
            f"lost: {one.register} was acknowledged as {one.acknowledged} by replica {one.replica.number}, "
            f"and is {shadow[one.register]}"
            for one in self.people
            if one.acknowledged > shadow[one.register]
        ]
        given = [revision for one in self.people for revision in one.revisions]
        twice = sorted({revision for revision in given if given.count(revision) > 1})
        if twice:
            found.append(f"revisions acknowledged twice: {twice[:5]}")
        if not self.writes:
            found.append("no write was acknowledged at all: the drill says nothing about writes")
        return found
