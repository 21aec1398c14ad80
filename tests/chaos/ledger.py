"""What became of every request: nothing is sent that is not accounted for."""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum


class Fate(Enum):
    """How a request ended, as its client saw it."""

    RIGHT = "right"
    HONEST = "honest error"  # 502, 503, 504 with a sentence
    WRONG = "wrong"
    BROKEN = "broken"  # the connection ended before the whole answer was there
    UNANSWERED = "unanswered"
    GIVEN_UP = "given up"  # by the client itself


@dataclass(slots=True)
class Entry:
    """One request; times in seconds of ``time.monotonic()``.

    Attributes:
        port: The client's own of its connection.
        sentence: What was wrong, or what the error said.
    """

    number: int
    replica: int
    port: int
    sent_s: float
    fate: Fate = Fate.UNANSWERED
    done_s: float = 0.0
    status: int = 0
    version: str = ""
    attempts: str = ""
    revision: int = 0
    sentence: str = ""

    @property
    def took_s(self) -> float:
        """From the send to the end."""
        return self.done_s - self.sent_s


@dataclass(frozen=True, slots=True)
class Death:
    """A gateway process that was ended on purpose: what was in flight on it may be lost.

    Attributes:
        ports: Of clients, connected to it; ``None``: to any process of the replica while it was down.
    """

    replica: int
    at_s: float
    ports: frozenset[int] | None = None


@dataclass(slots=True)
class Ledger:
    """All requests of a drill, and the deaths that excuse some of them.

    Attributes:
        turned_away: Connections refused by replicas that were down; their requests went to another one.
        nowhere: Requests for which no replica took a connection; they were not sent.
    """

    entries: list[Entry] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    up_again: dict[int, float] = field(default_factory=dict)
    turned_away: int = 0
    nowhere: int = 0

    def counts(self) -> Counter[str]:
        """By fate."""
        return Counter(entry.fate.value for entry in self.entries)

    def is_excused(self, entry: Entry) -> bool:
        """Whether it was in flight on a gateway process when that was killed."""
        return any(self._covers(death, entry) for death in self.deaths)

    def _covers(self, death: Death, entry: Entry) -> bool:
        if death.replica != entry.replica or entry.done_s < death.at_s:
            return False
        if death.ports is not None:
            return entry.port in death.ports
        return entry.sent_s <= self.up_again.get(death.replica, float("inf"))

    def problems(self, *, honest: int = 0) -> list[str]:
        """What must not be: a wrong answer, none at all, more than ``honest`` errors, a break without an excuse."""
        found = [
            f"request {entry.number} to replica {entry.replica}: {entry.fate.value}, {entry.sentence}"
            for entry in self.entries
            if entry.fate in (Fate.WRONG, Fate.UNANSWERED) or (entry.fate is Fate.BROKEN and not self.is_excused(entry))
        ]
        said = [entry for entry in self.entries if entry.fate is Fate.HONEST]
        if len(said) > honest:
            found.append(f"{len(said)} errors, at most {honest} were to be expected; the first: {said[0].sentence}")
        if self.nowhere:
            found.append(f"{self.nowhere} requests found no replica at all")
        return found
