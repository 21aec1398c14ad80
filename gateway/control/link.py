"""What supervisor and worker tell each other, and the link for when both share one process."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from routing.errors import Problem


@dataclass(frozen=True, slots=True)
class Lowered:
    """Up: a guard in this worker lowered a version."""

    model: str
    version: str
    epoch: int
    reason: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Applied:
    """Up: the worker serves this revision."""

    model: str
    revision: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Up: the worker cannot serve this revision and keeps the last good one."""

    model: str
    revision: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """Down: serve this document, as it is stored."""

    model: str
    revision: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """Down: the store holds nothing for this model any more."""

    model: str


@dataclass(frozen=True, slots=True)
class Lower:
    """Down: send no draws to this version in this epoch; another worker's guard, or one before a restart, tripped."""

    model: str
    version: str
    epoch: int


Up = Lowered | Applied | Refused
Down = StoredDocument | Forget | Lower


class Link:
    """Both ends in one process. Messages are delivered in order, on the loop, never inside the sender's call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.on_up: Callable[[Up], None] = _unheard
        self.on_down: Callable[[Down], None] = _unheard

    def up(self, message: Up) -> None:
        """From the worker to the supervisor."""
        self._loop.call_soon(lambda: self.on_up(message))

    def down(self, message: Down) -> None:
        """From the supervisor to the worker."""
        self._loop.call_soon(lambda: self.on_down(message))


def _unheard(_message: object) -> None:
    return
