"""Asking Triton servers for statistics and their repository's index when somebody wants to know, and not too often."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from weakref import WeakValueDictionary

from gateway.backends.probe import NotReady
from gateway.backends.repository import Repository
from gateway.protocol.words import Numbers, States

log = logging.getLogger(__name__)
ASK_S = 0.5  # for one question, connecting included; nobody waits longer
KEPT_S = 1.0  # an answer serves for so long
ASKED_AT_ONCE = 32  # questions of a worker on their way
WORDS_KEPT = 1024  # questions whose last answers are remembered
NOT_IN_TIME = f"did not answer within {ASK_S:g} s"


class Question(NamedTuple):
    """What a server is asked.

    Attributes:
        url: Of the server.
        about: ``index`` or ``statistics``.
        model: Whose statistics, by the server's name; empty: of all.
    """

    url: str
    about: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """What a server said last.

    Attributes:
        at_s: When, on the loop's clock.
        index: State and reason of its versions, when asked for that.
        statistics: Numbers of its versions, when asked for those.
        problem: Why there is nothing, as a sentence that starts with a verb; else empty.
    """

    at_s: float
    index: States
    statistics: Numbers
    problem: str


class Inquiry:
    """Asks servers, each one thing at a time, and keeps what they said for ``KEPT_S``.

    Must be made on the loop that serves.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last: dict[Question, Words] = {}
        self._asked: dict[Question, asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(ASKED_AT_ONCE)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by server, while it is asked

    @property
    def now_s(self) -> float:
        """The clock of ``Words.at_s``."""
        return self._loop.time()

    def last(self, question: Question) -> Words | None:
        """What was said last, however long ago; ``None`` when nothing was, or it is forgotten."""
        return self._last.get(question)

    def refresh(self, questions: Iterable[Question]) -> list[asyncio.Task[None]]:
        """Begin to ask what was not asked within ``KEPT_S``; returns what is on its way."""
        waiting = []
        for question in dict.fromkeys(questions):
            task = self._asked.get(question)
            if task is None and not self._is_fresh(question, KEPT_S):
                task = self._asked[question] = self._loop.create_task(self._ask(question))
                task.add_done_callback(partial(self._ended, question))
            if task is not None:
                waiting.append(task)
        return waiting

    async def words(self, questions: Iterable[Question]) -> dict[Question, Words]:
        """What the servers say now, or said within ``KEPT_S``; takes ``ASK_S`` at most."""
        asked = list(dict.fromkeys(questions))
        if waiting := self.refresh(asked):
            await asyncio.wait(waiting, timeout=ASK_S)
        late = Words(self._loop.time(), {}, {}, NOT_IN_TIME)
        within_s = KEPT_S + ASK_S
        return {question: self._last[question] if self._is_fresh(question, within_s) else late for question in asked}

    async def close(self) -> None:
        """Ask nothing any more."""
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, question: Question, _task: asyncio.Task[None]) -> None:
        del self._asked[question]

    def _is_fresh(self, question: Question, within_s: float) -> bool:
        last = self._last.get(question)
        return last is not None and self._loop.time() - last.at_s < within_s

    async def _ask(self, question: Question) -> None:
        index: States = {}
        statistics: Numbers = {}
        problem = ""
        try:
            lock = self._locks.setdefault(question.url, asyncio.Lock())
            async with asyncio.timeout(ASK_S), lock, self._turn:
                server = Repository(question.url)
                if question.about == "index":
                    index = await server.index(ASK_S)
                else:
                    statistics = await server.statistics(question.model, ASK_S)
        except NotReady as said:
            problem = str(said)
        except TimeoutError:
            problem = NOT_IN_TIME
        except Exception:  # the top of a task; the words say so
            log.exception("a server could not be asked", extra={"url": question.url})
            problem = "could not be asked"
        if len(self._last) >= WORDS_KEPT and question not in self._last:
            self._last.pop(next(iter(self._last)))
        self._last[question] = Words(self._loop.time(), index, statistics, problem)
