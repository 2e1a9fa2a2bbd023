"""Whether a GPU can be reset alone: a table of fabrics. Where the sources disagree, it cannot.

Source: nvidia-smi manual, `--gpu-reset`; NVIDIA Fabric Manager user guide, partial failures.
"""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import NamedTuple

from gpuwarden.actuators.commands import run
from gpuwarden.actuators.site import Site
from gpuwarden.actuators.units import states_of

_ASK_SECONDS = 20.0
_ACTIVE_LINK = re.compile(r"^\s*Link \d+: [0-9.]+ GB/s", re.MULTILINE)
_FABRIC_MANAGER = "nvidia-fabricmanager.service"
_AMPERE, _HOPPER, _BLACKWELL = 8.0, 9.0, 10.0  # compute capabilities


class Fabric(enum.Enum):
    """How a GPU is joined to others."""

    NONE = "no NVLink"
    DIRECT = "direct NVLink"
    SWITCH = "NVSwitch"


class Rule(NamedTuple):
    """One row: which GPUs it is about, and whether they can be reset alone with the fabric manager up or not."""

    fabric: Fabric
    capability_from: float
    capability_below: float
    alone_with_manager: bool
    alone_without: bool


RULES: tuple[Rule, ...] = (
    Rule(Fabric.NONE, 0.0, 1e3, True, True),
    Rule(Fabric.SWITCH, 0.0, _AMPERE, False, False),
    Rule(Fabric.SWITCH, _AMPERE, _HOPPER, True, False),
    Rule(Fabric.SWITCH, _HOPPER, 1e3, True, False),  # the text says that no manager is needed, the table that it is
    Rule(Fabric.DIRECT, 0.0, _AMPERE, False, False),
    Rule(Fabric.DIRECT, _AMPERE, 1e3, True, True),
)


def not_alone(fabric: Fabric, capability: float, *, manager: bool) -> str:
    """Return why a GPU cannot be reset without its peers, "" where it can."""
    for rule in RULES:
        if rule.fabric is fabric and rule.capability_from <= capability < rule.capability_below:
            if rule.alone_with_manager if manager else rule.alone_without:
                return ""
            up = "with" if manager else "without"
            return f"{fabric.value}, compute capability {capability}, {up} a fabric manager: only with all its peers"
    return f"{fabric.value}, compute capability {capability}: no rule for it"


def judged(site: Site, bdf: str, capability: float) -> str:
    """Return why the GPU at an address cannot be reset alone, "" where it can. Raises: CommandError."""
    manager = states_of(site, (_FABRIC_MANAGER,))[_FABRIC_MANAGER] == "active"
    return not_alone(_fabric(site, bdf, capability), capability, manager=manager)


def _fabric(site: Site, bdf: str, capability: float) -> Fabric:
    """Return how a GPU is joined. From Blackwell on, switches are no PCI devices: active links count as switched."""
    switches = Path(site.place.driver) / "nvidia-nvswitch" / "devices"
    if switches.is_dir() and any(switches.iterdir()):
        return Fabric.SWITCH
    status = run(site, "nvidia-smi", "nvlink", "--status", "-i", bdf, seconds=_ASK_SECONDS)
    if not _ACTIVE_LINK.search(status.out):
        return Fabric.NONE
    return Fabric.SWITCH if capability >= _BLACKWELL else Fabric.DIRECT
