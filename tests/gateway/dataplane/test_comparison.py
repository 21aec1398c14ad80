"""The comparison's thread: bounded in time, never in the way, gone when told."""

import threading
import time
from queue import SimpleQueue
from typing import Any

import pytest

from gateway.dataplane import comparison
from gateway.dataplane.comparison import ANSWER_MAX_BYTES, PAIRS_MAX, SHARE, SLICE_S, Comparison, Pair
from routing.analysis.compare import Differences, agrees

GOOD = b'{"outputs":[{"name":"label","datatype":"INT64","shape":[1],"data":[1]}]}'


@pytest.fixture
def found() -> "SimpleQueue[Differences | None]":
    return SimpleQueue()


def pair(found: "SimpleQueue[Differences | None]", stable: bytes = GOOD, shadow: bytes = GOOD) -> Pair:
    return Pair((stable, None), (shadow, None), found.put)


def test_a_pair_is_compared_on_another_thread_and_told_through_the_loop(found: "SimpleQueue[Any]") -> None:
    threads: list[str] = []

    def call_soon(function: Any) -> None:
        threads.append(threading.current_thread().name)
        function()

    before = set(threading.enumerate())
    compares = Comparison(call_soon)
    assert set(threading.enumerate()) <= before, "no thread before there is work"
    assert compares.submit(pair(found))
    assert compares.submit(pair(found, shadow=b"nonsense"))
    assert compares.submit(pair(found, stable=b"nonsense"))
    assert agrees(found.get(timeout=5))
    assert not agrees(found.get(timeout=5))
    assert found.get(timeout=5) is None
    assert set(threads) == {"compare"}
    compares.stop()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "compare"]
    assert not compares.submit(pair(found))


def test_a_pair_that_breaks_the_comparison_is_logged_and_the_next_one_is_compared(
    found: "SimpleQueue[Any]", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compares = Comparison(lambda function: function())
    with monkeypatch.context() as broken:
        broken.setattr(comparison, "compare_answers", None)
        assert compares.submit(pair(found))
        assert found.get(timeout=5) is None
    assert compares.submit(pair(found))
    assert agrees(found.get(timeout=5))
    compares.stop()
    assert [record.message for record in caplog.records] == ["a pair could not be compared"]


def test_large_answers_are_refused(found: "SimpleQueue[Any]") -> None:
    compares = Comparison(lambda function: function())
    assert not compares.submit(pair(found, shadow=b"x" * (ANSWER_MAX_BYTES + 1)))
    compares.stop()


def test_more_than_its_share_is_refused_and_never_used(found: "SimpleQueue[Any]") -> None:
    compares = Comparison(lambda function: function())
    values = ",".join("0.5" for _ in range(4000))
    large = b'{"outputs":[{"name":"p","datatype":"FP32","shape":[4000],"data":[%s]}]}' % values.encode()
    begin_s = time.monotonic()
    refused = 0
    while time.monotonic() - begin_s < 1.0:
        refused += not compares.submit(pair(found, large, large))
        time.sleep(0.0002)
    took_s = time.monotonic() - begin_s
    stop_s = time.monotonic()
    compares.stop()
    assert time.monotonic() - stop_s < 0.5, "it does not finish what waits"
    assert refused > PAIRS_MAX
    assert 0.2 * SHARE * took_s < compares.spent_s < SHARE * took_s + 10 * SLICE_S
