"""The admin plane as a client sees it: one call, one answer, and three ways to get none."""

import json
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from gateway.errors import GatewayError
from routing.errors import Problem

PREFIX = "/admin/v1"
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0
SILENCE_S = 45.0  # a stream has a heartbeat every 15 s; without three of them it is dead
AWAY = "the store of the gateway is away: it serves and guards on, and takes no edits until the store is back"
ETAG = re.compile(r'"([1-9][0-9]*)"')


class Unreachable(GatewayError):
    """No admin plane answered at the address; the sentence says what to do."""


class NotAuthorised(GatewayError):
    """There is no token, the gateway does not know it, or its role is too low."""


class Refused(GatewayError):
    """The admin plane said no.

    Attributes:
        status: HTTP status.
        body: The answer as it came.
        problems: Every problem of a document; empty when the sentence says it all.
    """

    def __init__(self, status: int, body: bytes, sentence: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(sentence)
        self.status = status
        self.body = body
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its bytes, the same as plain data, and the revision in its ``ETag``.

    Attributes:
        is_held: The store is away: it is what the gateway serves, and may be old.
    """

    body: bytes
    plain: Any
    revision: int | None
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; ``position`` resumes after it."""

    position: str
    kind: str
    data: str


class AdminClient:
    """Calls paths below ``/admin/v1``. Follows no redirect and no proxy: both would carry the token elsewhere.

    Args:
        url: ``http://host:port`` or ``https://…``, checked by the caller.
        token: Bearer token, visible ASCII.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._http = httpx.Client(
            base_url=url.rstrip("/") + PREFIX,
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            verify=ssl.create_default_context() if is_secure(url) else False,
            trust_env=False,
        )

    def __enter__(self) -> "AdminClient":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str) -> Reply:
        """Read.

        Raises:
            Refused, NotAuthorised, Unreachable: As all calls here.
        """
        return self._call("GET", path)

    def post(self, path: str, body: Any, based_on: Mapping[str, str] | None = None) -> Reply:
        """A verb; ``based_on`` are the headers of a condition."""
        return self._call("POST", path, body, based_on)

    def put(self, path: str, body: Any, based_on: Mapping[str, str]) -> Reply:
        """Create or replace."""
        return self._call("PUT", path, body, based_on)

    def events(self, after: str | None) -> Iterator[Event]:
        """Server-sent events, until the connection ends; those with no type only say where the stream is.

        Raises:
            Refused, NotAuthorised, Unreachable: Before the first one.
        """
        headers = {"last-event-id": after} if after else {}
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S)
        try:
            with self._http.stream("GET", "/events", headers=headers, timeout=timeout) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    response.read()
                    self._read(response)
                    raise Unreachable(f"{self._url} has no events: it is an older gateway")
                yield from _events(response.iter_lines())
        except httpx.ConnectError as error:
            raise Unreachable(self._away(error)) from None
        except httpx.HTTPError:
            return

    def revision_of(self, model: str) -> int | None:
        """Revision of a route that is there now.

        Raises:
            Refused: Nobody can tell, because the store is away.
        """
        try:
            reply = self.get(f"/routes/{model}")
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        if reply.is_held:
            raise Refused(503, reply.body, AWAY, ())
        return reply.revision

    def _call(self, method: str, path: str, body: Any = None, based_on: Mapping[str, str] | None = None) -> Reply:
        content = None if body is None else json.dumps(body).encode()
        try:
            response = self._http.request(method, path, content=content, headers=dict(based_on or {}))
        except httpx.ConnectError as error:
            raise Unreachable(self._away(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(self._broken(method, error)) from None
        return self._read(response)

    def _away(self, error: Exception) -> str:
        return (
            f"cannot reach {self._url}: {error}. Start the gateway (turnout serve), or name its admin address "
            "with --admin or TURNOUT_ADMIN_URL"
        )

    def _broken(self, method: str, error: Exception) -> str:
        sentence = f"{self._url} did not answer properly: {str(error) or type(error).__name__}"
        if method == "GET" or isinstance(error, httpx.ConnectTimeout):
            return f"{sentence}. Is this the admin plane's address? Name it with --admin or TURNOUT_ADMIN_URL"
        return f"{sentence}. The change may or may not have happened: look before you repeat"

    def _read(self, response: httpx.Response) -> Reply:
        try:
            plain = response.json()
        except ValueError:
            plain = None
        # Every answer of an admin plane is JSON with this header; the data plane's port answers 404 without it.
        if plain is None or (response.is_error and "no-store" not in response.headers.get("cache-control", "")):
            raise Unreachable(
                f"what answers at {self._url} (status {response.status_code}) is no admin plane: "
                "name its address with --admin or TURNOUT_ADMIN_URL"
            )
        if response.is_success:
            etag = ETAG.fullmatch(response.headers.get("etag", ""))
            is_held = response.headers.get("x-turnout-store") == "away"
            return Reply(response.content, plain, int(etag[1]) if etag else None, is_held)
        raise _refusal(response.status_code, response.content, plain)


def _events(lines: Iterable[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    position = ""
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "id" in fields or "event" in fields:  # a warning has no place among the changes
            position = fields.get("id", position)
            yield Event(position, fields.get("event", ""), fields.get("data", ""))
        fields = {}


def is_secure(url: str) -> bool:
    """Whether the address is spoken to with TLS; its certificate is then always checked.

    Raises:
        ValueError: It is no address that could be called.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from None
    parts.host.encode("idna")  # raises as the resolver would
    return parts.scheme == "https"


def condition(revision: int | None) -> dict[str, str]:
    """Headers of a write that is based on ``revision``; on there being no route when it is ``None``."""
    return {"if-none-match": "*"} if revision is None else {"if-match": f'"{revision}"'}


def _refusal(status: int, body: bytes, plain: Any) -> GatewayError:
    found = plain if isinstance(plain, dict) else {}
    sentence = str(found.get("error", f"status {status}"))
    if status == 401:
        return NotAuthorised(
            f"{sentence}. Give a token of this gateway: --token-file FILE, or its text in TURNOUT_TOKEN"
        )
    if status == 403:
        return NotAuthorised(f"{sentence}. Use a token with the role {found.get('needed_role', 'operator')}")
    listed = tuple(
        Problem(str(p.get("pointer", "")), str(p.get("code", "")), str(p.get("message", "")))
        for p in found.get("problems") or ()
        if isinstance(p, dict)
    )
    return Refused(status, body, sentence, listed)
