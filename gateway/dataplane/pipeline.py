"""From a request to its answer: choose an arm, attempt, fail over to stable, observe. Callbacks, no tasks."""

import logging
from collections.abc import Callable, Mapping
from random import Random

from gateway.backends.base import Reply, State
from gateway.dataplane.admission import Gate
from gateway.dataplane.budget import RetryBudgets
from gateway.dataplane.exchange import Exchange, unheard
from gateway.dataplane.mirror import Mirror
from gateway.dataplane.observer import Observer
from gateway.dataplane.tally import Tally
from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    ModelNotFound,
    VersionNotFound,
    VersionNotReady,
    error_body,
    status_of,
)
from gateway.protocol.contract import check_answer
from gateway.runtime.arms import DRAWN, OUTCOME, PINNED, Arm
from gateway.runtime.compile import CompiledRoute
from gateway.runtime.snapshot import Runtime, Snapshot
from routing.analysis.outcome import Kind, may_fail_over
from routing.table import PPM

log = logging.getLogger("turnout.dataplane")

# To look up a member of an enumeration costs as much as a call.
OK, TIMEOUT, READY = Kind.OK, Kind.TIMEOUT, State.READY


class Pipeline:
    """The request path of one worker.

    Args:
        runtime: Where the current snapshot is.
        observer: Where evidence goes.
        tally: Where requests are counted.
        mirror: Where copies for shadows go.
        gate: Says whether there is room for canaries.
        budgets: Bound second attempts.
        clock: Monotonic seconds. Not the loop's own time, which is read once a turn and in whole milliseconds.
        draws: Source of draws without a key; never anything that a client sent.

    Attributes:
        in_work: Requests that have not been answered.
        budgets: Of second attempts.
    """

    def __init__(
        self,
        runtime: Runtime,
        observer: Observer,
        tally: Tally,
        mirror: Mirror,
        gate: Gate,
        budgets: RetryBudgets,
        clock: Callable[[], float],
        draws: Random | None = None,
    ) -> None:
        self._runtime = runtime
        self._observer = observer
        self._tally = tally
        self._mirror = mirror
        self._gate = gate
        self.budgets = budgets
        self._clock = clock
        self._draws = draws or Random()
        self._on_replied = self._replied
        self.in_work: set[Exchange] = set()

    def begin(self, exchange: Exchange, version: str | None, headers: Mapping[bytes, bytes]) -> None:
        """Start a request whose whole body came at ``begun_s``; ``deliver`` may be called before this returns.

        Args:
            exchange: The request.
            version: The version that it names, ``None`` for a draw.
            headers: Lower-case names; where sticky keys come from.
        """
        now_s = exchange.begun_s
        snapshot = self._runtime.current
        route = snapshot.routes.get(exchange.model)
        exchange.on_replied = self._on_replied
        self.in_work.add(exchange)
        if route is not None:
            exchange.route = route
            route.users += 1
            if version is None:
                self._attempt(exchange, self._draw(exchange, route, headers, now_s), now_s)
                return
            exchange.key = sticky_key(route, headers)
        try:
            if version is None:
                raise ModelNotFound(unrouted(snapshot, exchange.model))
            arm = self._pinned(snapshot, exchange, version)
        except GatewayError as error:
            self._finish(exchange, refusal(status_of(error), str(error)), now_s)
            return
        self._attempt(exchange, arm, now_s)

    def abandon(self, exchange: Exchange) -> None:
        """The client left, or closed its side and was not answered in time: give the attempt up and answer nobody."""
        if exchange.is_done:
            return
        exchange.cancel()
        if exchange.detector is not None and exchange.refusal is None:
            self._observer.abandoned(exchange, exchange.left_s or self._clock())
        self._count(exchange, Kind.CANCELLED)
        self._tally.left(exchange)
        self._leave(exchange)

    def drop(self, exchange: Exchange) -> None:
        """Something broke: end the request as an error, whatever state it is in."""
        if not exchange.is_done:
            exchange.cancel()
            self._finish(exchange, refusal(500, "internal error of the gateway"), self._clock())

    def give_up(self) -> None:
        """The process ends now: answer everything that is still in work."""
        for exchange in list(self.in_work):
            exchange.cancel()
            sentence = "the gateway is stopping and cannot wait any longer"
            self._finish(exchange, refusal(503, sentence), self._clock())

    def expire(self, exchange: Exchange) -> None:
        """The time of the attempt in flight is up."""
        exchange.cancel()
        self._replied(exchange, Reply(Kind.TIMEOUT, 504, error_body("the version did not answer in time")))

    def settle(self) -> None:
        """Count the times that have come since the last time."""
        self._tally.settle()

    def _pinned(self, snapshot: Snapshot, exchange: Exchange, version: str) -> Arm:
        arm = snapshot.pinned(exchange.model, version)
        if arm is None:
            known = snapshot.versions(exchange.model)
            if not known:
                raise ModelNotFound(unrouted(snapshot, exchange.model))
            raise VersionNotFound(
                f"model {exchange.model!r} has no version {version!r}; there are {', '.join(map(repr, known))}"
            )
        exchange.is_pinned = True
        arm.evidence.counters.counts[PINNED] += 1
        return arm

    def _index(self, exchange: Exchange, route: CompiledRoute, headers: Mapping[bytes, bytes]) -> int:
        """Index of the arm that is drawn; a head that came before knows its own."""
        plan, head = route.plan, exchange.head
        if head is not None and head.plan is plan:
            key, index = head.key, head.arm
        else:
            key = sticky_key(route, headers) if route.key_sources else None
            if key is None:
                return plan.at(self._draws.randrange(PPM))
            index = plan.choose(key)
            if head is not None:
                head.plan, head.key, head.arm = plan, key, index
        exchange.key = key
        exchange.key_hash = hash(key)
        return index

    def _draw(self, exchange: Exchange, route: CompiledRoute, headers: Mapping[bytes, bytes], now_s: float) -> Arm:
        stable = route.stable
        if exchange.is_sequence():
            exchange.in_sequence = True
            exchange.key = sticky_key(route, headers)
            return stable
        index = self._index(exchange, route, headers)
        arm = route.arms[index]
        counters = arm.evidence.counters
        counters.counts[DRAWN] += 1
        counters.last_drawn_s = now_s
        if arm is stable:
            exchange.stable_evidence = True
            return stable
        if not arm.takes_draws:
            counters.redirected += 1
            return stable
        if not self._gate.takes_canaries:
            counters.redirected += 1
            self._tally.out_of_room()
            return stable
        exchange.drawn = arm
        exchange.may_fail_over = route.retries
        return arm

    def _attempt(self, exchange: Exchange, arm: Arm, now_s: float) -> None:
        exchange.arm = arm
        if arm.slot.backend.state is not READY:
            sentence = not_ready(arm)
            error = VersionNotReady(sentence)
            exchange.stable_evidence = False
            self._replied(exchange, Reply(Kind.UNREACHABLE, status_of(error), error_body(sentence), detail=sentence))
            return
        exchange.attempts = attempt = exchange.attempts + 1
        exchange.dispatched_s = now_s
        evidence = arm.evidence
        evidence.counters.in_flight += 1
        if exchange.drawn is None:
            deadline_s = exchange.deadline_s
            if exchange.stable_evidence:
                evidence.seen += 1
        else:
            deadline_s = _attempt_deadline_s(exchange, now_s)
        exchange.attempt_deadline_s = deadline_s
        if exchange.refusal is None:
            exchange.given_s = deadline_s - now_s
            if exchange.drawn is not None:
                self._observer.dispatched(exchange)
        try:
            cancel = arm.slot.backend.submit(exchange, deadline_s, exchange.replied)
        except Exception as error:  # a backend that breaks must not leave its request behind
            log.exception("a backend crashed", extra={"model": arm.model, "version": arm.version})
            self._replied(
                exchange, Reply(Kind.INTERNAL, 500, error_body("internal error of the gateway"), detail=repr(error))
            )
            return
        if exchange.attempts == attempt and not exchange.is_done:
            exchange.cancel = cancel

    def _replied(self, exchange: Exchange, reply: Reply) -> None:
        """An attempt has ended."""
        exchange.cancel = unheard
        now_s = self._clock()
        latency_s = exchange.latency_s = now_s - exchange.dispatched_s
        if exchange.refusal is not None:
            self._stable_replied(exchange, exchange.refusal, reply, latency_s)
        elif exchange.drawn is not None:
            self._canary_replied(exchange, exchange.drawn, reply, latency_s, now_s)
        else:
            kind = reply.kind
            self._count(exchange, kind, latency_s)
            arm = exchange.arm
            is_no_hit = kind is OK and arm is not None and latency_s <= arm.evidence.lowest_threshold_s
            if exchange.stable_evidence and not is_no_hit:
                self._observer.stable_ended(exchange, kind, latency_s, reply.own_s)
            self._deliver(exchange, reply, now_s)

    def _canary_replied(self, exchange: Exchange, arm: Arm, reply: Reply, latency_s: float, now_s: float) -> None:
        if reply.kind is OK and not reply.is_checked:
            reply = _checked(exchange, arm, reply)
        self._count(exchange, reply.kind, latency_s)
        if reply.kind is OK:
            self._observer.canary_answered(exchange, latency_s, reply.own_s)
            self._deliver(exchange, reply, self._clock())
            return
        self._observer.canary_failed(exchange)
        if exchange.may_fail_over and may_fail_over(reply.kind) and now_s < exchange.deadline_s:
            assert exchange.route is not None
            if self.budgets.take(exchange.route, now_s):
                exchange.refusal = reply
                stable = exchange.route.stable
                stable.evidence.counters.failovers += 1
                self._attempt(exchange, stable, self._clock())
                return
            exchange.may_fail_over = False  # without a second attempt there is no proof, and it is charged at once
            self._tally.out_of_retries()
        # Where only the deadline kept stable from being asked, there is no proof, and nobody is charged.
        self._observer.judged(exchange, reply.kind, Kind.CANCELLED if exchange.may_fail_over else None)
        self._deliver(exchange, reply, now_s)

    def _stable_replied(self, exchange: Exchange, canary: Reply, reply: Reply, latency_s: float) -> None:
        assert exchange.arm is not None
        self._count(exchange, reply.kind, latency_s)
        proof = reply if reply.kind is not OK or reply.is_checked else _checked(exchange, exchange.arm, reply)
        self._observer.judged(exchange, canary.kind, proof.kind)
        self._deliver(exchange, reply, self._clock())

    def _count(self, exchange: Exchange, kind: Kind, latency_s: float | None = None) -> None:
        """Count the end of the attempt in flight, if one was dispatched."""
        arm = exchange.arm
        if arm is None or exchange.dispatched_s == 0.0:
            return
        evidence = arm.evidence
        counters = evidence.counters
        counters.in_flight -= 1
        counters.counts[OUTCOME[kind]] += 1
        if latency_s is not None:
            exchange.attempted_s += latency_s
            if kind is OK:
                if not evidence.latencies_s:
                    self._tally.unsettled.append(evidence)
                evidence.latencies_s.append(latency_s)
        exchange.dispatched_s = 0.0

    def _deliver(self, exchange: Exchange, reply: Reply, now_s: float) -> None:
        arm = exchange.arm
        assert arm is not None
        exchange.named = (arm.pinned_named if exchange.is_pinned else arm.named)[exchange.attempts]
        sent = reply
        if reply.kind is TIMEOUT and now_s >= exchange.deadline_s:
            self._tally.out_of_time()
            error = DeadlineExceeded("no version answered within the request's deadline")
            sent = Reply(Kind.TIMEOUT, status_of(error), error_body(str(error)))
        self._finish(exchange, sent, now_s)
        route = exchange.route
        if route is not None and route.shadows:
            self._mirror.offer(exchange, sent)

    def _finish(self, exchange: Exchange, reply: Reply, now_s: float) -> None:
        self._leave(exchange)
        self._tally.answered(exchange, reply.status, now_s)  # first: what a client has seen is counted, come what may
        exchange.deliver(reply)

    def _leave(self, exchange: Exchange) -> None:
        exchange.is_done = True
        self.in_work.discard(exchange)
        if exchange.route is not None:
            exchange.route.users -= 1
            if exchange.route.retired:
                exchange.route.look_idle()


