"""Who may do what: one gate in front of every path of the admin plane, and the token of a first start."""

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import CannotStart, error_body
from gateway.settings import Token

log = logging.getLogger("turnout.admin")

RANK = {"viewer": 0, "operator": 1, "admin": 2}
READING = frozenset({"GET", "HEAD"})
METRICS_PATH = "/metrics"
BEARER = re.compile(r"bearer +([\x21-\x7e]{1,1024})", re.IGNORECASE)
# The only spelling that reaches an endpoint: no escape, no empty or dotted segment, no slash at the end.
CANONICAL = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
TOKEN_FILE = "admin.token"  # noqa: S105  a file's name
MIN_SECRET_CHARS = 32
MAX_SECRET_CHARS = 1024
SECRET = re.compile(rf"[\x21-\x7e]{{{MIN_SECRET_CHARS},{MAX_SECRET_CHARS}}}")
LOGGED_PATH_CHARS = 200
NOBODY = "nobody"


class Authoriser:
    """Lets a request through when its bearer token has the role that its method needs.

    The role depends on the method alone: reading needs ``viewer``, everything else ``operator``. So no spelling of a
    path can reach an endpoint with less. Only then a path that is not spelled in the one canonical way is answered 404.

    Args:
        app: What is protected; finds the principal's name in ``scope["turnout.actor"]``.
        tokens: Who may come in.
        refused: Refusals are counted here, by why: ``missing``, ``malformed``, ``unknown`` or ``role``.
        keep: Is told of each refusal, without its token.
        metrics_are_open: Anybody may read ``/metrics``, and only that.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Sequence[Token],
        refused: Counter[str],
        keep: Callable[[Mapping[str, Any]], None],
        *,
        metrics_are_open: bool = False,
    ) -> None:
        self._app = app
        self._tokens = tuple(tokens)
        self._refused = refused
        self._keep = keep
        self._metrics_are_open = metrics_are_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection as ASGI says."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._authorise(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _authorise(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._metrics_are_open and _reads_metrics(scope):
            await self._app({**scope, "turnout.actor": NOBODY}, receive, send)
            return
        token, why = self._principal(Headers(scope=scope).getlist("authorization"))
        if token is None:
            self._count(scope, why)
            await _unauthorised()(scope, receive, send)
            return
        needed = "viewer" if scope["method"] in READING else "operator"
        if RANK[token.role] < RANK[needed]:
            self._count(scope, "role", token)
            await _forbidden(token, needed)(scope, receive, send)
        elif not is_canonical(scope):
            body = error_body(
                "there is nothing here: paths have no escapes, no empty or dotted parts, no slash at the end"
            )
            await Response(body, 404, media_type="application/json")(scope, receive, send)
        else:
            await self._app({**scope, "turnout.actor": token.name}, receive, send)

    def _principal(self, headers: Sequence[str]) -> tuple[Token | None, str]:
        if not headers:
            return None, "missing"
        match = BEARER.fullmatch(headers[0].strip()) if len(headers) == 1 else None
        if match is None:
            return None, "malformed"
        digest = hashlib.sha256(match[1].encode("ascii")).hexdigest()
        found = None
        for token in self._tokens:  # all of them, so that the time tells nothing
            if hmac.compare_digest(digest, token.sha256) and found is None:
                found = token
        return found, "unknown"

    def _count(self, scope: Scope, why: str, token: Token | None = None) -> None:
        self._refused[why] += 1
        client = scope.get("client")
        details = {
            "why": why,
            "actor": token.name if token else None,
            "method": scope["method"],
            "path": scope["path"][:LOGGED_PATH_CHARS],
            "client": client[0] if client else None,
            "request_id": scope.get("turnout.request_id"),
        }
        log.warning("log-in refused", extra=details)
        self._keep(details)


def is_canonical(scope: Scope) -> bool:
    """Whether the request's path is spelled in the one way that reaches an endpoint."""
    path, raw = scope["path"], scope.get("raw_path")
    return CANONICAL.fullmatch(path) is not None and (raw is None or raw == path.encode())


def _reads_metrics(scope: Scope) -> bool:
    return scope["method"] in READING and scope["path"] == METRICS_PATH and is_canonical(scope)


def _unauthorised() -> Response:
    sentence = "a token is needed here: send `Authorization: Bearer TOKEN` with one that is in admin.tokens"
    headers = {"www-authenticate": 'Bearer realm="turnout"'}
    return Response(error_body(sentence), 401, headers, media_type="application/json")


def _forbidden(token: Token, needed: str) -> Response:
    sentence = f"this needs the role {needed}, {token.name!r} has {token.role}"
    return Response(orjson.dumps({"error": sentence, "needed_role": needed}), 403, media_type="application/json")


def ensure_token(state_dir: Path) -> tuple[str | None, Token]:
    """The one token of a gateway that was given none: made on the first start, kept in ``state_dir/admin.token``.

    Returns:
        The secret when it was made just now, else None; and the token, named ``local-admin``, of role ``admin``.

    Raises:
        CannotStart: The file cannot be made or read, others may read it, or what it holds is no secret.
    """
    path = state_dir / TOKEN_FILE
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            secret = made = _make(path)
        except FileExistsError:
            secret, made = _read(path), None
    except OSError as error:
        raise CannotStart(f"the admin token {path} cannot be used: {error.strerror}") from None
    digest = hashlib.sha256(secret.encode("ascii")).hexdigest()
    return made, Token(name="local-admin", role="admin", sha256=digest)


def _make(path: Path) -> str:
    secret = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    return secret


def _read(path: Path) -> str:
    # O_NONBLOCK: opening a pipe somebody put there must not wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise CannotStart(f"{path} is no plain file: remove it, the next start makes a new token")
        if os.name == "posix" and mode & 0o077:
            raise CannotStart(f"others may read or write {path}: `chmod 600` it if you trust it still, else remove it")
        text = file.read(MAX_SECRET_CHARS + 2).decode("ascii", "replace").strip()
    if len(text) < MIN_SECRET_CHARS:
        raise CannotStart(f"the token in {path} has fewer than {MIN_SECRET_CHARS} characters: remove the file")
    if SECRET.fullmatch(text) is None:
        raise CannotStart(f"{path} holds no token of {MAX_SECRET_CHARS} visible ASCII characters at most: remove it")
    return text
