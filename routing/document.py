"""The stored unit of one route: the table and all that governs it, written by one compare-and-set."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from routing.intervals import Pieces
from routing.table import ModelName, Route, Value, VersionName

SCHEMA = 1

# A value of a key that this release does not know, and the way to it: keys, and versions inside lists.
Unknown = tuple[tuple[str, ...], Any]


class Latch(Value):
    """The refusal to give a version weight until a person releases it.

    Attributes:
        at: When, in UTC, ISO 8601.
        reason: Sentence for people.
        evidence: Numbers behind the decision; ``None`` when a person decided.
    """

    at: str
    reason: str
    evidence: Any = None


class Override(Value):
    """A person's word that a version may answer although it breaks stable's contract.

    Attributes:
        at: When, in UTC, ISO 8601.
        actor: Who.
        reason: Why.
        breaks: What it covers, a sentence each; a break that is not among them is not covered.
    """

    at: str
    actor: str
    reason: str
    breaks: tuple[str, ...]


class Guard(Value):
    """What keeps versions of this route from traffic, and what was done about it.

    Attributes:
        latched: By version, why it gets no weight.
        overridden: By version, the breaks of stable's contract that a person has accepted.
    """

    latched: dict[VersionName, Latch] = Field(default_factory=dict)
    overridden: dict[VersionName, Override] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_the_usual(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """``overridden`` only where there is one, as in documents that were written before it was there."""
        plain: dict[str, Any] = dump(self)
        if not self.overridden:
            del plain["overridden"]
        return plain


class Intervals(Value):
    """Which keys each version but stable owns, in ppm; ``draw`` changes the salt."""

    draw: Annotated[int, Field(strict=True, ge=0)] = 0
    pieces: dict[VersionName, Pieces] = Field(default_factory=dict)


class RouteDocument(Value):
    """One route as it is stored.

    Attributes:
        schema_version: Of the document's form; written as ``schema``.
        revision: 1 for the first, one more with each change; survives deletion.
        change_id: 128 bits in hex that name the change that made this revision.
        route: The part that people edit.
        intervals: Who owns which keys.
        epoch: By version, the revision since which its evidence may be added up.
        guard: Latches.
        rollout: Plain data of a rollout, ``None`` without one.
        unknown: Keys of a newer release, kept to be written back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Annotated[int, Field(strict=True, alias="schema")] = SCHEMA
    revision: Annotated[int, Field(strict=True, ge=1)]
    change_id: str
    route: Route
    intervals: Intervals
    epoch: dict[VersionName, int]
    guard: Guard = Guard()
    rollout: dict[str, Any] | None = None
    unknown: tuple[Unknown, ...] = Field(default=(), exclude=True)

    @property
    def model(self) -> str:
        """The model whose route this is."""
        return self.route.model

    @property
    def salt(self) -> str:
        """What keys are hashed with, before the purpose is added."""
        sticky = self.route.sticky
        return (sticky.salt if sticky else None) or self.route.model


class DeletedRoute(Value):
    """What stays of a deleted route: its revision counter and its latches."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Annotated[int, Field(strict=True, alias="schema")] = SCHEMA
    revision: Annotated[int, Field(strict=True, ge=1)]
    change_id: str
    model: ModelName
    deleted: Literal[True] = True
    guard: Guard = Guard()


Document = RouteDocument | DeletedRoute


def utc(at_s: float) -> str:
    """A wall-clock time as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
