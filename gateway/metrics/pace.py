"""Work beside the loop that gives way to it."""

from time import perf_counter, sleep

TURN_S = 0.001
PAUSE_S = 0.00005  # shorter ones end before another thread has woken up and taken the interpreter


def give_way(since_s: float) -> float:
    """Pause when a turn is over. The interpreter changes hands every 5 ms by itself, which is long for a request.

    Args:
        since_s: What the last call returned; 0 at first.

    Returns:
        When this turn began.
    """
    now_s = perf_counter()
    if now_s - since_s < TURN_S:
        return since_s
    sleep(PAUSE_S)
    return perf_counter()
