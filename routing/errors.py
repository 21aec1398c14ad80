"""One class per condition that a caller of ``routing`` would treat differently."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document.

    Attributes:
        pointer: JSON Pointer (RFC 6901) to the offending place, ``""`` for the whole.
        code: Stable word for programs, such as ``"weights"`` or ``"unknown_key"``.
        message: Sentence for people that says what to do.
    """

    pointer: str
    code: str
    message: str


class RoutingError(Exception):
    """Base of all conditions raised by ``routing``."""


class InvalidDocument(RoutingError):
    """Plain data that is no valid document. ``problems`` lists everything that is wrong, not the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{p.pointer or '/'}: {p.message}" for p in problems))
        self.problems = tuple(problems)


class RouteNotFound(RoutingError):
    """No document is stored for ``model``."""

    def __init__(self, model: str) -> None:
        super().__init__(f"there is no route for model {model!r}")
        self.model = model


class StaleRevision(RoutingError):
    """Somebody else changed the document first. ``current`` is the revision to read again (0: none)."""

    def __init__(self, expected: int, current: int) -> None:
        super().__init__(f"revision {expected} is stale, the store holds {current}: read it, then change it")
        self.expected = expected
        self.current = current


class VersionLatched(RoutingError):
    """A flip latched this version: it gets no weight until a person releases it."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(
            f"version {version!r} of {model!r} is latched by a flip: release it with a reason before giving it weight"
        )
        self.model = model
        self.version = version


class RolloutRunning(RoutingError):
    """A rollout owns the weights of this route."""

    def __init__(self, model: str) -> None:
        super().__init__(f"a rollout of {model!r} is running and owns its weights: pause it before editing them")
        self.model = model


class NothingToFlip(RoutingError):
    """The verb names a version it cannot act on, or there is no canary to act on."""


class NewerSchema(RoutingError):
    """A document was written by a newer release. Its weights and latches still apply; the rest is not read."""

    def __init__(self, model: str, schema: int, known: int) -> None:
        super().__init__(
            f"the document of {model!r} has schema {schema}, this release knows up to {known}: "
            "its weights and latches apply, change it with the newer release"
        )
        self.model = model
        self.schema = schema


class StoreUnavailable(RoutingError):
    """The store cannot be reached; nothing was changed."""


class OutcomeUnknown(RoutingError):
    """The store went away in the middle of a write: it may or may not have happened."""

    def __init__(self, model: str) -> None:
        super().__init__(f"outcome unknown: the store went away while {model!r} was written; read before you repeat")
        self.model = model


class PositionLost(RoutingError):
    """The store no longer knows this place in its changes: read everything, then watch from the new position."""

    def __init__(self, position: str) -> None:
        super().__init__(
            f"position {position!r} is not in this store (flushed, restored or trimmed): "
            "read all routes, then watch from the new position"
        )
        self.position = position
