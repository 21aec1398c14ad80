"""Copies of requests to shadows: a place in a byte-bounded queue or a counted drop, sent and compared off the path."""

import logging
from collections.abc import Callable
from functools import partial
from random import Random

from gateway.backends.base import Reply
from gateway.backends.registry import Slot
from gateway.dataplane.admission import Gate
from gateway.dataplane.comparison import Comparison, Pair
from gateway.dataplane.copies import COPY_BYTES, Copy, Lane, Stable
from gateway.dataplane.exchange import PIN, SEQUENCE, Exchange, unheard
from gateway.runtime.compile import CompiledRoute
from gateway.runtime.shadows import CompiledShadow, MirrorCounts
from routing.analysis.compare import Differences, agrees
from routing.analysis.outcome import Kind
from routing.table import PPM

log = logging.getLogger("turnout.mirror")

CONCURRENT_COPIES = 64  # in flight to one shadow
GIVEN_UP_A_SWEEP = 2  # each costs a connection: a hanging shadow must not make the loop late all at once
COPIES_A_TURN = 32  # sent to one shadow in one turn of the loop
TURN_S = 0.001  # between two turns; answers that are ready go out first
NEVER_ASKED = frozenset({Kind.UNREACHABLE, Kind.OVERLOADED, Kind.CANCELLED})  # no pair: one side had no say

QUEUE_FULL = "queue_full"
TOO_LARGE = "too_large"
NOT_READY = "not_ready"
SIDE_EFFECTS = "side_effects"
OVERLOAD = "overload"  # requests in work, or a late loop, leave no room for copies
OF_A_SEQUENCE = "sequence"
PINNED = "pinned"
DRAINING = "draining"
EXPIRED = "expired"  # waited for longer than the shadow's timeout

Later = Callable[[float, Callable[[], None]], object]


