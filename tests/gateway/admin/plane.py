"""The real admin app over a real memory store, and small ways to talk to it."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import httpx
import orjson

from gateway.admin.endpoints import admin_app
from gateway.settings import Token
from routing.errors import Problem
from routing.store import MemoryStore
from routing.table import Route

ROUTE = {
    "model": "credit",
    "stable": "1",
    "variants": [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}],
    "sticky": {"by": ["header:x-customer-id"]},
}
NOW = 1_750_000_000.0


def secret(name: str) -> str:
    return f"{name}-secret-of-thirty-two-characters-and-more"


def token(name: str, role: Any) -> Token:
    return Token(name=name, role=role, sha256=hashlib.sha256(secret(name).encode()).hexdigest())


TOKENS = (token("vera", "viewer"), token("olga", "operator"), token("ada", "admin"))


def no_problems(_route: Route) -> Sequence[Problem]:
    return ()


async def _nothing(_models: Sequence[str]) -> Mapping[str, Any]:
    return {}


async def _overview() -> Mapping[str, Any]:
    return {"revision": 7}


class Plane:
    """One app; ``status``, ``metrics`` and the like can be replaced per test."""

    def __init__(self, **parts: Any) -> None:
        self.store = parts.pop("store", None) or MemoryStore()
        self.refused: Counter[str] = Counter()
        self.app = admin_app(
            **{
                "store": self.store,
                "tokens": TOKENS,
                "check_route": no_problems,
                "status": _nothing,
                "overview": _overview,
                "metrics": None,
                "now": lambda: NOW,
                "refused": self.refused,
            }
            | parts
        )

    async def ask(
        self, method: str, path: str, body: Any = None, *, who: str | None = "olga", **headers: str
    ) -> httpx.Response:
        """One request; ``if_match="1"`` is sent as ``If-Match: "1"``."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if "if-match" in sent and sent["if-match"].isdigit():
            sent["if-match"] = f'"{sent["if-match"]}"'
        if who is not None:
            sent["authorization"] = f"Bearer {secret(who)}"
        content = body if isinstance(body, bytes) else None if body is None else orjson.dumps(body)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
            url = path if path.startswith("/metrics") else "/admin/v1" + path
            return await client.request(method, url, content=content, headers=sent)

    async def create(self, **parts: Any) -> httpx.Response:
        """Put the default route; it has revision 1 then."""
        answer = await self.ask("PUT", "/routes/credit", ROUTE | parts, if_none_match="*")
        assert answer.status_code == 201, answer.text
        return answer

    async def raw(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, bytes]:
        """One request whose path nobody tidies up, as the server would hand it over."""
        sent: list[Any] = []
        scope = {
            "type": "http",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8081),
            "scheme": "http",
            "http_version": "1.1",
        }

        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            return next(messages, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        assert dict(sent[0]["headers"])[b"cache-control"] == b"no-store"
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    async def contents(self) -> Any:
        """All that the store holds."""
        records = list(await self.store.list())
        return records, [list(await self.store.history(record.model)) for record in records]


def on_a_plane(test: Callable[[Plane], Awaitable[None]], **parts: Any) -> Callable[[], None]:
    """Run an async test on a fresh plane with an open store."""

    def run() -> None:
        async def inner() -> None:
            plane = Plane(**parts)
            await plane.store.open()
            await test(plane)

        asyncio.run(inner())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run
