"""How fast one GPU works, as aggregates: smoothed clocks, how often it ran at which speed, and what it is held against.

No sample is kept. A `Sketch` counts seconds by value, so that a quantile of days costs a few hundred numbers at most.
"""

from __future__ import annotations

import enum
import math

import msgspec

_CLOCK_STEP_HERTZ = 5e6  # clocks come in steps of 15 MHz, and some drivers in others
_RELATIVE_STEP = math.log(1.01)


class Mean(msgspec.Struct, frozen=True, array_like=True):
    """A value smoothed over the last seconds; `at` is the boot time of its last sample."""

    value: float
    at: float


class Sketch(msgspec.Struct, frozen=True):
    """Seconds spent at each value, by the number of a bucket. Old seconds fade: what is seen now counts more."""

    weights: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        """Return how much time is remembered."""
        return sum(self.weights.values())


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


class Reference(enum.Enum):
    """Where the clock comes from that a GPU is held against, best first."""

    PEERS = "peers"
    """Median of the busy GPUs of its model, at its power limit, on this host."""
    HISTORY = "history"
    """What it reached itself in 95 of 100 busy seconds, or more."""
    CUSTOMER_BOOST = "customer_boost"
    """The boost clock NVIDIA promises for the board; data-centre boards only."""
    SHARE_OF_MAX = "share_of_max"
    """A share of the highest clock of the card, which a healthy GeForce card under load stays above."""


class Peers(msgspec.Struct, frozen=True, array_like=True):
    """The busy GPUs of one model and power limit on this host, the GPU itself among them."""

    busy: int
    median_hertz: float
    mad_hertz: float  # median absolute deviation


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one GPU's real work per second. `value` and `mean` are None while the source does not tell it."""

    value: float | None = None
    mean: Mean | None = None
    at: float | None = None  # boottime of the last figure
    history: Sketch = Sketch()  # under load
    usual: float | None = None  # the median of the history, once it is long enough to be a measure


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU's speed. The means are None while it does not work."""

    at: float | None = None  # boottime of the last look
    clock: Mean | None = None  # SM clock in hertz, under load
    free_clock: Mean | None = None  # the same, of the seconds in which the driver gave no reason to hold it down
    history: Sketch = Sketch()  # of the free clock
    peers: Peers | None = None
    reference_hertz: float | None = None
    reference: Reference | None = None

    @property
    def ratio(self) -> float | None:
        """Return the clock under load against the reference; None while idle or without a reference."""
        if self.clock is None or not self.reference_hertz:
            return None
        return self.clock.value / self.reference_hertz
