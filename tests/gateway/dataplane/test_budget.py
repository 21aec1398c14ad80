"""Second attempts are a share of the draws, whatever fails."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.budget import RetryBudget, RetryLimits

LIMITS = RetryLimits(ratio=0.2, min_per_s=10, burst_s=10)


def spend(budget: RetryBudget) -> int:
    """Take all there is."""
    taken = 0
    while budget.take():
        taken += 1
    return taken


def test_a_route_that_just_began_has_what_time_alone_allows() -> None:
    assert spend(RetryBudget(LIMITS, 0, 100.0)) == 100


def test_draws_and_time_fill_it_again() -> None:
    budget = RetryBudget(LIMITS, 0, 100.0)
    spend(budget)
    budget.refill(500, 101.0)
    assert spend(budget) == 500 * 0.2 + 10


def test_a_busy_route_may_spend_what_ten_seconds_of_it_allow_and_no_more() -> None:
    budget, draws = RetryBudget(LIMITS, 0, 0.0), 0
    for second in range(1, 200):
        draws += 5_000
        budget.refill(draws, float(second))
    assert 0.95 * 10_100 < spend(budget) <= 10_100


def test_draws_that_are_counted_anew_do_no_harm() -> None:
    budget = RetryBudget(LIMITS, 10_000, 0.0)
    spend(budget)
    budget.refill(50, 0.0)
    assert spend(budget) == 0
    budget.refill(100, 0.0)
    assert spend(budget) == 10


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    budget = RetryBudget(LIMITS, 0, 50.0)
    spend(budget)
    budget.refill(0, 50.0)
    budget.refill(0, 10.0)
    assert spend(budget) == 0
    budget.refill(0, 50.1)
    assert spend(budget) == 1


def test_none_at_all_is_possible() -> None:
    assert spend(RetryBudget(RetryLimits(0, 0, 10), 0, 0.0)) == 0


@given(st.lists(st.tuples(st.integers(0, 1_000), st.floats(0, 5), st.integers(0, 300)), max_size=50))
def test_never_more_than_a_share_of_the_draws_and_the_minimum(steps: list[tuple[int, float, int]]) -> None:
    budget, draws, now_s, spent = RetryBudget(LIMITS, 0, 0.0), 0, 0.0, 0
    for came, passed_s, wanted in steps:
        draws, now_s = draws + came, now_s + passed_s
        budget.refill(draws, now_s)
        spent += sum(budget.take() for _ in range(wanted))
        assert spent <= draws * LIMITS.ratio + (now_s + LIMITS.burst_s) * LIMITS.min_per_s + 1e-6
