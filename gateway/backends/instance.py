"""One server that runs a version: its connections, whether it is ready, and the probe that finds out."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gateway.backends.base import State
from gateway.backends.grpc import GrpcTransport
from gateway.backends.health import Health
from gateway.backends.probe import NoAnswer, NotReady
from gateway.backends.replies import Replies
from gateway.backends.sending import Pool, Sending
from gateway.backends.transport import Bounds, HttpTransport, Target, Transport
from gateway.protocol.shapes import Signature

log = logging.getLogger(__name__)
CHECKS_MISSED = 3  # checks in a row without an answer after which a server is not ready


class Instance:
    """One of the servers of a version.

    Args:
        target: The version there.
        replies: Makes the version's replies.
        bounds: Of what goes there.
        on_change: Called after each change of ``state``, and of ``signature`` while it is ready.
        may_eject: Whether the version can do without this server.
        move: Finds another server for a sending that reached none here.
        differs: Given what the server says of its tensors; says why that cannot be, or nothing.

    Attributes:
        connections: Carry calls there.
        health: How it fares.
        is_ejected: It is not asked because it failed too often.
        ejections: How often that was so.
        ejections_refused: Failures after which the version could not do without it.
        signature: Inputs and outputs, as the server last described them.

    Raises:
        ValueError: The URL is none of ours.
    """

    def __init__(
        self,
        target: Target,
        replies: Replies,
        bounds: Bounds,
        loop: asyncio.AbstractEventLoop,
        *,
        on_change: Callable[[], None],
        may_eject: Callable[[], bool],
        move: Callable[[Sending, "Instance"], bool],
        differs: Callable[["Instance", Signature], str],
    ) -> None:
        self.url = target.url
        self._bounds = bounds
        self._loop = loop
        self._on_change = on_change
        self._may_eject = may_eject
        self._differs = differs
        self._state = State.LOADING
        self._reason = "is being asked"
        self._prober: asyncio.Task[None] | None = None
        self._down = asyncio.Event()
        self._missed = 0  # checks in a row that were not answered
        self._was_ready = False
        self.is_ejected = False
        self.ejections = self.ejections_refused = 0
        self.signature: Signature | None = None
        self._transport = self._speak(target, replies, move)
        self.connections: Pool = self._transport.pool
        self.health = self.connections.health = Health(bounds.health)
        self.connections.on_trip = self._tripped

    def _speak(self, target: Target, replies: Replies, move: Callable[[Sending, "Instance"], bool]) -> Transport:
        def elsewhere(sending: Sending) -> bool:
            return move(sending, self)

        if target.url.startswith("grpc:"):
            return GrpcTransport(
                target,
                replies,
                self._bounds,
                self._loop,
                self._refused,
                elsewhere,
                signature=lambda: self.signature,
            )
        return HttpTransport(target, replies, self._bounds, self._loop, self._refused, elsewhere)

    @property
    def state(self) -> State:
        """Whether it can be asked."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is not ready, as a sentence; empty when it is."""
        return "" if self._state is State.READY else f"{self.url} {self._reason}"

    def start(self) -> None:
        """Ask it, and again for as long as it is not ready."""
        self._prober = self._loop.create_task(self._probe())

    def close(self) -> None:
        """Ask and take nothing any more; what was sent there ends as ``UNREACHABLE``."""
        self._enter(State.CLOSED, "is closed")
        if self._prober is not None:
            self._prober.cancel()
        self.connections.close()

    async def closed(self) -> None:
        """Wait until the probe has ended and every connection is gone."""
        if self._prober is not None:
            with suppress(asyncio.CancelledError):
                await self._prober
        await self.connections.closed()

    def status(self) -> dict[str, Any]:
        """What it does now, as plain data."""
        return {
            "url": self.url,
            "state": "ejected" if self.is_ejected else self._state.value,
            "reason": self.reason,
            "ejections": self.ejections,
            "ejections_refused": self.ejections_refused,
            **self.connections.counts(),
        }

    def _enter(self, state: State, reason: str = "") -> None:
        if self._state is State.CLOSED:
            return
        changed = state is not self._state
        self._state = state
        self._reason = reason
        if state is State.FAILED:
            self._down.set()
        else:
            self._down.clear()
        if changed:
            self._on_change()

    def _refused(self, sentence: str) -> None:
        self._enter(State.FAILED, sentence)

    def _tripped(self) -> None:
        """It has failed too often: out with it, if the version can do without."""
        if self._state is not State.READY:
            return
        if not self._may_eject():
            self.ejections_refused += 1
            return
        self.ejections += 1
        self.is_ejected = True
        self.health.eject(self._loop.time())
        log.warning("a server is not asked for now", extra={"url": self.url, "failures": self.health.faults})
        self._enter(State.FAILED, f"has failed {self.health.faults} times in a row and is not asked for now")
        self.connections.renew()

    async def _probe(self) -> None:
        while True:
            try:
                await self._inspect()
            except Exception:
                log.exception("the probe of %s failed", self.url)
                self._enter(State.FAILED, "could not be probed")
            if self._state is State.READY:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._bounds.check_s):
                        await self._down.wait()
            if self._state is not State.READY:
                out_s = self.health.until_s - self._loop.time() if self.is_ejected else 0.0
                await asyncio.sleep(max(self._bounds.probe_interval_s, out_s))

    async def _inspect(self) -> None:
        try:
            signature = await self._transport.inspect()
        except NotReady as problem:
            self._missed += 1
            is_late = isinstance(problem, NoAnswer) and self._missed < CHECKS_MISSED
            if not (is_late and self._state is State.READY):
                self.is_ejected = False
                self._enter(State.FAILED, str(problem))
            return
        self._missed = 0
        if difference := self._differs(self, signature):
            self._enter(State.FAILED, difference)
            return
        is_new = signature != self.signature
        if is_new:  # else the very same object stays: who holds something against it need not look again
            self.signature = signature
        if self._was_ready and self._state is not State.READY:
            self.health.come_back(self._loop.time())
        self._was_ready, self.is_ejected = True, False
        if is_new and self._state is State.READY:
            log.warning("a server describes its tensors anew: it is another build", extra={"url": self.url})
            self._on_change()
        self._enter(State.READY)
