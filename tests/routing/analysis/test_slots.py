"""Runs of failures over several sources: what is told of slots of time, in which order, and what is a run then."""

import json

import pytest

from routing.analysis.slots import SLOTS_MAX, Run, SlottedRun


def longest(*news: tuple[int, int, int, int]) -> Run:
    held = SlottedRun()
    for slot in news:
        held.add(*slot)
    return held.longest()[0]


def test_slots_in_which_everything_failed_are_one_run_whatever_gaps_lie_between() -> None:
    assert longest((1, 2, 2, 2), (2, 3, 3, 1), (90, 1, 1, 0)) == Run(6, 3)


def test_one_attempt_that_has_not_failed_breaks_the_run_on_both_sides() -> None:
    assert longest((1, 3, 3, 3), (2, 4, 3, 3), (3, 2, 2, 2)) == Run(3, 3)


def test_a_failure_that_is_known_late_joins_what_lies_beside_it() -> None:
    assert longest((1, 2, 2, 2), (2, 1, 0, 0), (3, 2, 2, 2)) == Run(2, 2)
    assert longest((1, 2, 2, 2), (2, 1, 0, 0), (3, 2, 2, 2), (2, 0, 1, 0)) == Run(5, 4)


def test_an_attempt_that_another_source_tells_late_breaks_the_run() -> None:
    assert longest((1, 2, 2, 2), (2, 2, 2, 2), (3, 2, 2, 2), (2, 1, 0, 0)) == Run(2, 2)


def test_failures_of_attempts_that_were_never_told_are_passed_over() -> None:
    assert longest((1, 0, 9, 9)) == Run(0, 0)
    assert longest((1, 2, 1, 1), (1, 0, 9, 9)) == Run(2, 2)


def test_the_window_is_bounded_and_what_left_it_is_forgotten() -> None:
    held = SlottedRun()
    for slot in range(10 * SLOTS_MAX):
        held.add(slot, 1, 0, 0)
    held.add(5, 0, 1, 1)
    assert len(held.as_state()) == 1
    for slot in range(10 * SLOTS_MAX - 1, 9 * SLOTS_MAX - 1, -1):
        held.add(slot, 0, 1, 1)
    assert held.longest()[0] == Run(SLOTS_MAX, SLOTS_MAX)


def test_the_longest_within_the_cap_need_not_be_the_longest() -> None:
    held = SlottedRun()
    for slot in [(1, 9, 9, 1), (2, 1, 0, 0), (3, 3, 3, 3)]:
        held.add(*slot)
    assert held.longest() == (Run(9, 1), Run(3, 3))
    assert held.last() == Run(3, 3)


def test_who_goes_on_from_the_state_finds_the_same_runs() -> None:
    held, other = SlottedRun(), SlottedRun()
    for slot in range(100):
        held.add(slot, 2, 2 * (slot % 10 > 6), slot % 10 > 6)
    state = json.loads(json.dumps(held.as_state()))
    assert len(state) == 40, "of seven slots without a failure, one says it"
    other.restore(state)
    assert other.longest() == held.longest()
    assert other.last() == held.last()


def test_a_state_that_is_none_is_an_error() -> None:
    for junk in ([1], [[1, 2]], [["x", 1, 1, 1]], 5):
        with pytest.raises((TypeError, ValueError)):
            SlottedRun().restore(junk)  # type: ignore[arg-type]
