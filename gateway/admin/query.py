"""Parameters behind the question mark: known ones only, so that a misspelled ``dry_run`` changes nothing."""

from urllib.parse import parse_qsl

from starlette.requests import Request

from gateway.errors import BadRequest

MAX_REASON_CHARS = 1000
FLAGS = {"1": True, "true": True, "0": False, "false": False}


def parameters(request: Request, *known: str) -> dict[str, str]:
    """The query's parameters.

    Raises:
        BadRequest: One is not among ``known``, or stands twice.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            offer = f"this path knows {', '.join(known)}" if known else "this path knows none"
            raise BadRequest(f"the parameter {name[:100]!r} is unknown: {offer}")
        if name in found:
            raise BadRequest(f"the parameter {name!r} stands twice")
        found[name] = value
    return found


def flag(found: dict[str, str], name: str) -> bool:
    """A parameter that is 1 or 0; 0 when it is not there."""
    try:
        return FLAGS[found.get(name, "0")]
    except KeyError:
        raise BadRequest(f"the parameter {name!r} is 1 or 0") from None


def count(found: dict[str, str], name: str, default: int, largest: int) -> int:
    """A parameter that is a number from 1 to ``largest``."""
    text = found.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= largest):
        raise BadRequest(f"the parameter {name!r} is a number from 1 to {largest}")
    return int(text)


def reason(request: Request, found: dict[str, str]) -> str:
    """Why, from the parameter ``reason`` or the header ``x-turnout-reason``; empty when neither is given."""
    header = request.headers.get("x-turnout-reason", "").encode("latin-1").decode("utf-8", "replace")
    text = found.get("reason", header).strip()
    if len(text) > MAX_REASON_CHARS:
        raise BadRequest(f"a reason has {MAX_REASON_CHARS} characters at most")
    return text


def key_bytes(request: Request) -> bytes:
    """The parameter ``key``, byte for byte: keys are bytes and need not be UTF-8."""
    parameters(request, "key")
    query: str = request.scope["query_string"].decode("latin-1")
    values = dict(parse_qsl(query, keep_blank_values=True, encoding="latin-1"))
    if not values.get("key"):
        raise BadRequest("say which key to explain: ?key=VALUE, the value of the sticky header or cookie")
    return values["key"].encode("latin-1")
