"""How many pairs of answers are compared in the time that comparing may take."""

import json
import random
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from gateway.dataplane.comparison import SHARE, Comparison, Pair
from loadtests.options import Options
from loadtests.result import Result, at_most
from routing.analysis.compare import Differences, Pairs

RATE = 1000.0
SECONDS = 10.0
GRACE_S = 1.0
ANSWERS = 64  # different ones


def pairs_compared(options: Options) -> Result:
    """Promise: 1,000 pairs of credit's answers a second are compared, none refused, in 5 % of a core."""
    rate, seconds = options.rate or RATE, options.seconds or SECONDS
    draws = random.Random(options.seed)
    answers = [(_answer(draws), _answer(draws)) for _ in range(ANSWERS)]
    pairs = Pairs()
    loop: SimpleQueue[Callable[[], None]] = SimpleQueue()
    comparison = Comparison(loop.put)

    def compared(differences: Differences | None) -> None:
        assert differences is not None
        pairs.add(differences)

    refused, sent, begin_s = 0, 0, time.monotonic()
    while (at_s := time.monotonic() - begin_s) < seconds:
        while sent < at_s * rate:
            ours, theirs = answers[sent % ANSWERS]
            refused += not comparison.submit(Pair((ours, None), (theirs, None), compared))
            sent += 1
        _turn(loop)
    while pairs.compared < sent - refused and time.monotonic() - begin_s < seconds + GRACE_S:
        _turn(loop)
    comparison.stop()
    result = Result("pairs-compared")
    share = comparison.spent_s / seconds * 100
    result.figures = {
        "pairs a second": rate,
        "pairs": sent,
        "compared": pairs.compared,
        "refused": refused,
        "CPU time of a pair us": comparison.spent_s / max(pairs.compared, 1) * 1e6,
    }
    result.promises = [
        at_most("share of a core", SHARE * 100, share, " %"),
        at_most("pairs that were not compared", 0, sent - pairs.compared),
    ]
    return result


def _turn(loop: "SimpleQueue[Callable[[], None]]") -> None:
    time.sleep(0.002)
    while not loop.empty():
        loop.get()()


def _answer(draws: random.Random) -> bytes:
    chance = round(draws.random(), 7)
    plain: dict[str, Any] = {
        "model_name": "credit",
        "model_version": "2",
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [int(chance > 0.5)]},
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [1 - chance, chance]},
        ],
    }
    return json.dumps(plain).encode()
