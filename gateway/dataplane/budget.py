"""How many requests of a route may be asked a second time: a share of its draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.runtime.arms import DRAWN
from gateway.runtime.compile import CompiledRoute


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """What a route may spend.

    Attributes:
        ratio: Second attempts for each draw.
        min_per_s: Second attempts a second in any case, for routes with few draws.
        burst_s: Draws and seconds of so long may be spent at once.
    """

    ratio: float
    min_per_s: float
    burst_s: float


class RetryBudget:
    """A bucket that draws and time fill and second attempts empty. Requests that need none cost nothing.

    It holds what the last ``burst_s`` have filled, or would have filled without any draw.

    Args:
        draws: Of the route so far.
        now_s: Monotonic seconds.

    Attributes:
        tokens: Second attempts that may be made now.
    """

    def __init__(self, limits: RetryLimits, draws: int, now_s: float) -> None:
        self._limits = limits
        self._draws = draws
        self._seen_s = now_s
        self._per_s = limits.min_per_s
        self.tokens = limits.min_per_s * limits.burst_s

    def refill(self, draws: int, now_s: float) -> None:
        """Add what came since the last time.

        Args:
            draws: Of the route so far; fewer than before when counting began anew.
            now_s: Monotonic seconds.
        """
        limits = self._limits
        passed_s = max(0.0, now_s - self._seen_s)
        filled = max(0, draws - self._draws) * limits.ratio + passed_s * limits.min_per_s
        self._draws, self._seen_s = draws, max(now_s, self._seen_s)
        self._per_s += (filled - self._per_s * min(passed_s, limits.burst_s)) / limits.burst_s
        self.tokens = min(max(self._per_s, limits.min_per_s) * limits.burst_s, self.tokens + filled)

    def take(self) -> bool:
        """Spend one second attempt; ``False``: there is none left."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class RetryBudgets:
    """Those of all routes of one worker; each lives as long as its route has a name.

    Args:
        routes: Those that are served.
    """

    def __init__(self, limits: RetryLimits, routes: Callable[[], Mapping[str, CompiledRoute]]) -> None:
        self._limits = limits
        self._routes = routes
        self._budgets: dict[str, RetryBudget] = {}

    def take(self, route: CompiledRoute, now_s: float) -> bool:
        """Spend one second attempt of a route; ``False``: there is none left."""
        return self._refilled(route, now_s).take()

    def refill(self, now_s: float) -> None:
        """Add what came to all that have canaries; to be called about once a second. Forget those that are gone."""
        routes = self._routes()
        for route in routes.values():
            if len(route.arms) > 1:
                self._refilled(route, now_s)
        if len(self._budgets) > len(routes):
            self._budgets = {name: held for name, held in self._budgets.items() if name in routes}

    def _refilled(self, route: CompiledRoute, now_s: float) -> RetryBudget:
        draws = sum(arm.evidence.counters.counts[DRAWN] for arm in route.arms)
        budget = self._budgets.get(route.model)
        if budget is None:
            budget = self._budgets[route.model] = RetryBudget(self._limits, draws, now_s)
        budget.refill(draws, now_s)
        return budget
