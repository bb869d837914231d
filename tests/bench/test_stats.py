"""Medians, spreads and ratios."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.bench.stats import quantile, ratio, summarize

POSITIVE = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9)


def test_summary_of_known_numbers() -> None:
    seen = summarize([5.0, 1.0, 2.0, 100.0, 4.0])
    assert (seen.n, seen.median, seen.mad, seen.q1, seen.q3) == (5, 4.0, 2.0, 2.0, 5.0)
    assert seen.spread == pytest.approx(0.75)


def test_quantile_interpolates() -> None:
    assert quantile([10.0, 20.0], 0.25) == pytest.approx(12.5)


def test_nothing_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_one_outlier_does_not_move_the_ratio() -> None:
    assert ratio([1.0, 1.0, 1.0, 1.0, 50.0], [2.0] * 5).value == pytest.approx(0.5)


def test_the_interval_shows_noise() -> None:
    quiet = ratio([1.0, 1.01, 0.99, 1.0, 1.0], [1.0] * 5)
    noisy = ratio([0.5, 1.0, 1.6, 1.0, 2.5], [1.0] * 5)
    assert quiet.high - quiet.low < 0.05 < noisy.high - noisy.low


@given(POSITIVE, POSITIVE)
def test_the_interval_is_ordered_and_repeatable(ours: list[float], theirs: list[float]) -> None:
    seen = ratio(ours, theirs, draws=50)
    assert seen.low <= seen.high
    assert min(ours) / max(theirs) <= seen.low
    assert seen.high <= max(ours) / min(theirs)
    assert seen == ratio(ours, theirs, draws=50)
