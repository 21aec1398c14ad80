"""Laws and rules of the guard."""

import json
import time
from math import exp, isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from routing.analysis.ecusum import ODDS_CAP, Ecusum, Odds, alternatives, fuse_length
from routing.analysis.guard import CHARGES_PER_KEY, KEYS_MAX, Detector, KeyCap
from routing.analysis.merged import MergedDetector, is_shared
from routing.analysis.objective import Objective, Trip, objectives
from routing.analysis.ordered import WINDOW, OrderedCusum, State

rates = st.floats(1e-5, 0.5)
streams = st.lists(st.sampled_from("gggbax"), min_size=1, max_size=60)  # good, bad, capped, aside


def detector(**slo: float) -> Detector:
    return Detector(objectives(**slo))


def charge_in_a_row(guard: Detector, count: int, key_hash: int | None = None) -> list[Trip | None]:
    return [guard.charged(guard.dispatched(), 0, key_hash) for _ in range(count)]


# The arithmetic


@pytest.mark.parametrize(("p0", "length"), [(1e-5, 5), (0.01, 5), (0.02, 6), (0.2, 15), (0.5, 34)])
def test_a_fuse_is_long_enough_for_its_rate(p0: float, length: int) -> None:
    assert fuse_length(p0) == length


@given(rates)
def test_a_full_run_at_the_tolerated_rate_is_one_in_ten_thousand_million(p0: float) -> None:
    assert p0 ** fuse_length(p0) <= exp(-23)


@given(rates)
def test_all_alternatives_are_worse_than_the_promise(p0: float) -> None:
    found = alternatives(p0)
    assert found
    assert all(p0 < p < 1 for p in found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("p0", "c"), [(0.0, 1e6), (0.6, 1e6), (0.01, 1.0), (float("nan"), 1e6)])
def test_a_test_out_of_range_is_refused(p0: float, c: float) -> None:
    with pytest.raises(ValueError):
        Ecusum(p0, c)


@given(rates, st.integers(0, 200), st.integers(0, 200))
def test_a_batch_on_fresh_odds_is_the_likelihood_ratio(p0: float, good: int, bad: int) -> None:
    test = Ecusum(p0)
    after = test.step_batch(test.start, good + bad, bad)
    null = binom.logpmf(bad, good + bad, p0)
    for odds, p in zip(after, alternatives(p0), strict=True):
        ratio = binom.logpmf(bad, good + bad, p) - null
        assert isclose(odds, exp(min(max(ratio, 0.0), 18.420680743952367)), rel_tol=1e-6)


@given(rates, st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=5))
def test_evidence_stays_between_one_and_a_hundred_c(p0: float, batches: list[tuple[int, int]]) -> None:
    test = Ecusum(p0)
    odds = test.start
    for good, bad in batches:
        odds = test.step_batch(odds, good + bad, bad)
        assert 1 <= test.evidence(odds) <= ODDS_CAP * test.c * (1 + 1e-9)
        odds = test.step(odds, bad=True)
        assert test.evidence(odds) <= ODDS_CAP * test.c


@given(rates, st.integers(0, 10**12))
def test_good_answers_on_fresh_odds_change_nothing(p0: float, count: int) -> None:
    test = Ecusum(p0)
    assert test.step_good(test.start, count) is test.start


@given(rates, st.integers(0, 20), st.integers(0, 50))
def test_many_good_answers_are_one_step(p0: float, bad: int, good: int) -> None:
    test = Ecusum(p0)
    odds = test.start
    for _ in range(bad):
        odds = test.step(odds, bad=True)
    at_once = test.step_good(odds, good)
    for _ in range(good):
        odds = test.step(odds, bad=False)
    assert at_once == pytest.approx(odds, rel=1e-9)


def test_more_bad_than_attempts_is_refused() -> None:
    test = Ecusum(0.01)
    with pytest.raises(ValueError, match="3 of 2"):
        test.step_batch(test.start, 2, 3)


# The order of dispatch