def refusal(status: int, sentence: str) -> Reply:
    """What goes out where no version was asked."""
    return Reply(Kind.INTERNAL, status, error_body(sentence))


def _attempt_deadline_s(exchange: Exchange, now_s: float) -> float:
    """A canary's attempt that may be retried leaves the rest of the deadline to stable."""
    remaining_s = exchange.deadline_s - now_s
    if exchange.drawn is None or exchange.refusal is not None or not exchange.may_fail_over:
        return exchange.deadline_s
    assert exchange.route is not None
    cap_s = exchange.route.attempt_cap_s
    return now_s + (remaining_s / 2 if cap_s is None else min(remaining_s / 2, cap_s))


def _checked(exchange: Exchange, arm: Arm, reply: Reply) -> Reply:
    """Hold a remote version's answer against its promises."""
    signature = arm.slot.backend.signature
    if signature is None or exchange.asks_for_classes():
        return reply
    requested, nan_ok = exchange.wanted()
    problem = check_answer(reply.body, reply.header_length, signature, requested=requested, nan_ok=nan_ok)
    if problem is None:
        return reply
    sentence = f"the version's answer breaks its contract: {problem}"
    return Reply(Kind.CONTRACT, 502, error_body(sentence), detail=sentence)


def sticky_key(route: CompiledRoute, headers: Mapping[bytes, bytes]) -> bytes | None:
    """The first sticky key that a request carries; ``None`` makes it an independent draw."""
    for is_cookie, name in route.key_sources:
        value = _cookie(headers.get(b"cookie", b""), name) if is_cookie else headers.get(name)
        if value:
            return value
    return None


def _cookie(header: bytes, name: bytes) -> bytes | None:
    for part in header.split(b";"):
        found, _, value = part.strip().partition(b"=")
        if found == name:
            return value.strip()
    return None


def not_ready(arm: Arm) -> str:
    """Sentence for a version that cannot answer."""
    return f"version {arm.version!r} of {arm.model!r} is not ready: {arm.slot.backend.public_reason}"


def unrouted(snapshot: Snapshot, model: str) -> str:
    """Sentence for a model without a route: what is loaded, and how a route is made."""
    versions = snapshot.versions(model)
    if not versions:
        return f"there is no model {model!r}"
    return (
        f"model {model!r} has no route; loaded versions are {', '.join(map(repr, versions))}: name one in the path "
        f"(/v2/models/{model}/versions/{versions[0]}/infer) or create a route with `turnout routes put FILE`"
    )
