"""What a host has beside its GPUs that their work depends on: service units and InfiniBand ports, as last seen."""

from __future__ import annotations

import msgspec

FABRIC_MANAGER = "nvidia-fabricmanager.service"
PERSISTENCED = "nvidia-persistenced.service"
UNITS: tuple[str, ...] = (FABRIC_MANAGER, PERSISTENCED, "nvidia-imex.service", "nvidia-dcgm.service")
"""The units that are looked at; one that is not installed is `not-found`."""

RUNNING = frozenset({"active", "activating", "reloading", "refreshing"})
"""ActiveState of a unit that runs or is about to. Source: systemd, org.freedesktop.systemd1 unit properties."""


class ServiceUnit(msgspec.Struct, frozen=True, kw_only=True):
    """One unit in systemd's own words; empty where it says nothing."""

    name: str
    load: str = ""  # loaded, not-found, masked, ...
    active: str = ""  # active, inactive, failed, activating, ...
    sub: str = ""
    enabled: str = ""  # enabled, disabled, static, ...

    @property
    def exists(self) -> bool:
        """Whether the unit is installed and may be started."""
        return self.load == "loaded"

    @property
    def runs(self) -> bool:
        """Whether the unit runs or is about to."""
        return self.active in RUNNING


class IbPort(msgspec.Struct, frozen=True, kw_only=True):
    """One port of an RDMA device. Source: /sys/class/infiniband, Documentation/ABI/stable/sysfs-class-infiniband."""

    device: str
    port: int
    state: str = ""  # DOWN, INIT, ARMED, ACTIVE, ACTIVE_DEFER
    phys_state: str = ""  # Sleep, Polling, Disabled, LinkUp, ...
    rate_bits_per_second: float | None = None
    link_layer: str = ""  # InfiniBand or Ethernet

    @property
    def name(self) -> str:
        """The port as `ibstat` and NCCL name it: `mlx5_0:1`."""
        return f"{self.device}:{self.port}"

    @property
    def is_up(self) -> bool:
        """Whether the port carries traffic."""
        return self.state == "ACTIVE"