def in_order(test: Ecusum, stream: list[str]) -> State:
    """What the plain e-CUSUM and fuse say when each attempt ends before the next one starts."""
    odds: Odds = test.start
    run = 0
    for fate in stream:
        if fate == "b":
            odds = test.step(odds, bad=True)
        elif fate == "g":
            odds = test.step(odds, bad=False)
        run = 0 if fate == "g" else run + (fate in "bx")
    return State(odds, run)


@settings(max_examples=200)
@given(streams, st.data())
def test_the_order_of_ending_does_not_matter(stream: list[str], data: st.DataObject) -> None:
    test = Ecusum(0.05)
    kept = OrderedCusum(test, fuse_length(0.05))
    for ticket in data.draw(st.permutations([i for i, fate in enumerate(stream) if fate != "g"])):
        if stream[ticket] == "a":
            kept.aside(ticket)
        else:
            kept.hit(ticket, capped=stream[ticket] == "x")
    kept.hit(len(stream), capped=False)
    found, expected = kept.now(len(stream) + 1), in_order(test, [*stream, "b"])
    assert found.odds == pytest.approx(expected.odds, rel=1e-9)
    assert found.run == expected.run


@given(streams)
def test_a_failure_that_waits_for_its_proof_counts_in_its_place(stream: list[str]) -> None:
    waited, at_once = (OrderedCusum(Ecusum(0.05), 15) for _ in range(2))
    bad = [ticket for ticket, fate in enumerate(stream) if fate == "b"]
    for ticket in bad:
        waited.aside(ticket)
        at_once.hit(ticket, capped=False)
    for ticket in bad:
        waited.hit(ticket, capped=False)
    assert waited.now(len(stream)) == at_once.now(len(stream))


def test_an_attempt_is_charged_once() -> None:
    kept = OrderedCusum(Ecusum(0.01), 5)
    for _ in range(10):
        assert kept.hit(0, capped=False) is None
    assert kept.hits == 1


def test_a_hit_cannot_be_set_aside() -> None:
    kept = OrderedCusum(Ecusum(0.01), 5)
    kept.hit(0, capped=False)
    kept.aside(0)
    assert (kept.hits, kept.set_aside, kept.now(1).run) == (1, 0, 1)


def test_a_hit_that_comes_after_a_window_of_later_ones_is_counted_not_stepped() -> None:
    kept = OrderedCusum(Ecusum(0.01), 5)
    for ticket in range(1, WINDOW + 2):
        kept.hit(ticket * 1_000, capped=False)
    before = kept.now(10**6)
    assert kept.hit(0, capped=False) is None
    assert kept.late == 1
    assert kept.now(10**6) == before


# The detector


def test_a_dead_canary_trips_on_its_fourth_failure() -> None:
    guard = detector(max_rate=0.01)
    first, second, third, trip = charge_in_a_row(guard, 4)
    assert (first, second, third) == (None, None, None)
    assert trip is not None
    assert (trip.objective, trip.attempts, trip.charged) == ("errors", 4, 4)
    assert trip.sentence() == "4 of 4 attempts failed; odds 21,200,000 : 1 against a rate of at most 1 %"


def test_a_detector_trips_once() -> None:
    guard = detector(max_rate=0.01)
    assert sum(trip is not None for trip in charge_in_a_row(guard, 20)) == 1
    assert guard.tripped


def test_without_an_error_objective_the_fuse_alone_watches() -> None:
    *before, trip = charge_in_a_row(detector(), 5)
    assert not any(before)
    assert trip is not None
    assert (trip.objective, trip.run) == ("fuse", 5)
    assert trip.sentence() == "5 attempts in a row failed (5 of 5 in all)"


def test_one_key_cannot_move_the_odds_but_blows_the_fuse() -> None:
    *before, trip = charge_in_a_row(detector(max_rate=0.01), 5, key_hash=7)
    assert not any(before)
    assert trip is not None
    assert trip.objective == "fuse"
    assert trip.odds < 10_000


