"""A version on remote servers of the Open Inference Protocol v2, over plain HTTP/1.1 or gRPC."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gateway.backends.base import Call, Reply, State
from gateway.backends.instance import Instance
from gateway.backends.replies import Replies
from gateway.backends.sending import Pool, Sending
from gateway.backends.statistics import Statistics
from gateway.backends.transport import Bounds, Target, address_of
from gateway.errors import BadRequest, error_body
from gateway.protocol.classes import check_classes, may_ask
from gateway.protocol.shapes import Signature
from routing.analysis.outcome import Kind

PUBLIC_REASON = {
    State.LOADING: "its server is being asked",
    State.FAILED: "its server cannot be reached, or does not have it",
    State.CLOSED: "it was unloaded",
}
NOT_OPENED = "has not been opened"
DEFAULT_BOUNDS = Bounds()
ONE_OF_SEVERAL_CONNECT_S = 0.5  # a host that says nothing must not cost a request the time that another needs


class HttpBackend:
    """One version of a model on one or more servers that are alike.

    It is ready while one of them is. Each call goes to the one with the fewest calls in flight, in turn where that is
    the same. A call that was sent nowhere, because a server refused the connection, goes on to another one.

    Args:
        urls: ``http://host[:port][/prefix]`` or ``grpc://host[:port]`` of each server.
        model: The servers' name for the model.
        version: The servers' name for the version; ``None`` leaves the choice to the server.
        public_model: Name that answers carry.
        public_version: Version that answers carry.
        holds_to_version: An answer that does not name ``version`` as its own breaks the contract.
        bounds: Of what goes to one server.
        on_state: Called after each change of ``state``.
        on_ejected: Called when a server is not asked any more because it failed too often.

    Attributes:
        state: Where the version is in its life.
        engine: Empty: it runs elsewhere.
        statistics: Attempts; one that was given up has failed.
        instances: The servers, once open.

    Raises:
        ValueError: A URL is something else.
    """

    engine = ""

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        version: str | None,
        *,
        public_model: str,
        public_version: str,
        holds_to_version: bool = False,
        bounds: Bounds = DEFAULT_BOUNDS,
        on_state: Callable[[], None] | None = None,
        on_ejected: Callable[[], None] | None = None,
    ) -> None:
        for url in urls:
            address_of(url)
        self._urls = tuple(urls)
        self._names = (model, version, public_model, public_version, holds_to_version)
        self._bounds = bounds
        self._on_state = on_state
        self._on_ejected = on_ejected
        self.state = State.LOADING
        self._replies = Replies(public_model, public_version, version if holds_to_version else None)
        self._ready: tuple[Pool, ...] = ()
        self._only: Pool | None = None  # the one that is ready, where it is one
        self._returning = False  # some of them get less than their share
        self._signature: Signature | None = None
        self._strings: frozenset[str] = frozenset()  # outputs of BYTES
        self._turn = 0
        self._asked = asyncio.Event()  # one server is ready, or none of them
        self.instances: tuple[Instance, ...] = ()
        self.statistics = Statistics()

    @property
    def reason(self) -> str:
        """Why it is not ready, as a sentence; empty when it is."""
        if self.state is State.READY:
            return ""
        found = [instance.reason for instance in self.instances if instance.reason]
        return "; ".join(found) or f"{', '.join(self._urls)} {NOT_OPENED}"

    @property
    def public_reason(self) -> str:
        """Why it is not ready, without its addresses."""
        return "" if self.state is State.READY else PUBLIC_REASON[self.state]

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs, as a server last described them."""
        return self._signature

    def instance_status(self) -> list[dict[str, Any]]:
        """Each server as plain data."""
        return [instance.status() for instance in self.instances]

    async def open(self) -> None:
        """Ask every server; returns when one is ready or none of them. Probes go on where one is not."""
        loop = asyncio.get_running_loop()
        bounds = self._bounds
        if len(self._urls) > 1:  # another one is worth asking before the request's time is up
            bounds = replace(bounds, connect_timeout_s=min(bounds.connect_timeout_s, ONE_OF_SEVERAL_CONNECT_S))
        self.instances = tuple(
            Instance(
                Target(url, *self._names),
                self._replies,
                bounds,
                loop,
                on_change=self._changed,
                may_eject=self._may_eject,
                move=self._move,
                differs=self._differs,
            )
            for url in self._urls
        )
        for instance in self.instances:
            instance.start()
        await self._asked.wait()

    async def close(self) -> None:
        """Stop the probes and close every connection; attempts in flight end as ``UNREACHABLE``."""
        self._enter(State.CLOSED)
        for instance in self.instances:
            instance.close()
        await asyncio.gather(*(instance.closed() for instance in self.instances))

    def submit(self, call: Call, deadline_s: float, on_reply: Callable[[Reply], None]) -> Callable[[], None]:
        """Start an attempt. A version that is not ready answers at once."""
        place = self._only
        if place is None:
            ready: Sequence[Pool] = self._ready
            if not ready:
                on_reply(self._replies.failure(Kind.UNREACHABLE, self.reason))
                return _nothing
            if self._returning:
                ready = self._of_those_that_take(ready)
            place = ready[0] if len(ready) == 1 else self._least_loaded(ready)
        if self._strings and (reply := self._refused(call)) is not None:
            on_reply(reply)
            return _nothing
        sending = Sending(place, call, deadline_s, self.statistics, on_reply)
        place.submit(sending)
        return sending.cancel

    def _refused(self, call: Call) -> Reply | None:
        """The answer to a request that would end the server."""
        body, header_length = call.body, call.header_length
        if not may_ask(body, header_length):
            return None
        kind = Kind.MALFORMED
        try:
            request = call.request()
            kind = Kind.REJECTED
            check_classes(request, body, header_length, self._strings)
        except BadRequest as problem:
            return Reply(kind, 400, error_body(str(problem)), detail=str(problem))
        return None

    def _of_those_that_take(self, places: Sequence[Pool]) -> Sequence[Pool]:
        """Without servers that have come back a moment ago and are spared this time."""
        now_s = asyncio.get_running_loop().time()
        self._returning = any(place.health.share(now_s) < 1 for place in places)
        if not self._returning:
            return places
        return [place for place in places if place.health.share(now_s) >= 1 or place.health.takes(now_s)] or places

    def _least_loaded(self, places: Sequence[Pool]) -> Pool:
        """Fewest in flight; of those that are equal, the next in turn."""
        count = len(places)
        turn = self._turn % count
        least = places[turn]
        for step in range(1, count):
            place = places[(turn + step) % count]
            if place.in_flight < least.in_flight:
                least = place
        self._turn = places.index(least) + 1
        return least

    # What an instance says.

    def _move(self, sending: Sending, origin: Instance) -> bool:
        others = [place for place in self._ready if place is not origin.connections]
        if not others or sending.moves >= len(self.instances):
            return False
        sending.moves += 1
        sending.place = self._least_loaded(others)
        sending.place.submit(sending)
        return True

    def _may_eject(self) -> bool:
        out = sum(instance.state is not State.READY for instance in self.instances)
        if not self._bounds.health.may_eject(len(self.instances), out):
            return False
        if self._on_ejected is not None:
            self._on_ejected()
        return True

    def _differs(self, instance: Instance, signature: Signature) -> str:
        """Servers of one version promise the same."""
        for other in self.instances:
            if other is not instance and other.state is State.READY and other.signature is not None:
                mine, its = (signature.inputs, signature.outputs), (other.signature.inputs, other.signature.outputs)
                return "" if mine == its else f"describes other tensors than {other.url}: it is another build"
        return ""

    def _changed(self) -> None:
        if self.state is State.CLOSED:
            return
        ready = [instance for instance in self.instances if instance.state is State.READY]
        self._ready = tuple(instance.connections for instance in ready)
        self._only = self._ready[0] if len(ready) == 1 else None
        self._returning = len(ready) > 1
        if ready:
            self._describe(ready[0].signature)
            self._enter(State.READY)
        elif not any(instance.state is State.LOADING for instance in self.instances):
            self._enter(State.FAILED)

    def _describe(self, signature: Signature | None) -> None:
        self._signature = signature
        self._strings = frozenset() if signature is None else signature.strings

    def _enter(self, state: State) -> None:
        if self.state is State.CLOSED or self.state is state:
            return
        self.state = state
        if state is State.CLOSED:
            self._ready, self._only = (), None
        self._asked.set()
        if self._on_state is not None:
            self._on_state()


def _nothing() -> None:
    """What cancels an attempt that is over."""
