"""Durations and moments: what people write, and what is refused."""

from __future__ import annotations

from datetime import datetime

import click
import pytest

from gpuwarden.cli.options import Duration, Moment, seconds_of, spell

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("1.5", 1.5), ("500ms", 0.5), ("30s", 30.0), ("15m", 900.0), ("1h30m", 5400.0), ("2D", 172_800.0),
     ("1w", 604_800.0), ("0", 0.0)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    """Seconds, or numbers with units one after the other."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "-5", "5x", "nan", "inf", "1h 30m x", "m", "5 minutes"])
def test_what_is_no_duration(text: str) -> None:
    """Neither negative nor endless nor half-right."""
    with pytest.raises(ValueError):
        seconds_of(text)


def test_a_duration_out_of_range_is_refused() -> None:
    """The message names the range."""
    with pytest.raises(click.BadParameter, match="from 1s to 10m"):
        Duration(1.0, 600.0).convert("1h", None, None)


@pytest.mark.parametrize(
    ("text", "wall"),
    [
        pytest.param("15m", NOW - 900, id="so-long-ago"),
        pytest.param("2026-03-01T14:30:00+00:00", 1_772_375_400.0, id="with-zone"),
        pytest.param("2026-03-01", datetime(2026, 3, 1).timestamp(), id="local-day"),
        pytest.param("@1790000000", NOW, id="unix"),
        pytest.param("99999w", 0.0, id="before-all"),
    ],
)
def test_moments(text: str, wall: float) -> None:
    """So long ago, an ISO time, a day, or Unix seconds."""
    assert Moment(lambda: NOW).convert(text, None, None) == wall


@pytest.mark.parametrize("text", ["yesterday", "@x", "2026-13-01", "@nan"])
def test_what_is_no_moment(text: str) -> None:
    """Refused with examples of what is right."""
    with pytest.raises(click.BadParameter, match="is no time"):
        Moment(lambda: NOW).convert(text, None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "0.5s"), (45, "45s"), (200, "3m 20s"), (3600, "1h"), (7500, "2h 5m"), (349_300, "4d 1h"),
     (-3, "0s"), (59.7, "1m")],
)  # fmt: skip
def test_lengths_of_time_are_spelt_in_two_units(seconds: float, text: str) -> None:
    """Short, and never negative."""
    assert spell(seconds) == text