def test_one_key_blows_no_fuse_where_others_may_know_of_good_answers() -> None:
    guard = Detector((), is_alone=False)
    assert not any(charge_in_a_row(guard, 50, key_hash=7))
    assert guard.evidence()["fuse"] == {"p0": 0.01, "run": 50, "length": 5, "charged": 50}
    found = [guard.charged(guard.dispatched(), 0, key) for key in (8, 9, 10)]
    assert [trip is not None for trip in found] == [False, False, True]
    assert not any(charge_in_a_row(Detector((), is_alone=False), 4))
    assert any(charge_in_a_row(Detector((), is_alone=False), 5)), "draws without a key have no cap"


def test_one_poisoned_key_between_good_answers_never_trips() -> None:
    guard = detector(max_rate=0.01)
    for _ in range(1_000):
        assert not any(charge_in_a_row(guard, 4, key_hash=7))
        assert guard.answered(guard.dispatched(), 0.01, 0, 8) is None


def test_a_good_answer_between_failures_ends_the_run() -> None:
    guard = detector()
    assert not any(charge_in_a_row(guard, 4))
    guard.answered(guard.dispatched(), 0.01, 0, None)
    assert not any(charge_in_a_row(guard, 4))


def test_what_is_no_evidence_does_not_end_the_run() -> None:
    guard = detector()
    assert not any(charge_in_a_row(guard, 4))
    guard.set_aside(guard.dispatched(), 0)
    assert charge_in_a_row(guard, 1) != [None]


def test_requests_that_nobody_is_charged_for_do_not_dilute_failures() -> None:
    guard = detector(max_rate=0.01)
    trips = []
    for attempt in range(400):
        if attempt % 100:
            guard.set_aside(guard.dispatched(), 0)
        else:
            trips += charge_in_a_row(guard, 1)
    assert [trip is not None for trip in trips] == [False, False, False, True]


def test_slow_is_counted_before_the_answer_and_once() -> None:
    guard = detector(p99_ms=50)
    ticket = guard.dispatched()
    mask, trip = guard.sweep(ticket, 0.04, 0, None)
    assert (mask, trip) == (0, None)
    mask, _ = guard.sweep(ticket, 0.06, mask, None)
    assert mask == 1
    assert guard.sweep(ticket, 0.08, mask, None) == (1, None)
    guard.answered(ticket, 0.09, mask, None)
    assert objective(guard, "latency_p99")["charged"] == 1


def test_hung_attempts_trip_before_any_answer() -> None:
    guard = detector(max_rate=0.01, p99_ms=50)
    tickets = [guard.dispatched() for _ in range(4)]
    *_, (_, trip) = [guard.sweep(ticket, 0.051, 0, None) for ticket in tickets]
    assert trip is not None
    assert (
        trip.sentence() == "4 of 4 attempts took longer than 50 ms; odds 21,200,000 : 1 against a rate of at most 1 %"
    )


def test_each_threshold_has_its_bit() -> None:
    guard = detector(max_rate=0.01, p50_ms=10, p95_ms=20, p99_ms=50)
    ticket = guard.dispatched()
    assert [guard.sweep(ticket, age_s, 0, None)[0] for age_s in (0.01, 0.011, 0.021, 0.051)] == [0, 1, 3, 7]


def test_the_cap_on_a_key_covers_slow_answers() -> None:
    guard = detector(p99_ms=50)
    for _ in range(100):
        assert guard.answered(guard.dispatched(), 1.0, 0, 7) is None
    assert objective(guard, "latency_p99")["capped"] == 100 - CHARGES_PER_KEY


def test_a_failure_says_nothing_about_latency_unless_it_was_slow() -> None:
    guard = detector(max_rate=0.5, p99_ms=50)
    guard.charged(guard.dispatched(), 0, None)
    ticket = guard.dispatched()
    mask, _ = guard.sweep(ticket, 0.06, 0, None)
    guard.charged(ticket, mask, None)
    assert (objective(guard, "latency_p99")["attempts"], objective(guard, "latency_p99")["charged"]) == (1, 1)


def test_an_answer_read_in_a_lagging_tick_says_nothing_about_latency() -> None:
    guard = detector(max_rate=0.01, p99_ms=50)
    guard.answered(guard.dispatched(), None, 0, None)
    assert (objective(guard, "errors")["attempts"], objective(guard, "latency_p99")["attempts"]) == (1, 0)


