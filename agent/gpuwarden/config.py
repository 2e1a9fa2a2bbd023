"""TOML -> one frozen Config. The only reader of configuration files and of the environment.

Every key is optional. All problems of a file are reported at once, each with its key's path.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gpuwarden.model.severity import Severity


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: frozen, keyword only, unknown keys refused."""


class Host(_Section, frozen=True, kw_only=True):
    """Names this host carries."""

    labels: dict[str, str] = {}
    slots: dict[str, str] = {}  # BDF -> slot name


class Poll(_Section, frozen=True, kw_only=True):
    """How often NVML is asked, and how long a call may take."""

    fast_seconds: float = 1.0
    normal_seconds: float = 10.0
    slow_seconds: float = 60.0
    deadline_seconds: float = 5.0
    pcie_throughput_seconds: float = 10.0
    quiet_seconds: float = 300.0


class Web(_Section, frozen=True, kw_only=True):
    """The HTTP server."""

    listen: tuple[str, ...] = (":9878",)
    config_file: str = ""


class Exposition(_Section, frozen=True, kw_only=True):
    """Which metric dialects are served."""

    native: bool = True


class Thermal(_Section, frozen=True, kw_only=True):
    """Limits for the core temperature; "auto" takes the card's own."""

    core_limit_celsius: float | Literal["auto"] = "auto"


class Load(_Section, frozen=True, kw_only=True):
    """The gate of every "under load" rule. Source: reference/throughput.md section 5."""

    utilization_ratio: float = 0.9
    settle_seconds: float = 60.0


class CheckOverride(_Section, frozen=True, kw_only=True):
    """What an operator may change about one finding kind; None keeps the catalogue's default.

    `thresholds` holds the kind's own keys (see `gpuwarden config show`).
    """

    enabled: bool = True
    severity: Severity | None = None
    hold_seconds: float | None = None
    clear_seconds: float | None = None
    latch_seconds: float | None = None
    thresholds: dict[str, float] = {}


class Config(_Section, frozen=True, kw_only=True):
    """The effective configuration; defaults are the product's."""

    mode: Literal["shadow", "enforce"] = "shadow"
    state_dir: str = "/var/lib/gpuwarden"
    runtime_dir: str = "/run/gpuwarden"
    expected_gpus: int = 0
    host: Host = Host()
    poll: Poll = Poll()
    web: Web = Web()
    exposition: Exposition = Exposition()
    thermal: Thermal = Thermal()
    load: Load = Load()
    checks: dict[str, CheckOverride] = {}
