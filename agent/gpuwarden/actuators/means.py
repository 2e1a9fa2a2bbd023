"""The means: which function brings about which action, and which back end answers to which name. One row each."""

from __future__ import annotations

from collections.abc import Callable

from gpuwarden.actuators.backend import Answer, Backend, NoBackend, Pauses
from gpuwarden.actuators.command import CommandBackend, run_named
from gpuwarden.actuators.kubernetes import KubernetesBackend
from gpuwarden.actuators.processes import stop_workload
from gpuwarden.actuators.reboot import reboot
from gpuwarden.actuators.reset import reset
from gpuwarden.actuators.site import Site
from gpuwarden.actuators.slurm import SlurmBackend
from gpuwarden.actuators.units import Units
from gpuwarden.model.case import ActionKind, Intent

Means = Callable[[Site, Intent], Answer]

BACKENDS: dict[str, Callable[[Site], Backend]] = {  # by `[isolation] backend`
    "none": lambda _: NoBackend(),
    "slurm": SlurmBackend,
    "systemd": Units,
    "command": CommandBackend,
    "kubernetes": KubernetesBackend,
}


def _backend(site: Site) -> Backend:
    return BACKENDS[site.config.isolation.backend](site)


def _pauses(site: Site) -> Pauses | None:
    backend = _backend(site)
    return backend if isinstance(backend, KubernetesBackend) else None


MEANS: dict[ActionKind, Means] = {
    ActionKind.TAKE_SLOT: lambda site, intent: _backend(site).take_slot(intent),
    ActionKind.ISOLATE: lambda site, intent: _backend(site).isolate(intent),
    ActionKind.EVICT: lambda site, intent: _backend(site).evict(intent),
    ActionKind.STOP_WORKLOAD: stop_workload,
    ActionKind.RESET: lambda site, intent: reset(site, intent, _pauses(site)),
    ActionKind.REBOOT: reboot,
    ActionKind.COMMAND: run_named,
    ActionKind.RELEASE: lambda site, intent: _backend(site).release(intent),
    ActionKind.RETURN_SLOT: lambda site, intent: _backend(site).return_slot(intent),
}
