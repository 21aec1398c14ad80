"""Conditions of the gateway, and the one table that maps conditions to HTTP statuses."""

from collections.abc import Mapping, Sequence

import orjson

from routing import errors as routing_errors


class GatewayError(Exception):
    """Base of all conditions raised by ``gateway``; the text is the sentence that clients read."""


class BadRequest(GatewayError):
    """The request cannot be understood or does not fit the version's signature."""


class BodyTooLarge(GatewayError):
    """The body is larger than the plane's bound."""


class BodyTimeout(GatewayError):
    """The body did not arrive within the request's deadline."""


class UnsupportedEncoding(GatewayError):
    """The body is encoded in a way that is not understood."""


class ModelNotFound(GatewayError):
    """There is no route for the model, and no version was pinned."""


class VersionNotFound(GatewayError):
    """The pinned version does not exist."""


class VersionNotReady(GatewayError):
    """The version exists and cannot answer now."""


class Overloaded(GatewayError):
    """A bound of the gateway was hit; the client may come back."""


class DeadlineExceeded(GatewayError):
    """No version answered within the request's time."""


class PreconditionRequired(GatewayError):
    """A write does not say which revision it is based on."""


class DamagedDocument(GatewayError):
    """What the store or the history holds is not what was written."""


class ContractBroken(GatewayError):
    """A version would get traffic and does not keep stable's contract.

    Attributes:
        breaks: By pointer into the route and version, everything that breaks; a problem's pointer leads into metadata.
    """

    def __init__(self, model: str, breaks: Mapping[tuple[str, str], Sequence[routing_errors.Problem]]) -> None:
        named = ", ".join(repr(version) for _, version in breaks)
        first, *more = [problem.message for found in breaks.values() for problem in found]
        several = f" (and {len(more)} more)" if more else ""
        super().__init__(
            f"version {named} of {model!r} breaks stable's contract: {first}{several}; "
            "override=contract with a reason accepts it"
        )
        self.breaks = dict(breaks)


class LoopDetected(GatewayError):
    """The request has been through this gateway already."""


class InvalidSettings(GatewayError):
    """Settings that cannot be served with. ``problems`` lists everything that is wrong."""

    def __init__(self, problems: Sequence[routing_errors.Problem]) -> None:
        super().__init__("; ".join(f"{p.pointer}: {p.message}" for p in problems))
        self.problems = tuple(problems)


class CannotStart(GatewayError):
    """The process cannot serve; the sentence says what to do."""


STATUS: dict[type[Exception], int] = {
    BadRequest: 400,
    BodyTooLarge: 413,
    BodyTimeout: 408,
    UnsupportedEncoding: 415,
    ModelNotFound: 404,
    VersionNotFound: 404,
    VersionNotReady: 503,
    Overloaded: 503,
    DeadlineExceeded: 504,
    LoopDetected: 508,
    PreconditionRequired: 428,
    ContractBroken: 409,
    DamagedDocument: 500,
    routing_errors.InvalidDocument: 422,
    routing_errors.RouteNotFound: 404,
    routing_errors.StaleRevision: 412,
    routing_errors.VersionLatched: 409,
    routing_errors.RolloutRunning: 409,
    routing_errors.NothingToFlip: 409,
    routing_errors.NewerSchema: 409,
    routing_errors.StoreUnavailable: 503,
    routing_errors.OutcomeUnknown: 503,
}


def status_of(error: Exception) -> int:
    """HTTP status of a condition; 500 for one that is not in the table."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def error_body(sentence: str) -> bytes:
    """The protocol's error object."""
    return orjson.dumps({"error": sentence})
