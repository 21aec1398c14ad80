"""Flips as documents show them, and how long a change waits."""

import orjson
import pytest

from gateway.control.measures import WRITTEN_MAX, Measures, latches
from gateway.metrics.totals import Buckets


def document(**latched: object) -> bytes:
    return orjson.dumps({"guard": {"latched": latched}})


def latch(at: str, **evidence: object) -> dict[str, object]:
    return {"at": at, "reason": "a sentence", "evidence": evidence or None}


def test_a_latch_that_appears_is_a_flip_with_its_reason() -> None:
    measures = Measures(lambda: 0.0)
    measures.seen("credit", 1, document(old=latch("before this process began")))
    assert measures.flips == {}
    measures.seen("credit", 2, document(v2=latch("10:00", objective="latency_p99"), v3=latch("10:00")))
    measures.seen("credit", 3, document(v2=latch("10:00", objective="latency_p99"), v3=latch("10:00")))
    measures.seen("credit", 4, document())
    measures.seen("credit", 5, document(v2=latch("11:00", objective="fuse"), v4=latch("11:00", objective="new one")))
    assert measures.flips == {
        ("credit", "v2", "latency_p99"): 1,
        ("credit", "v3", "operator"): 1,
        ("credit", "v2", "fuse"): 1,
        ("credit", "v4", "other"): 1,
    }


def test_the_lag_is_that_of_the_last_change_or_of_one_that_waits() -> None:
    now_s = [100.0]
    measures = Measures(lambda: now_s[0])
    assert measures.apply_lag_s == 0
    measures.seen("credit", 1, document())
    now_s[0] += 0.25
    measures.applied("credit", 1)
    now_s[0] += 50
    assert measures.apply_lag_s == 0.25
    measures.seen("credit", 2, document())
    now_s[0] += 3
    measures.seen("credit", 3, document())
    measures.applied("credit", 2)
    now_s[0] += 4
    assert measures.apply_lag_s == 7
    measures.forgotten("credit")
    assert measures.apply_lag_s == 0.25


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"guard": 1}', b'{"guard": {"latched": []}}', b"\xff"])
def test_what_cannot_be_read_has_no_latches(data: bytes) -> None:
    assert latches(data) == {}


def test_convergence_is_between_the_write_and_the_word_of_serving_it_by_one_clock() -> None:
    measures = Measures(lambda: 0.0)
    measures.written("credit", 2, 1000.0)
    measures.written("credit", 3, 1000.5)
    measures.heard({"credit": 1}, 1000.6)
    measures.heard({"credit": 2, "other": 9}, 1001.0)
    measures.heard({"credit": 3}, 999.0)
    measures.heard({"credit": 3}, 1002.0)
    samples = measures.samples(is_reachable=True, is_stale=False, losses=0, refused=0, unsent=0)
    buckets = samples["turnout_convergence_seconds"][()]
    assert isinstance(buckets, Buckets)
    assert (buckets.counts[-1], buckets.sum_s) == (1, 1.0), "a clock that was set back says nothing"
    for revision in range(10, 10 + 2 * WRITTEN_MAX):
        measures.written("busy", revision, 0.0)
    assert min(measures._written["busy"]) == 10 + WRITTEN_MAX
