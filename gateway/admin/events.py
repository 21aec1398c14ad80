"""``/events``: the history as it grows, for ``fetch()`` with a bearer header, ``EventSource`` look-alikes and curl."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.admin import query
from gateway.admin.feed import Feed
from gateway.errors import BadRequest
from routing.errors import StoreUnavailable

STALLED_S = 30.0  # a reader that takes nothing for so long is cut off
LAST_WORDS_S = 0.2  # for the end of a stream when the process drains
LINGER_S = 0.5  # after it, for what the kernel still holds
MAX_POSITION_CHARS = 128


class EventEndpoints:
    """``/events``."""

    def __init__(self, feed: Feed, draining: asyncio.Event) -> None:
        self._feed = feed
        self._draining = draining

    async def get(self, request: Request) -> Response:
        """Every change of every route from now on, or after ``Last-Event-ID``."""
        found = query.parameters(request, "after")
        header = request.headers.get("last-event-id")
        if header is not None and "after" in found and header != found["after"]:
            raise BadRequest("the header Last-Event-ID and the parameter 'after' name two positions: send one")
        after = found.get("after", header)
        if after is not None and len(after) > MAX_POSITION_CHARS:
            raise BadRequest(f"a position has {MAX_POSITION_CHARS} characters at most: send the id of an event")
        return _EventStream(self._feed, self._draining, after or None)


class _EventStream(Response):
    """Sends until the reader leaves, is cut off, or the process drains; whichever is first."""

    def __init__(self, feed: Feed, draining: asyncio.Event, after: str | None) -> None:
        super().__init__(media_type="text/event-stream", headers={"x-accel-buffering": "no", "connection": "close"})
        del self.headers["content-length"]
        self._feed = feed
        self._draining = draining
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection as ASGI says."""
        async with self._feed.room():
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body"})
                return
            abort: Callable[[], None] = scope.get("turnout.abort", _nothing)
            cut = asyncio.Event()
            pump = asyncio.ensure_future(self._pump(send, cut))
            ends = {pump, *map(asyncio.ensure_future, (_gone(receive), self._draining.wait(), cut.wait()))}
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                crash, *_ = await asyncio.gather(pump, *(ends - {pump}), return_exceptions=True)
                self._feed.cut_off += cut.is_set()
            await _finish(send, abort, is_cut=cut.is_set())
            if isinstance(crash, Exception):
                raise crash

    async def _pump(self, send: Send, cut: asyncio.Event) -> None:
        """Send events, until there is no store to read missed ones from: the client comes back. Sets ``cut``."""
        with suppress(StoreUnavailable):
            async with aclosing(self._feed.events(self._after, cut)) as events:
                async for data in events:
                    try:
                        async with asyncio.timeout(STALLED_S):
                            await send({"type": "http.response.body", "body": data, "more_body": True})
                    except TimeoutError:
                        cut.set()
                        return


async def _finish(send: Send, abort: Callable[[], None], *, is_cut: bool) -> None:
    """End the answer. Who does not take even its end loses the connection, so that no drain waits for it."""
    if is_cut:
        abort()
        return
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            await send({"type": "http.response.body"})
    except TimeoutError:
        abort()
    else:
        asyncio.get_running_loop().call_later(LINGER_S, abort)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _nothing() -> None:
    return