class Mirror:
    """All copies of one worker. One queue with one bound in bytes; a lane in it for each shadow's backend.

    A shadow gets no more of the queue than it leaves free, so one that hangs leaves room for the others. Answers that
    are kept to be compared count as well.

    Args:
        comparison: Where pairs go.
        clock: Monotonic seconds.
        later: The loop's ``call_later``.
        max_bytes: Bound of the queue.
        gate: Says whether there is room for copies.
        draws: Source of draws without a key.

    Attributes:
        held_bytes: Of all copies: waiting, in flight, or being compared.
        counts: What became of all copies, for metrics.
    """

    def __init__(
        self,
        comparison: Comparison,
        clock: Callable[[], float],
        later: Later,
        max_bytes: int,
        gate: Gate,
        draws: Random | None = None,
    ) -> None:
        self._comparison = comparison
        self._clock = clock
        self._later = later
        self._max_bytes = max_bytes
        self._gate = gate
        self._draws = draws or Random()
        self._lanes: dict[Slot, Lane] = {}
        self._turn_is_due = False
        self._is_draining = False
        self.held_bytes = 0
        self.counts = MirrorCounts()

    def offer(self, exchange: Exchange, reply: Reply, latency_s: float) -> None:
        """Queue a copy for each shadow of an answered request, or count why not. Never waits, sends nothing itself.

        Args:
            exchange: The request.
            reply: What went out.
            latency_s: Of the attempt that ended last.
        """
        route = exchange.route
        assert route is not None
        obstacle = self._obstacle(exchange, route)
        answered = exchange.arm is route.stable and reply.kind not in NEVER_ASKED
        for shadow in route.shadows:
            if not shadow.takes_all and not self._is_in_sample(shadow, exchange.key):
                continue
            shadow.evidence.offered += 1
            is_pair = answered and shadow.compares
            size = COPY_BYTES + len(exchange.body)
            if is_pair and reply.kind is Kind.OK:
                size += len(reply.body)
            reason = obstacle or self._refusal(shadow, exchange, size)
            if reason:
                self._count_drop(shadow, reason)
            else:
                stable = Stable(reply, latency_s) if is_pair else None
                self._queue(Copy(shadow, exchange, stable, self._clock(), size))

    def sweep(self, now_s: float) -> None:
        """Give up what has taken too long. Called every few hundredths of a second."""
        for lane in list(self._lanes.values()):
            while lane.waiting and now_s - lane.waiting[0].offered_s > lane.waiting[0].shadow.timeout_s:
                self._drop(lane, lane.waiting.popleft(), EXPIRED)
            late = [c for c in lane.in_flight if now_s - c.dispatched_s > c.shadow.timeout_s]
            for copy in late[:GIVEN_UP_A_SWEEP]:
                self._give_up(copy, Kind.TIMEOUT)

    def drain(self) -> None:
        """The process is about to end: no copy goes out any more, and nobody waits for those that did."""
        self._is_draining = True
        for lane in list(self._lanes.values()):
            while lane.waiting:
                self._drop(lane, lane.waiting.popleft(), DRAINING)
            for copy in list(lane.in_flight):
                self._give_up(copy, Kind.CANCELLED)

    def stop(self) -> None:
        """Drain, and end the comparison."""
        self.drain()
        self._comparison.stop()

    # Offering.

    def _is_in_sample(self, shadow: CompiledShadow, key: bytes | None) -> bool:
        if key is not None:
            return shadow.takes(key)
        return self._draws.randrange(PPM) < shadow.sample_ppm

    def _obstacle(self, exchange: Exchange, route: CompiledRoute) -> str:
        """Why no shadow may get this request."""
        if self._is_draining:
            return DRAINING
        if route.side_effects:
            return SIDE_EFFECTS
        if exchange.choice == PIN:
            return PINNED
        if exchange.choice == SEQUENCE:
            return OF_A_SEQUENCE
        return "" if self._gate.takes_copies else OVERLOAD

    def _refusal(self, shadow: CompiledShadow, exchange: Exchange, size: int) -> str:
        """Why this shadow does not get it."""
        if len(exchange.body) > shadow.max_body_bytes:
            return TOO_LARGE
        if not shadow.slot.is_ready:
            return NOT_READY
        free = self._max_bytes - self.held_bytes - size
        lane = self._lanes.get(shadow.slot)
        held = lane.held_bytes if lane else 0
        return QUEUE_FULL if free < 0 or (held and held + size > free) else ""

    def _queue(self, copy: Copy) -> None:
        slot = copy.shadow.slot
        lane = self._lanes.get(slot)
        if lane is None:
            lane = self._lanes[slot] = Lane()
        lane.waiting.append(copy)
        copy.shadow.evidence.waiting += 1
        self._hold(lane, copy.held_bytes)
        if not self._turn_is_due:
            self._wake(lane)

    def _count_drop(self, shadow: CompiledShadow, reason: str) -> None:
        shadow.evidence.drop(reason)
        self.counts.copy(shadow.slot.key, reason)

    def _hold(self, lane: Lane, size: int) -> None:
        lane.held_bytes += size
        self.held_bytes += size

    def _drop(self, lane: Lane, copy: Copy, reason: str) -> None:
        """A copy that waits is not sent."""
        copy.shadow.evidence.waiting -= 1
        self._count_drop(copy.shadow, reason)
        self._release(lane, copy.shadow.slot, copy.held_bytes)

    def _release(self, lane: Lane, slot: Slot, size: int) -> None:
        self._hold(lane, -size)
        if not lane.held_bytes:
            self._lanes.pop(slot, None)

    # Sending.

    def _wake(self, lane: Lane) -> None:
        if not self._turn_is_due and lane.waiting and len(lane.in_flight) < CONCURRENT_COPIES:
            self._turn_is_due = True
            self._later(TURN_S, self._turn)

    def _turn(self) -> None:
        """Send a few copies to each shadow."""
        self._turn_is_due = False
        now_s = self._clock()
        for lane in list(self._lanes.values()):
            for _ in range(COPIES_A_TURN):
                if lane.waiting and len(lane.in_flight) < CONCURRENT_COPIES:
                    self._send(lane, lane.waiting.popleft(), now_s)
            self._wake(lane)

    def _send(self, lane: Lane, copy: Copy, now_s: float) -> None:
        evidence, slot = copy.shadow.evidence, copy.shadow.slot
        if not slot.is_ready:
            self._drop(lane, copy, NOT_READY)
            return
        evidence.waiting -= 1
        evidence.sent += 1
        evidence.in_flight += 1
        evidence.last_sent_s = copy.dispatched_s = now_s
        lane.in_flight.add(copy)
        try:
            cancel = slot.backend.submit(copy, now_s + copy.shadow.timeout_s, partial(self._replied, lane, copy))
        except Exception:  # a shadow that breaks must not keep the others from their copies
            log.exception("a shadow crashed", extra={"model": slot.key.model, "version": slot.key.version})
            self._replied(lane, copy, Reply(Kind.ERROR, 0, b""))
            return
        if copy in lane.in_flight:
            copy.cancel = cancel

    def _give_up(self, copy: Copy, kind: Kind) -> None:
        copy.cancel()
        self._replied(self._lanes[copy.shadow.slot], copy, Reply(kind, 0, b""))

    def _replied(self, lane: Lane, copy: Copy, reply: Reply) -> None:
        """A copy that was sent has ended."""
        evidence = copy.shadow.evidence
        copy.cancel = unheard
        lane.in_flight.remove(copy)
        evidence.in_flight -= 1
        evidence.ended(reply.kind)
        self.counts.copy(copy.shadow.slot.key, reply.kind.value)
        if copy.stable is None:
            evidence.not_paired += copy.shadow.compares
        elif reply.kind not in NEVER_ASKED:
            self._pair(lane, copy, copy.stable, reply)
        self._release(lane, copy.shadow.slot, copy.held_bytes)
        self._wake(lane)

    # Comparing.

    def _pair(self, lane: Lane, copy: Copy, stable: Stable, reply: Reply) -> None:
        evidence, slot = copy.shadow.evidence, copy.shadow.slot
        stable_ok, shadow_ok = stable.kind is Kind.OK, reply.kind is Kind.OK
        evidence.pairs.ended(stable_ok=stable_ok, shadow_ok=shadow_ok)
        if not (stable_ok and shadow_ok):
            if stable_ok or shadow_ok:
                self.counts.pair(slot.key, agrees=False)
            return
        latency_s = self._clock() - copy.dispatched_s
        if stable.latency_s > 0 and latency_s > 0:
            evidence.pairs.ratios.observe(latency_s / stable.latency_s)
        kept = COPY_BYTES + len(stable.body) + len(reply.body)
        if self.held_bytes + kept > self._max_bytes:
            evidence.not_compared += 1
            return

        def compared(differences: Differences | None) -> None:
            self._release(lane, slot, kept)
            if differences is None:
                evidence.not_compared += 1
            else:
                evidence.pairs.add(differences)
                self.counts.pair(slot.key, agrees=agrees(differences))

        ours, theirs = (stable.body, stable.header_length), (reply.body, reply.header_length)
        if self._comparison.submit(Pair(ours, theirs, compared)):
            self._hold(lane, kept)
        else:
            evidence.not_compared += 1
