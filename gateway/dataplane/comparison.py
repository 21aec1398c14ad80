"""Compares pairs of answers on one thread that may take a small share of a core."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from time import thread_time

from gateway.backends.onnx import give_way_to_the_loop
from gateway.protocol.outputs import Unreadable
from gateway.protocol.pairs import compare_answers
from routing.analysis.compare import Differences

log = logging.getLogger("turnout.mirror")

SHARE = 0.05  # of a core
SLICE_S = 0.001  # CPU time after which the thread pays by a pause
PAUSE_S = 0.02  # at least: waking up for one pair costs more than the pair
PAIRS_MAX = 512  # that wait
ANSWER_MAX_BYTES = 256 * 1024  # reading a larger one would hold up the loop


class Pair:
    """Two good answers to one request, and who wants to know.

    Attributes:
        on_compared: Receives the differences on the loop; ``None`` when there are none to tell.
    """

    __slots__ = ("_shadow", "_stable", "on_compared")

    def __init__(
        self,
        stable: tuple[bytes, int | None],
        shadow: tuple[bytes, int | None],
        on_compared: Callable[[Differences | None], None],
    ) -> None:
        self._stable = stable
        self._shadow = shadow
        self.on_compared = on_compared

    @property
    def is_small(self) -> bool:
        """Whether both answers are within ``ANSWER_MAX_BYTES``."""
        return max(len(self._stable[0]), len(self._shadow[0])) <= ANSWER_MAX_BYTES

    def compare(self) -> Differences | None:
        """The work itself; ``None`` when stable's answer cannot be read."""
        try:
            return compare_answers(*self._stable, *self._shadow)
        except Unreadable:
            return None


class Comparison:
    """Owner of the thread. Started by the first pair; ``stop`` ends it.

    Every slice of work is paid for by a pause, so that over any time the thread uses ``SHARE`` of a core and one pair.
    Pairs that come faster are refused, not queued.

    Args:
        call_soon: Runs a function on the loop; safe to call from a thread.

    Attributes:
        spent_s: CPU time of the thread so far.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._pairs: SimpleQueue[Pair | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self.spent_s = 0.0

    def submit(self, pair: Pair) -> bool:
        """Have a pair compared; false when there is no time for it. Never waits."""
        if self._stopped.is_set() or self._pairs.qsize() >= PAIRS_MAX or not pair.is_small:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="compare", daemon=True)
            self._thread.start()
        self._pairs.put(pair)
        return True

    def stop(self) -> None:
        """End the thread; pairs that wait are forgotten. Takes as long as one pair."""
        self._stopped.set()
        self._pairs.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        give_way_to_the_loop()
        while not self._stopped.is_set():
            pair = self._pairs.get()
            found = self._slice(pair)
            self._call_soon(partial(_deliver, found))
            spent_s = thread_time()
            pause_s = max(PAUSE_S, (spent_s - self.spent_s) * (1 / SHARE - 1))
            self.spent_s = spent_s
            self._stopped.wait(pause_s)

    def _slice(self, pair: Pair | None) -> list[tuple[Pair, Differences | None]]:
        """Compare until the slice is used up or nothing waits."""
        begin_s = thread_time()
        found = []
        while pair is not None:
            found.append((pair, _compared(pair)))
            if thread_time() - begin_s > SLICE_S or self._pairs.empty():
                break
            pair = self._pairs.get()
        return found


def _compared(pair: Pair) -> Differences | None:
    try:
        return pair.compare()
    except Exception:  # the top of the thread's work; the pair is counted as not compared
        log.exception("a pair could not be compared")
        return None


def _deliver(found: list[tuple[Pair, Differences | None]]) -> None:
    for pair, differences in found:
        pair.on_compared(differences)
