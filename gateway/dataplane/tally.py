"""Every inference request is counted once, by the status that went out."""

from typing import Protocol

from gateway.dataplane.admission import LowPriorityRefused
from gateway.dataplane.exchange import PIN, Exchange
from gateway.errors import BodyTimeout, BodyTooLarge, GatewayError, Overloaded, status_of
from gateway.metrics.families import NO_ROLE, NO_VERSION, UNKNOWN_MODEL
from gateway.metrics.ledger import Ledger, Times
from gateway.runtime.arms import Arm
from gateway.runtime.snapshot import Runtime

CLIENT_LEFT = 499  # what is counted where nobody was left to answer
DEADLINE = "deadline"
CANARIES = "overload.canaries"
RETRIES = "retries.ratio"
BOUNDS: dict[type[GatewayError], str] = {
    Overloaded: "server.max_concurrency",
    LowPriorityRefused: "overload.low_priority",
    BodyTooLarge: "server.max_body_bytes",
    BodyTimeout: DEADLINE,
}


class Unsettled(Protocol):
    """Holds times that are not yet counted."""

    def settle(self) -> None:
        """Count them."""


class Tally:
    """Counts requests of one worker. Names from a path become labels only where a route or the repository has them.

    Attributes:
        unsettled: What holds times that ``settle`` will count.
    """

    def __init__(self, runtime: Runtime, ledger: Ledger) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self.unsettled: list[Unsettled] = []
        self._without_route: dict[str, Times] = {}

    def answered(self, exchange: Exchange, status: int, now_s: float) -> None:
        """A request that reached the pipeline was answered."""
        arm = exchange.arm
        if arm is None:
            self._ledger.request(self._known(exchange.model), NO_VERSION, NO_ROLE, status)
            return
        codes = arm.pinned_codes if exchange.choice == PIN else arm.codes
        cell = codes.get(status)
        if cell is None:
            cell = codes[status] = self._ledger.request_cell(arm.model, arm.version, _role(exchange, arm), status)
        cell[0] += 1
        route = exchange.route
        times = self._times(exchange) if route is None else route.times
        whole_s = times.whole_s
        if not whole_s:
            self.unsettled.append(times)
        whole_s.append(now_s - exchange.started_s)

    def added(self, exchange: Exchange, seconds: float) -> None:
        """The gateway itself took so much of a request that is ``answered`` next; where none is told, it is 0."""
        if seconds > 0.0:
            self._times(exchange).added_s.append(seconds)

    def settle(self) -> None:
        """Count the times that have come since the last time. Every sweep does, and whoever reads them."""
        unsettled, self.unsettled = self.unsettled, []
        for times in unsettled:
            times.settle()

    def left(self, exchange: Exchange) -> None:
        """The client of such a request left first."""
        arm = exchange.arm
        if arm is not None:
            self._ledger.request(arm.model, arm.version, _role(exchange, arm), CLIENT_LEFT)

    def refused(self, model: str, error: GatewayError) -> None:
        """A request was refused at the front door."""
        self._ledger.request(self._known(model), NO_VERSION, NO_ROLE, status_of(error))
        bound = BOUNDS.get(type(error))
        if bound is not None:
            self._ledger.bound_hit(bound)

    def left_early(self, model: str) -> None:
        """The client left while its body arrived."""
        self._ledger.request(self._known(model), NO_VERSION, NO_ROLE, CLIENT_LEFT)

    def out_of_time(self) -> None:
        """The deadline of a request passed."""
        self._ledger.bound_hit(DEADLINE)

    def out_of_retries(self) -> None:
        """A canary failed, and stable was not asked: too many of the route's draws were asked a second time."""
        self._ledger.bound_hit(RETRIES)

    def out_of_room(self) -> None:
        """A draw of a canary went to stable, because too much is in work."""
        self._ledger.bound_hit(CANARIES)

    def _known(self, model: str) -> str:
        return model if self._runtime.current.versions(model) else UNKNOWN_MODEL

    def _times(self, exchange: Exchange) -> Times:
        if exchange.route is not None:
            return exchange.route.times
        model = exchange.model
        found = self._without_route.get(model)
        if found is None:
            found = self._without_route[model] = self._ledger.times(model)
        return found


def _role(exchange: Exchange, arm: Arm) -> str:
    return "pinned" if exchange.choice == PIN else arm.role