def test_a_failure_in_flight_with_stable_is_not_a_good_answer() -> None:
    guard = detector(max_rate=0.01)
    tickets = [guard.dispatched() for _ in range(100)]
    for ticket in tickets:
        guard.set_aside(ticket, 0)
    trips = [guard.charged(ticket, 0, None) for ticket in (90, 10, 50, 30)]
    assert [trip is not None for trip in trips] == [False, False, False, True]


def test_evidence_is_plain_data() -> None:
    guard = detector(max_rate=0.01, p99_ms=50)
    charge_in_a_row(guard, 2, key_hash=7)
    found = json.loads(json.dumps(guard.evidence()))
    assert found["fuse"] == {"p0": 0.01, "run": 2, "length": 5, "charged": 2}
    assert found["objectives"]["errors"]["attempts"] == 2
    assert set(found["objectives"]) == {"errors", "latency_p99"}


def objective(guard: Detector, name: str) -> dict[str, object]:
    found = guard.evidence()["objectives"]
    assert isinstance(found, dict)
    return dict(found[name])


# The cap


def test_a_keyless_draw_is_never_capped() -> None:
    cap = KeyCap()
    assert not any(cap.is_spent(None) for _ in range(100))


def test_the_third_charge_of_a_key_is_capped() -> None:
    cap = KeyCap()
    assert [cap.is_spent(7) for _ in range(4)] == [False, False, True, True]


def test_a_key_that_goes_on_failing_is_never_forgotten() -> None:
    cap = KeyCap()
    for key in range(3 * KEYS_MAX):
        poisoned = cap.is_spent(-1)
        assert poisoned is (key >= CHARGES_PER_KEY)
        cap.is_spent(key)


def test_a_key_is_let_in_again_after_so_many_others_have_failed() -> None:
    cap = KeyCap()
    for key in [7, 7, *range(100, 100 + KEYS_MAX)]:
        cap.is_spent(key)
    assert not cap.is_spent(7)


# Merged counters


def test_merged_counters_trip_on_what_no_worker_sees_alone() -> None:
    merged = MergedDetector(objectives(max_rate=0.01))
    assert merged.flush({"errors": (2, 2)}) is None
    trip = merged.flush({"errors": (2, 2), "unheard_of": (1, 1)})
    assert trip is not None
    assert (trip.objective, trip.attempts, trip.charged) == ("errors", 4, 4)
    assert merged.flush({"errors": (2, 2)}) is None


def test_hits_may_come_in_a_later_flush_than_their_attempts() -> None:
    merged = MergedDetector(objectives(max_rate=0.01))
    merged.flush({"errors": (3, 0)})
    merged.flush({"errors": (0, 3)})
    assert merged.evidence("errors") == pytest.approx(sum((p / 0.01) ** 3 for p in alternatives(0.01)) / 5)


@pytest.mark.parametrize(("hits", "shared"), [(1, False), (2, True)])
def test_a_fault_is_shared_when_stable_has_it_too(hits: int, shared: bool) -> None:
    stable = MergedDetector([Objective("errors", 0.01)])
    stable.flush({"errors": (hits, hits)})
    assert is_shared(stable.evidence("errors")) is shared


# Cost


def test_one_look_takes_less_than_fifty_microseconds() -> None:
    guard = Detector(objectives(max_rate=0.01, p95_ms=20, p99_ms=50))
    started_s = time.perf_counter()
    for _ in range(20_000):
        guard.answered(guard.dispatched(), 0.01, 0, None)
    good_us = (time.perf_counter() - started_s) / 20_000 * 1e6
    started_s = time.perf_counter()
    for key in range(2_000):
        for _ in range(200):
            guard.dispatched()
        guard.charged(guard.dispatched(), 0, key)
    charged_us = (time.perf_counter() - started_s) / 2_000 * 1e6
    assert good_us < 10
    assert charged_us < 200  # includes the 200 dispatches
