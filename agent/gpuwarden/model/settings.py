"""What the engine needs to know of the configuration, resolved: no "auto", no overrides left to merge."""

from __future__ import annotations

import msgspec

from gpuwarden.model.severity import EventClass, Severity


class KindSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one finding kind is judged. `thresholds` are the kind's own numbers, unit in the name."""

    severity: Severity
    enabled: bool = True
    hold_seconds: float = 0.0
    clear_seconds: float = 0.0
    latch_seconds: float | None = None
    event_class: EventClass | None = None
    thresholds: dict[str, float] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The resolved settings. `kinds` has every kind of the catalogue."""

    kinds: dict[str, KindSettings]
    expected_gpus: int = 0
    slots: dict[str, str] = {}  # BDF -> slot name
    core_limit_celsius: float | None = None  # None: the card's own limit
    load_utilization_ratio: float = 0.9
    load_settle_seconds: float = 60.0
    fast_seconds: float = 1.0
    normal_seconds: float = 10.0
    slow_seconds: float = 60.0
    pcie_seconds: float = 10.0
    deadline_seconds: float = 5.0
    quiet_seconds: float = 300.0
