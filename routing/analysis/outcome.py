"""How an attempt ended, and who is charged for it."""

from enum import StrEnum


class Kind(StrEnum):
    """How one attempt on a backend ended."""

    OK = "ok"
    MALFORMED = "malformed"  # a body that nobody could read: the caller's, whatever version was drawn
    REJECTED = "rejected"  # a 4xx other than 408 and 429: the request is refused, rightly or not
    ERROR = "error"  # 5xx, 408, 429, or an exception inside the model
    TIMEOUT = "timeout"  # no complete answer within the attempt's time
    BROKEN = "broken"  # the connection or the framing broke in the middle
    CONTRACT = "contract"  # a complete answer that is not what the version promises
    UNREACHABLE = "unreachable"  # no connection could be made, or the version is not loaded: not ready, never a fault
    OVERLOADED = "overloaded"  # a bound of our own was hit before the backend was asked
    INTERNAL = "internal"  # our own code broke on this request: a bug, and never the version's fault
    CANCELLED = "cancelled"  # the client left first

    __hash__ = str.__hash__  # that of Enum is a Python function, and kinds are looked up on the request path


class Source(StrEnum):
    """Whose doing an outcome is, before stable was asked."""

    NOBODY = "nobody"
    CALLER = "caller"
    GATEWAY = "gateway"
    BACKEND = "backend"


SOURCE = {
    Kind.OK: Source.NOBODY,
    Kind.MALFORMED: Source.CALLER,
    Kind.REJECTED: Source.CALLER,
    Kind.ERROR: Source.BACKEND,
    Kind.TIMEOUT: Source.BACKEND,
    Kind.BROKEN: Source.BACKEND,
    Kind.CONTRACT: Source.BACKEND,
    Kind.UNREACHABLE: Source.GATEWAY,
    Kind.OVERLOADED: Source.GATEWAY,
    Kind.INTERNAL: Source.GATEWAY,
    Kind.CANCELLED: Source.CALLER,
}


class Charge(StrEnum):
    """What a canary's outcome means for its guard."""

    NONE = "none"
    CHARGED = "charged"
    SHARED = "shared"  # stable failed the same request: counted, nobody is charged


def kind_of_status(status: int) -> Kind:
    """Kind of a complete HTTP answer by its status."""
    if status < 400:
        return Kind.OK
    if status >= 500 or status in {408, 429}:
        return Kind.ERROR
    return Kind.REJECTED


def is_fault(kind: Kind) -> bool:
    """Whether the backend is at fault, as far as one attempt can tell."""
    return SOURCE[kind] is Source.BACKEND


_FINAL = frozenset({Kind.OK, Kind.MALFORMED, Kind.CANCELLED})


def may_fail_over(kind: Kind) -> bool:
    """Whether stable should be asked instead: all but a good answer, an unreadable body, a client that left."""
    return kind not in _FINAL


def charge(canary: Kind, stable: Kind | None) -> Charge:
    """Decide whether a canary's attempt is charged (docs/architecture.md, "Who is charged").

    Args:
        canary: How the canary's attempt ended.
        stable: How stable answered the same request, ``None`` when it could not be asked.

    Returns:
        ``CHARGED`` for a fault that stable does not share. A refusal (4xx) is charged only on stable's proof
        that the request was good; a fault on a request that stable refuses is the caller's.
    """
    if is_fault(canary):
        if stable is None or stable is Kind.OK:
            return Charge.CHARGED
        return Charge.SHARED if is_fault(stable) else Charge.NONE
    if canary is Kind.REJECTED and stable is Kind.OK:
        return Charge.CHARGED
    return Charge.NONE
