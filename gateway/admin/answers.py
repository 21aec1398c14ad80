"""Answers: JSON, and one shape for each condition."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.conditions import etag
from gateway.admin.edge import internal_error
from gateway.errors import ContractBroken, GatewayError, status_of
from routing import errors

RETRY_AFTER_S = 1
CODES: Mapping[type[Exception], str] = {
    ContractBroken: "contract",
    errors.VersionLatched: "latched",
    errors.RolloutRunning: "rollout_running",
    errors.NothingToFlip: "nothing_to_flip",
    errors.NewerSchema: "newer_schema",
    errors.StoreUnavailable: "store_unavailable",
    errors.OutcomeUnknown: "outcome_unknown",
}


def answer(
    plain: Any, status: int = 200, *, revision: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Plain data as JSON; ``revision`` becomes the ``ETag``."""
    extra = dict(headers or {})
    if revision:
        extra["etag"] = etag(revision)
    return Response(orjson.dumps(plain), status, extra, media_type="application/json")


async def refuse(_request: Request, error: Exception) -> Response:
    """The answer to a condition of ours."""
    assert isinstance(error, (errors.RoutingError, GatewayError))
    status = status_of(error)
    body: dict[str, Any] = {"error": str(error)}
    if isinstance(error, errors.InvalidDocument):
        return answer(problems_body(error), status)
    if isinstance(error, errors.StaleRevision):
        body = {"error": _stale(error), "code": "stale", "revision": error.current or None}
        return answer(body, status, revision=error.current)
    if isinstance(error, ContractBroken):
        body["problems"] = [*_breaks(error)]
    if code := next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), None):
        body["code"] = code
    return answer(body, status, headers={"retry-after": str(RETRY_AFTER_S)} if status == 503 else None)


async def refuse_http(request: Request, error: Exception) -> Response:
    """The answer to a path or a method that is not served."""
    assert isinstance(error, HTTPException)
    sentence = str(error.detail)
    if error.status_code == 404:
        sentence = "there is nothing at this path"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        sentence = f"{request.method[:32]} has no meaning here, {allowed} have"
    return answer({"error": sentence}, error.status_code, headers=error.headers)


async def refuse_unexpected(request: Request, _error: Exception) -> Response:
    """The answer to anything else; whoever is further out logs it."""
    return internal_error(request.scope["turnout.request_id"])


def problems_body(error: errors.InvalidDocument) -> dict[str, Any]:
    """Every problem of a document, and a sentence."""
    first, *more = error.problems
    sentence = f"{first.pointer or 'the document'}: {first.message}"
    if more:
        sentence += f" (and {len(more)} more)"
    listed = [{"pointer": p.pointer, "code": p.code, "message": p.message} for p in error.problems]
    return {"error": sentence, "problems": listed}


def _breaks(error: ContractBroken) -> Iterator[dict[str, str]]:
    """Every difference: where the version stands in the route, and where the difference is in its metadata."""
    for (pointer, version), problems in error.breaks.items():
        for problem in problems:
            yield {
                "pointer": pointer,
                "code": "contract",
                "message": f"version {version!r}: {problem.message}",
                "version": version,
                "difference": problem.pointer,
                "kind": problem.code,
            }


def _stale(error: errors.StaleRevision) -> str:
    if not error.current:
        return "there is no such route: create it with If-None-Match: *"
    if not error.expected:
        return f'the route exists with revision {error.current}: to change it send If-Match: "{error.current}"'
    return str(error)
