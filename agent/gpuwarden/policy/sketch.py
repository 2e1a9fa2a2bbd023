"""Means and quantiles without samples: an exponential mean, and seconds counted by value that fade with age."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpuwarden.model.speed import Mean, Sketch

MOST_BUCKETS = 256
REMEMBERED_SECONDS = 3 * 86_400.0
"""A sketch that holds this much forgets half of each bucket: a change that stays is the new usual after a week."""
_LEAST_SECONDS = 1.0  # a bucket with less is not worth its place
_CLOCK_STEP_HERTZ = 5e6  # clocks come in steps of 15 MHz, and some drivers in others
_RELATIVE_STEP = math.log(1.01)


def smoothed(mean: Mean | None, value: float, at: float, seconds: float) -> Mean:
    """Return a mean one sample on, with a time constant; a first sample, and one after a long silence, start anew."""
    if mean is None or at - mean.at > 4 * seconds:
        return Mean(value, at)
    share = 1.0 - math.exp(-(at - mean.at) / seconds)
    return Mean(mean.value + share * (value - mean.value), at)


def clock_bucket(hertz: float) -> int:
    """Return the bucket of a clock; `clock_of` is the way back."""
    return round(hertz / _CLOCK_STEP_HERTZ)


def clock_of(bucket: int) -> float:
    """Return the clock of a bucket in hertz."""
    return bucket * _CLOCK_STEP_HERTZ


def figure_bucket(figure: float) -> int:
    """Return the bucket of a figure above 0 of any scale, to a hundredth of it; `figure_of` is the way back."""
    return round(math.log(figure) / _RELATIVE_STEP)


def figure_of(bucket: int) -> float:
    """Return the figure of a bucket."""
    return math.exp(bucket * _RELATIVE_STEP)


def counted(sketch: Sketch, bucket: int, seconds: float) -> Sketch:
    """Return a sketch with some more seconds at one value. Its size is bounded: the least visited values go first."""
    weights = sketch.weights | {bucket: sketch.weights.get(bucket, 0.0) + seconds}
    if sum(weights.values()) > REMEMBERED_SECONDS:
        weights = {each: weight / 2 for each, weight in weights.items() if weight / 2 >= _LEAST_SECONDS}
    if len(weights) > MOST_BUCKETS:
        least = min(weights, key=lambda each: (weights[each], each))
        del weights[least]
    return Sketch(weights)


def quantile(sketch: Sketch, share: float, value_of: Callable[[int], float]) -> float | None:
    """Return the value that a share of the seconds does not exceed; None of an empty sketch."""
    left = share * sketch.seconds
    found = None
    for bucket in sorted(sketch.weights):
        found = bucket
        left -= sketch.weights[bucket]
        if left <= 0:
            break
    return None if found is None else value_of(found)
