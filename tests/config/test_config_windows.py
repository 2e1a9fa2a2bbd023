"""Maintenance windows: what is written, and when it holds."""

from __future__ import annotations

import pytest

from gpuwarden.config.windows import window_of
from gpuwarden.model.settings import Window
from gpuwarden.policy.guards import in_window

DAY = 86_400.0
MONDAY = 4 * DAY  # 1970-01-05 was one


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("daily 01:00-05:00", Window(days=(0, 1, 2, 3, 4, 5, 6), begin=60, end=300)),
        ("Sat,Sun 02:00-06:30", Window(days=(5, 6), begin=120, end=390)),
        ("Mon-Fri 22:00-04:00", Window(days=(0, 1, 2, 3, 4), begin=1320, end=240)),
        ("fri-mon 00:00-24:00", Window(days=(0, 4, 5, 6), begin=0, end=1440)),
    ],
)
def test_a_window_is_read(text: str, window: Window) -> None:
    """Days in any case, ranges that wrap around the week, the end of the day as 24:00."""
    assert window_of(text) == window


@pytest.mark.parametrize(
    "text", ["", "Mon", "Mon 1-2", "Foo 01:00-02:00", "Mon 25:00-26:00", "Mon 01:00-01:00", "Mon 01:60-02:00"]
)
def test_a_mistake_is_said(text: str) -> None:
    """What cannot be meant is no window."""
    with pytest.raises(ValueError, match=r"must|day"):
        window_of(text)


@pytest.mark.parametrize(
    ("text", "hours", "inside"),
    [
        ("Mon 02:00-06:00", 2.0, True),
        ("Mon 02:00-06:00", 6.0, False),
        ("Mon 02:00-06:00", 26.0, False),
        ("Mon 22:00-04:00", 23.0, True),
        ("Mon 22:00-04:00", 27.9, True),
        ("Mon 22:00-04:00", 28.0, False),
        ("Mon 22:00-04:00", 1.0, False),
        ("daily 00:00-24:00", 13.0, True),
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_it_begins(text: str, hours: float, inside: bool) -> None:
    """Monday's night ends on Tuesday morning."""
    assert in_window([window_of(text)], MONDAY + hours * 3600.0) is inside
