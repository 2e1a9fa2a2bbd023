"""What NVLinks are known to do over time: which were ever up, and how their error counters grow. Aggregates only."""

from __future__ import annotations

from collections.abc import Mapping

from gpuwarden.model.gpu import NVLINK_ERRORS, Scalar, Value
from gpuwarden.model.snapshot import LinkWindow

WINDOW_SECONDS: dict[str, float] = {
    reading: 60.0 if kind.startswith("crc") or kind == "effective" else 600.0 for kind, reading in NVLINK_ERRORS.items()
}
"""Over how long the growth of each counter is looked at: short where a rate is judged, longer where any growth is."""


def seen_up(before: tuple[int, ...], values: Mapping[str, Value]) -> tuple[int, ...]:
    """Return the links that were active at any time, with what a lane says now."""
    now = values.get("nvlink_up")
    if not isinstance(now, tuple):
        return before
    active = {link for link, up in enumerate(now) if up == 1}
    return before if active <= set(before) else tuple(sorted({*before, *active}))


def windows(before: dict[str, LinkWindow], values: Mapping[str, Value], at: float) -> dict[str, LinkWindow]:
    """Return the windows with what a lane says now in them."""
    for reading, period in WINDOW_SECONDS.items():
        value = values.get(reading)
        if isinstance(value, tuple):
            before = before | {reading: _grow(before.get(reading), value, at, period)}
    return before


def _grow(window: LinkWindow | None, elements: tuple[Scalar, ...], at: float, period: float) -> LinkWindow:
    """Return a window one sample on. A first sample, a fall on any link and another number of links start it anew."""
    if window is None or len(window.last) != len(elements):
        return _new(tuple(_count(element, None) for element in elements), at)
    now = tuple(_count(element, last) for element, last in zip(elements, window.last, strict=True))
    if any(old is not None and new is not None and new < old for new, old in zip(now, window.last, strict=True)):
        return _new(now, at)
    base, base_at, previous, previous_at = window.base, window.base_at, window.previous_base, window.previous_base_at
    if at - base_at >= period:
        base, base_at, previous, previous_at = now, at, base, base_at
    return LinkWindow(
        last=now, last_at=at, base=base, base_at=base_at, previous_base=previous, previous_base_at=previous_at
    )


def _new(now: tuple[float | None, ...], at: float) -> LinkWindow:
    return LinkWindow(last=now, last_at=at, base=now, base_at=at, previous_base=now, previous_base_at=at)


def _count(element: Scalar, last: float | None) -> float | None:
    return float(element) if isinstance(element, int | float) else last
