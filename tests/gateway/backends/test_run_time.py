"""How many rows one run has is learnt from how long runs take."""

from collections.abc import Callable

import pytest

from gateway.backends.run_time import (
    INLINE_LIMIT_S,
    MAX_BATCH_ROWS,
    PATIENCE_RUNS,
    THREAD_LIMIT_S,
    WINDOW_RUNS,
    RunTime,
)


def learnt(cost_s: Callable[[int], float], runs: int = 300, waiting: int = 1000) -> RunTime:
    """After ``runs`` batches, with always ``waiting`` rows in the queue."""
    moving = RunTime()
    moving.observe(cost_s(1), 1)
    for _ in range(runs):
        rows = min(waiting, moving.next_turn_rows() if moving.inline_rows else moving.next_batch_rows())
        moving.observe(cost_s(max(rows, 1)), rows)
    return moving


def test_a_model_whose_calls_cost_most_gets_many_rows_a_run_and_stays_within_the_limit() -> None:
    def cost_s(rows: int) -> float:
        return 20e-6 + rows * 4e-6

    moving = learnt(cost_s)
    assert min(moving.turn_rows, moving.inline_rows) >= 64
    assert cost_s(moving.inline_rows) <= INLINE_LIMIT_S * 1.1


def test_a_model_that_gains_nothing_from_company_runs_alone() -> None:
    """As a text model does that pads every row to the longest."""
    assert learnt(lambda rows: 0.010 * rows * (1 + 0.1 * (rows - 1))).batch_rows == 1


def test_a_long_model_that_gains_gets_enough_rows_for_nine_tenths_of_its_best() -> None:
    def cost_s(rows: int) -> float:
        return 0.008 + rows * 0.001

    moving = learnt(cost_s)
    rows = moving.batch_rows
    best = max(n / cost_s(n) for n in range(1, MAX_BATCH_ROWS) if cost_s(n) <= THREAD_LIMIT_S)
    assert rows / cost_s(rows) >= 0.9 * best
    assert cost_s(rows) <= 2 * THREAD_LIMIT_S
    assert moving.inline_rows == 0


def test_one_slow_run_of_a_size_does_not_rule_it_out() -> None:
    slow = {1: 1}

    def cost_s(rows: int) -> float:
        size = (rows - 1).bit_length()
        return (20e-6 + rows * 4e-6) * (20 if slow.pop(size, 0) else 1)

    assert learnt(cost_s).turn_rows >= 64


def test_a_size_that_has_become_better_is_found_again() -> None:
    moving = learnt(lambda rows: 0.002 * rows * (1 + rows))
    assert moving.batch_rows == 1
    for _ in range(1000):
        rows = moving.next_batch_rows()
        moving.observe(0.002 + rows * 1e-5, rows)
    assert moving.batch_rows > 4


def test_many_rows_that_take_long_do_not_drive_few_from_the_loop() -> None:
    moving = RunTime()
    for _ in range(WINDOW_RUNS):
        moving.observe(INLINE_LIMIT_S / 50, 1)
        moving.observe(INLINE_LIMIT_S * 3, 256)
    assert 1 <= moving.inline_rows <= 128


@pytest.mark.parametrize(("share", "comes_back"), [(0.5, True), (1.0, False)])
def test_runs_that_only_waited_for_the_loop_come_back(share: float, comes_back: bool) -> None:
    """On the thread some of them show how short they are; a model that is long shows none."""
    moving = RunTime()
    for _ in range(WINDOW_RUNS):
        moving.observe(INLINE_LIMIT_S * 2, 1)
    assert moving.inline_rows == 0
    back = False
    for n in range(PATIENCE_RUNS + WINDOW_RUNS):
        moving.observe(INLINE_LIMIT_S * (2 if n % 10 < share * 10 else 0.1), 1)
        back = back or moving.inline_rows > 0
    assert back is comes_back


def test_batches_that_take_too_long_become_smaller_before_they_leave_the_loop() -> None:
    moving = RunTime()
    moving.observe(20e-6, 1)
    for _ in range(WINDOW_RUNS):
        moving.observe(INLINE_LIMIT_S * 1.5, 64)
    assert moving.inline_rows == 32


def test_a_bad_spell_is_forgotten() -> None:
    """Batches that were slow while something else had the processor are tried again."""

    def cost_s(rows: int) -> float:
        return 20e-6 + rows * 4e-6

    moving = RunTime()
    for runs, factor in ((20, 1), (60, 100), (3000, 1)):
        for _ in range(runs):
            rows = min(64, moving.next_turn_rows() if moving.inline_rows else moving.next_batch_rows())
            moving.observe(cost_s(rows) * factor, rows)
    assert min(moving.inline_rows, moving.turn_rows) >= 64
