"""Means and quantiles without samples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.model.speed import Mean, Sketch, clock_bucket, clock_of, figure_bucket, figure_of
from gpuwarden.policy.sketch import MOST_BUCKETS, REMEMBERED_SECONDS, counted, quantile, smoothed


@given(st.lists(st.integers(40, 640), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_a_value_that_was_seen_and_splits_as_said(values: list[int], share: float) -> None:
    """At least the share of the seconds lies at or below it, and fewer lie strictly below."""
    sketch = Sketch()
    for value in values:
        sketch = counted(sketch, value, 1.0)
    found = quantile(sketch, share, lambda bucket: bucket)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


def test_an_empty_sketch_has_no_quantile() -> None:
    """Nothing seen is no measure."""
    assert quantile(Sketch(), 0.95, clock_of) is None


def test_clocks_come_back_exactly_and_figures_to_a_hundredth() -> None:
    """The steps of NVIDIA's clocks are kept; a figure of any scale is known to half a per cent."""
    for hertz in (210e6, 1_410e6, 1_980e6, 2_805e6):
        assert clock_of(clock_bucket(hertz)) == hertz
    for figure in (1e-6, 0.7, 42.0, 3.1e9):
        assert figure_of(figure_bucket(figure)) == pytest.approx(figure, rel=0.006)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=300, max_size=600))
def test_a_sketch_stays_small_whatever_it_is_told(buckets: list[int]) -> None:
    """Its size is bounded, and it never holds a bucket without time in it."""
    sketch = Sketch()
    for bucket in buckets:
        sketch = counted(sketch, bucket, 1.0)
    assert len(sketch.weights) <= MOST_BUCKETS
    assert all(weight > 0 for weight in sketch.weights.values())


def test_what_was_long_ago_fades_until_the_new_is_the_usual() -> None:
    """A card that became slower for good is measured by its new self after a week or two of work, not in a day."""
    sketch = counted(Sketch(), clock_bucket(1980e6), REMEMBERED_SECONDS)
    day = 86_400.0
    days = 0
    while quantile(sketch, 0.95, clock_of) == 1980e6:
        days += 1
        for _ in range(144):
            sketch = counted(sketch, clock_bucket(1500e6), day / 144)
        assert sketch.seconds <= REMEMBERED_SECONDS
        assert days < 30
    assert 3 <= days <= 14


def test_a_mean_follows_and_starts_anew_after_a_silence() -> None:
    """Two thirds of the way after one time constant; after four without a sample nothing of the old is left."""
    mean: Mean | None = Mean(100.0, 0.0)
    for second in range(1, 16):
        mean = smoothed(mean, 200.0, float(second), 15.0)
    assert mean is not None
    assert mean.value == pytest.approx(200.0 - 100.0 / math.e)
    assert smoothed(mean, 50.0, 80.0, 15.0) == Mean(50.0, 80.0)
