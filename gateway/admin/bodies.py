"""Bodies: bounded, strict JSON, with every problem at once."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import Request

from gateway.admin.query import MAX_REASON_CHARS
from gateway.errors import BodyTooLarge
from routing.errors import InvalidDocument, Problem
from routing.parse import parse_json
from routing.table import VersionName

MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 32
LARGEST_NUMBER = 1 << 53  # beyond it, JSON numbers lose digits in most programs

Reason = Annotated[str, StringConstraints(strict=True, pattern=r"\S", max_length=MAX_REASON_CHARS)]


class Body(BaseModel):
    """Base of all bodies but a route's: frozen, unknown keys refused."""

    # The regex engine of the standard library knows the look-ahead that keeps ``..`` out of names.
    model_config = ConfigDict(frozen=True, extra="forbid", regex_engine="python-re")


class VerbBody(Body):
    """Body of ``flip`` and ``release``: why, and which version; all of them when none is named."""

    reason: Reason
    version: VersionName | None = None


class RestoreBody(Body):
    """Body of ``restore``: which revision's route comes back, and why."""

    revision: Annotated[int, Field(strict=True, ge=1, le=LARGEST_NUMBER)]
    reason: Reason


SomeBody = TypeVar("SomeBody", bound=Body)


async def read_json(request: Request) -> Any:
    """The body as plain data.

    Raises:
        BodyTooLarge: It is larger than ``MAX_BODY_BYTES``.
        InvalidDocument: It is no JSON, repeats a key, or holds what cannot be written back as JSON.
    """
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    plain = parse_json(bytes(received))
    if problems := list(_unfit(plain)):
        raise InvalidDocument(problems)
    return plain


def parse_body(kind: type[SomeBody], plain: Any) -> SomeBody:
    """Check a verb's body.

    Raises:
        InvalidDocument: With all problems.
    """
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        raise InvalidDocument([_problem(d["loc"], d["type"], d["msg"]) for d in error.errors()]) from None


def _problem(place: tuple[int | str, ...], kind: str, message: str) -> Problem:
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place)
    if kind == "extra_forbidden":
        return Problem(pointer, "unknown_key", "unknown key: check the spelling, unknown keys are never ignored")
    if kind == "missing":
        return Problem(pointer, "missing", "this key is required")
    if place == ("reason",):
        return Problem(pointer, "reason", f"say why in 1 to {MAX_REASON_CHARS} characters")
    return Problem(pointer, "type", message)


def _unfit(plain: Any) -> Iterator[Problem]:
    """What the parser lets pass and no store could hold: lone surrogates, endless numbers, towers of brackets."""
    waiting: list[tuple[str, Any, int]] = [("", plain, 0)]
    while waiting:
        at, value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            yield Problem(at, "depth", f"nothing is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(value, dict):
            for key, item in value.items():
                if _is_text(key):
                    waiting.append((f"{at}/{key.replace('~', '~0').replace('/', '~1')}", item, depth + 1))
                else:
                    yield Problem(at, "text", "a key holds half a surrogate pair, which is no text")
        elif isinstance(value, list):
            waiting += [(f"{at}/{index}", item, depth + 1) for index, item in enumerate(value)]
        elif isinstance(value, str) and not _is_text(value):
            yield Problem(at, "text", "this holds half a surrogate pair, which is no text")
        elif isinstance(value, (int, float)) and (
            not math.isfinite(value) if isinstance(value, float) else abs(value) > LARGEST_NUMBER
        ):
            yield Problem(at, "range", "this number is too large")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
