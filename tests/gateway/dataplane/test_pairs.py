"""What makes a pair of stable's answer and a shadow's, and which requests are in the sample."""

import pytest

from gateway.backends.base import Reply
from gateway.dataplane.copies import COPY_BYTES
from routing.analysis.outcome import Kind
from tests.gateway.dataplane.mirror_rig import CANARY, GOOD, OTHER, Rig


def test_only_stables_answers_make_pairs() -> None:
    rig = Rig()
    rig.offer(arm=CANARY)
    rig.offer()
    rig.run()
    rig.backend.answer()
    rig.backend.answer(body=OTHER)
    assert rig.evidence.not_paired == 1
    assert rig.evidence.pairs.as_json()["table"] == {
        "both_ok": 1,
        "shadow_failed": 0,
        "stable_failed": 0,
        "both_failed": 0,
    }
    assert (rig.evidence.pairs.compared, rig.evidence.pairs.agreed) == (1, 0)


@pytest.mark.parametrize(
    ("stable", "shadow", "cell"),
    [
        (Kind.OK, Kind.OK, "both_ok"),
        (Kind.OK, Kind.ERROR, "shadow_failed"),
        (Kind.OK, Kind.REJECTED, "shadow_failed"),
        (Kind.TIMEOUT, Kind.OK, "stable_failed"),
        (Kind.REJECTED, Kind.REJECTED, "both_failed"),
        (Kind.OK, Kind.OVERLOADED, None),
        (Kind.OK, Kind.UNREACHABLE, None),
        (Kind.UNREACHABLE, Kind.OK, None),
    ],
)
def test_the_table_of_errors(stable: Kind, shadow: Kind, cell: str | None) -> None:
    rig = Rig()
    rig.offer(reply=Reply(stable, 200 if stable is Kind.OK else 500, GOOD))
    rig.run()
    rig.backend.answer(shadow)
    table = rig.evidence.pairs.as_json()["table"]
    assert table == {name: int(name == cell) for name in table}
    agrees = {"both_ok": ["true"], "shadow_failed": ["false"], "stable_failed": ["false"]}.get(cell or "", [])
    assert [agree for _, _, agree in rig.mirror.counts.pairs] == agrees


def test_the_latency_ratio_is_shadows_over_stables() -> None:
    rig = Rig()
    rig.offer()
    rig.run()
    rig.now_s += 0.020
    rig.backend.answer()
    ratio = rig.evidence.pairs.as_json()["latency_ratio"]
    assert (ratio["p50"], ratio["slower"]) == (2.0, 1)


def test_pairs_beyond_the_comparisons_time_or_memory_are_counted() -> None:
    rig = Rig(max_bytes=20_000)
    rig.comparison.is_full = True
    rig.offer()
    rig.run()
    rig.backend.answer()
    assert (rig.evidence.not_compared, rig.evidence.pairs.both_ok) == (1, 1)
    rig.comparison.is_full = False
    rig.offer()
    rig.run()
    rig.backend.answer(body=b"x" * 20_000)
    assert rig.evidence.not_compared == 2
    assert rig.mirror.held_bytes == 0


def test_answers_that_are_being_compared_count_in_the_queue() -> None:
    rig = Rig()
    rig.comparison.waiting = []
    rig.offer()
    rig.run()
    rig.backend.answer()
    assert rig.mirror.held_bytes == COPY_BYTES + 2 * len(GOOD)
    pair = rig.comparison.waiting.pop()
    pair.on_compared(pair.compare())
    assert rig.mirror.held_bytes == 0
    assert rig.evidence.pairs.agreed == 1


def test_a_key_is_always_or_never_in_the_sample_and_keyless_draws_are_independent() -> None:
    rig = Rig({"version": "3", "sample": 30}, max_bytes=1 << 30)
    copied = 0
    for n in range(400):
        before = rig.evidence.offered
        for _ in range(3):
            rig.offer(key=b"customer-%d" % n)
        assert rig.evidence.offered - before in {0, 3}
        copied += rig.evidence.offered > before
    assert 90 <= copied <= 150
    before = rig.evidence.offered
    for _ in range(1000):
        rig.offer(key=None)
    assert 240 <= rig.evidence.offered - before <= 360
