"""The sources that only look and tell: built from the configuration or for a simulated node, joined to nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from gpuwarden.collectors.fleet import FleetWatch
from gpuwarden.collectors.infiniband import PortWatch
from gpuwarden.collectors.pci import PciScanner
from gpuwarden.collectors.pod_resources import PodReader
from gpuwarden.collectors.services import ServiceWatch, from_file, systemctl
from gpuwarden.collectors.throughput import ThroughputPoller
from gpuwarden.config import Config
from gpuwarden.model.observation import AnyObservation
from gpuwarden.model.snapshot import NodeState
from gpuwarden.simnode import SimNode
from gpuwarden.timebase import Clock

Source = Callable[[], Awaitable[None]]


def onlookers(
    config: Config,
    sim: SimNode | None,
    node: Callable[[], NodeState],
    emit: Callable[[AnyObservation], None],
    clock: Clock,
) -> dict[str, Source]:
    """Return the sources by name, those that this configuration has."""
    sysfs = sim.sysfs if sim is not None else Path("/sys")
    show = from_file(sim.units) if sim is not None else systemctl
    found: dict[str, Source] = {
        "pci": PciScanner(emit, clock, root=sysfs).run,
        "services": ServiceWatch(emit, clock, show=show).run,
        "infiniband": PortWatch(emit, clock, root=sysfs).run,
    }
    kubelet = config.workload.pod_resources_socket
    if kubelet and sim is None:
        found["pods"] = PodReader(emit, clock, socket=Path(kubelet)).run
    if config.workload.throughput_url:
        found["throughput"] = ThroughputPoller(config.workload, config.poll, emit, clock).run
    if config.budget.prometheus_url:
        found["fleet"] = FleetWatch(config.budget.prometheus_url, config.host.labels, node, emit, clock).run
    return found
