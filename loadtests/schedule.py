"""When requests are due, worked out before the first one is sent."""

import random
from collections.abc import Sequence

REQUESTS_MAX = 100_000


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times in seconds from the start, ascending, all below ``seconds``; the same for the same seed.

    Args:
        rate: Arrivals a second, on average.
        seconds: Length of the schedule.
        seed: Two schedules with different seeds have nothing to do with each other.

    Raises:
        ValueError: Nothing would arrive, or more than ``REQUESTS_MAX``.
    """
    if not (rate > 0 and seconds > 0 and rate * seconds <= REQUESTS_MAX):
        raise ValueError(f"{rate:g} a second for {seconds:g} s is not between 0 and {REQUESTS_MAX:,} requests")
    draws = random.Random(seed)
    times: list[float] = []
    at_s = draws.expovariate(rate)
    while at_s < seconds:
        times.append(at_s)
        at_s += draws.expovariate(rate)
    return times


def is_pause(at_s: float, pause_s: float) -> bool:
    """Whether a time lies in a pause; pauses of ``pause_s`` and spans as long take turns, a pause first."""
    return pause_s > 0 and at_s // pause_s % 2 == 0


def customers(count: int, requests: int, seed: int) -> Sequence[str]:
    """The customer of each request: one of ``count``, or everybody a different one when ``count`` is 0."""
    if not count:
        return [f"customer-{n}" for n in range(requests)]
    draws = random.Random(f"customers {seed}")
    return [f"customer-{draws.randrange(count)}" for _ in range(requests)]
