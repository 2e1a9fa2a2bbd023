"""TOML -> one frozen Config. The only reader of configuration files and of the environment.

Every key is optional. All problems of a file are reported at once, each with its key's path.
"""

from __future__ import annotations

from gpuwarden.config.dump import dump_toml, unused_keys
from gpuwarden.config.file import DEFAULT_PATH, from_document, load, parse, private_directory, read_trusted
from gpuwarden.config.schema import (
    Actions,
    Actuator,
    Budget,
    CheckOverride,
    Config,
    Exposition,
    Guards,
    Host,
    Isolation,
    Load,
    Poll,
    Thermal,
    Web,
    Workload,
)
from gpuwarden.config.windows import window_of
from gpuwarden.model.heat import HeatSettings
from gpuwarden.model.kinds import KINDS
from gpuwarden.model.settings import KindSettings, RemedySettings, Settings

__all__ = [
    "DEFAULT_PATH",
    "Actions",
    "Actuator",
    "Budget",
    "CheckOverride",
    "Config",
    "Exposition",
    "Guards",
    "Host",
    "Isolation",
    "Load",
    "Poll",
    "Thermal",
    "Web",
    "Workload",
    "dump_toml",
    "from_document",
    "load",
    "parse",
    "private_directory",
    "read_trusted",
    "settings_of",
    "unused_keys",
]


def settings_of(config: Config) -> Settings:
    """Return what the engine needs: the catalogue's defaults with the operator's overrides merged in."""
    limit = config.thermal.core_limit_celsius
    return Settings(
        kinds={name: _judged(kind.defaults, config.checks.get(name)) for name, kind in KINDS.items()},
        expected_gpus=config.expected_gpus,
        slots=config.host.slots,
        core_limit_celsius=None if limit == "auto" else float(limit),
        load_utilization_ratio=config.load.utilization_ratio,
        load_settle_seconds=config.load.settle_seconds,
        fast_seconds=config.poll.fast_seconds,
        normal_seconds=config.poll.normal_seconds,
        slow_seconds=config.poll.slow_seconds,
        pcie_seconds=config.poll.pcie_throughput_seconds,
        deadline_seconds=config.poll.deadline_seconds,
        quiet_seconds=config.poll.quiet_seconds,
        throughput_metric=config.workload.throughput_metric,
        remedy=_remedy(config),
        heat=_heat(config.thermal),
    )


def _heat(thermal: Thermal) -> HeatSettings:
    target = thermal.target_celsius
    return HeatSettings(
        governor=thermal.governor,
        target_celsius=None if target == "auto" else float(target),
        linger_seconds=thermal.lease_linger_seconds,
    )


def _remedy(config: Config) -> RemedySettings:
    """Return how far remediation may go: the mode of each action, under the ceiling of `mode`."""
    guards, isolation, budget = config.guards, config.isolation, config.budget
    shadow = config.mode == "shadow"
    modes: dict[str, str] = {name: getattr(config.actions, name) for name in config.actions.__struct_fields__}
    return RemedySettings(
        actions=dict.fromkeys(modes, "shadow") if shadow else modes,
        ladder=config.ladder,
        boot_grace_seconds=guards.boot_grace_seconds,
        min_uptime_before_reboot_seconds=guards.min_uptime_before_reboot_seconds,
        windows=tuple(window_of(text) for text in guards.maintenance_windows),
        correlated_ratio=guards.correlated_ratio,
        backend=isolation.backend,
        deadline_seconds=isolation.deadline_seconds,
        on_deadline=isolation.on_deadline,
        per_gpu_actions_per_day=budget.per_gpu_actions_per_day,
        per_host_reboots_per_day=budget.per_host_reboots_per_day,
        fleet_max_hosts=None if budget.fleet_max_hosts == "unset" else budget.fleet_max_hosts,
        fleet_max_ratio=None if budget.fleet_max_ratio == "unset" else budget.fleet_max_ratio,
        fleet_unguarded=budget.fleet_guard == "none",
        fleet_max_held_hosts=budget.fleet_max_held_hosts,
        fleet_query=bool(budget.prometheus_url),
    )


def _judged(defaults: KindSettings, override: CheckOverride | None) -> KindSettings:
    if override is None:
        return defaults
    return KindSettings(
        severity=override.severity or defaults.severity,
        enabled=override.enabled,
        hold_seconds=defaults.hold_seconds if override.hold_seconds is None else override.hold_seconds,
        clear_seconds=defaults.clear_seconds if override.clear_seconds is None else override.clear_seconds,
        latch_seconds=defaults.latch_seconds if override.latch_seconds is None else override.latch_seconds,
        event_class=defaults.event_class,
        thresholds={**defaults.thresholds, **override.thresholds},
    )
