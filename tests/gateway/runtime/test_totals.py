"""Counts as flat rows that add up."""

from math import inf

from gateway.runtime.totals import flat, nested, news


def test_a_row_has_what_is_counted_and_no_gauges_and_no_zeros() -> None:
    plain = {"drawn": 3, "in_flight": 2, "outcomes": {"ok": 2, "error": 0}, "cells": [0, 0, 7], "max_abs": inf}
    assert flat(plain) == {"drawn": 3, "outcomes\x1fok": 2, "cells\x1f2": 7}
    assert nested(flat(plain)) == {"drawn": 3, "outcomes": {"ok": 2}, "cells": {"2": 7}}


def test_news_add_up_to_what_there_is_and_the_largest_is_told_whole() -> None:
    before = flat({"drawn": 3, "pairs": {"sum_abs": 0.5, "max_abs": 2.0}})
    now = flat({"drawn": 5, "pairs": {"sum_abs": 0.75, "max_abs": 2.5}, "sent": 1})
    assert news(now, before) == ({"drawn": 2, "pairs\x1fsum_abs": 0.25, "sent": 1}, {"pairs\x1fmax_abs": 2.5})
    assert news(now, now) == ({}, {})
