"""Means and quantiles without samples: an exponential mean, and seconds counted by value that fade with age."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpuwarden.model.speed import Mean, Sketch

MOST_BUCKETS = 256
REMEMBERED_SECONDS = 3 * 86_400.0
"""A sketch that holds this much forgets half of each bucket: a change that stays is the new usual after a week."""
_LEAST_SECONDS = 1.0  # a bucket with less is not worth its place


def smoothed(mean: Mean | None, value: float, at: float, seconds: float) -> Mean:
    """Return a mean one sample on, with a time constant; a first sample, and one after a long silence, start anew."""
    if mean is None or at - mean.at > 4 * seconds:
        return Mean(value, at)
    share = 1.0 - math.exp(-(at - mean.at) / seconds)
    return Mean(mean.value + share * (value - mean.value), at)


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
