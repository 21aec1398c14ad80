"""One timer for all requests in flight, instead of one for each."""

import asyncio
import logging
from collections.abc import Callable

from gateway.dataplane.admission import Gate
from gateway.dataplane.exchange import Exchange, Watched
from gateway.dataplane.mirror import Mirror
from gateway.dataplane.observer import Observer
from gateway.dataplane.pipeline import Pipeline
from gateway.runtime.snapshot import Runtime

log = logging.getLogger("turnout.dataplane")


class Sweeper:
    """Looks at everything in flight every ``PERIOD_S``: deadlines, copies, slow attempts, unready canaries, loop lag.

    Args:
        gate: Told whether the loop is late.
        late_s: Lag from which it is.
        unready_flip_s: A canary that was ready and has not been for so long is flipped.

    Attributes:
        on_look: Called with each look at what is ready.
    """

    PERIOD_S = 0.025
    FLUSH_EVERY = 4  # periods between steps of stable's own detector
    REFILL_EVERY = 40  # periods between refills of the budgets of second attempts
    OLD_S = 0.05  # age from which a client that left is looked out for

    def __init__(
        self,
        pipeline: Pipeline,
        runtime: Runtime,
        observer: Observer,
        mirror: Mirror,
        gate: Gate,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        unready_flip_s: float,
        late_s: float,
    ) -> None:
        self._pipeline = pipeline
        self._runtime = runtime
        self._observer = observer
        self._mirror = mirror
        self._gate = gate
        self._late_s = late_s
        self._loop = loop
        self._clock = clock
        self._unready_flip_s = unready_flip_s
        self.on_look: Callable[[], None] = _unheard
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to sweep."""
        self._arm_timer(self._clock())

    def stop(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        now_s = self._clock()
        self._observer.last_lag_s = max(0.0, now_s - self._observer.sweep_due_s)
        self._gate.is_late = self._observer.last_lag_s > self._late_s
        self._arm_timer(now_s)
        for exchange in sorted(self._pipeline.in_work, key=_is_tried):  # what stable shares is known before a trip
            try:
                self._look(exchange, now_s)
            except Exception:  # one request that cannot be judged must not keep the others from their deadlines
                log.exception("a request could not be swept", extra={"model": exchange.model})
                self._pipeline.drop(exchange)
        self._mirror.sweep(now_s)
        self._pipeline.settle()
        self._ticks += 1
        if self._ticks % self.FLUSH_EVERY == 0:
            self._flush(now_s)
        if self._ticks % self.REFILL_EVERY == 0:
            self._pipeline.budgets.refill(now_s)

    def _arm_timer(self, now_s: float) -> None:
        self._observer.sweep_due_s = now_s + self.PERIOD_S
        self._timer = self._loop.call_later(self.PERIOD_S, self._tick)

    def _look(self, exchange: Exchange, now_s: float) -> None:
        if exchange not in self._pipeline.in_work:
            return
        trial = exchange.trial
        if exchange.dispatched_s and (trial is None or trial.refusal is None):
            self._observer.aged(exchange, now_s - exchange.dispatched_s)
        if now_s >= exchange.attempt_deadline_s:
            if exchange.left_s:  # the time of a client that may be gone is nobody's fault
                self._pipeline.abandon(exchange)
            else:
                self._pipeline.expire(exchange)
        elif isinstance(exchange, Watched) and now_s - exchange.started_s > self.OLD_S:
            exchange.watch()

    def _flush(self, now_s: float) -> None:
        self.on_look()
        for route in list(self._runtime.current.routes.values()):
            route.stable.evidence.flush()
            for arm in route.arms:
                unready_s = arm.slot.look(now_s)
                is_canary = not arm.is_stable and arm.weight_ppm > 0 and not arm.evidence.lowered
                if is_canary and unready_s > self._unready_flip_s:
                    self._observer.unready(route, arm, unready_s)


def _unheard() -> None:
    return


def _is_tried(exchange: Exchange) -> bool:
    """Whether a canary was drawn for it."""
    return exchange.trial is not None
