"""What the engine needs to know of the configuration, resolved: no "auto", no overrides left to merge."""

from __future__ import annotations

import msgspec

from gpuwarden.model.heat import HeatSettings
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


class Window(msgspec.Struct, frozen=True, array_like=True):
    """A maintenance window in UTC: days of the week (Monday is 0), and minutes of the day from `begin` to `end`.

    A window whose end is not after its beginning lasts into the next day.
    """

    days: tuple[int, ...]
    begin: int
    end: int


class RemedySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How far remediation may go. The defaults are those of the product: nothing is done, what would be is said.

    `actions` is the mode of each row of `[actions]`, the ceiling `mode` applied. Neither a fleet
    size nor a ratio means nothing disruptive, unless `fleet_unguarded`: an operator wrote `fleet_guard = "none"`.
    """

    actions: dict[str, str] = {}
    ladder: dict[str, tuple[str, ...]] = {}
    boot_grace_seconds: float = 300.0
    min_uptime_before_reboot_seconds: float = 3600.0
    windows: tuple[Window, ...] = ()
    correlated_ratio: float = 0.02
    backend: str = "none"
    deadline_seconds: float = 3600.0
    on_deadline: str = "hold"
    per_gpu_actions_per_day: int = 3
    per_host_reboots_per_day: int = 1
    fleet_max_hosts: int | None = None
    fleet_max_ratio: float | None = None
    fleet_unguarded: bool = False
    fleet_max_held_hosts: int = 5
    fleet_query: bool = False
    announce_seconds: float = 60.0


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
    remedy: RemedySettings = RemedySettings()
    throughput_metric: str = ""  # "": no throughput endpoint is configured
    heat: HeatSettings = HeatSettings()
