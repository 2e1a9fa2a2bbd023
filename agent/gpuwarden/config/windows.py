"""Maintenance windows as text: `Sat,Sun 02:00-06:00`, `Mon-Fri 22:00-04:00`, `daily 01:00-05:00`. Times are UTC."""

from __future__ import annotations

import re

from gpuwarden.model.settings import Window

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = re.compile(r"(?P<days>\S+)\s+(?P<from>\d{1,2}:\d{2})-(?P<to>\d{1,2}:\d{2})")
WANTED = 'days and times in UTC: "Sat,Sun 02:00-06:00", "Mon-Fri 22:00-04:00" or "daily 01:00-05:00"'


def window_of(text: str) -> Window:
    """Return a window from its text. Raises: ValueError with what is wrong."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"must be {WANTED}")
    begin, end = _minutes(found["from"]), _minutes(found["to"])
    if begin == end:
        raise ValueError("must not begin and end at the same time")
    return Window(days=_days(found["days"]), begin=begin, end=end)


def _days(text: str) -> tuple[int, ...]:
    if text.lower() == "daily":
        return tuple(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = _day(first), _day(last or first)
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return tuple(sorted(days))


def _day(text: str) -> int:
    if text.lower() not in _DAYS:
        raise ValueError(f'"{text}" is no day: they are {", ".join(day.title() for day in _DAYS)}')
    return _DAYS.index(text.lower())


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    total = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or total > 24 * 60:
        raise ValueError(f"{text} is no time of day")
    return total
