"""One verdict per GPU and for the host, from what is open and from what is not known. Unknown is never healthy."""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.model.finding import Health
from gpuwarden.model.gpu import Lane
from gpuwarden.model.observation import WorkerState
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import GpuState, NodeState, Presence

_NOT_OURS_NOW = frozenset({Presence.BOUND_ELSEWHERE, Presence.ASLEEP})  # nothing of the host hangs on them
_WORST = (Health.UNHEALTHY, Health.UNKNOWN, Health.DEGRADED, Health.HEALTHY)


def assess(node: NodeState) -> NodeState:
    """Return the node with the health of each GPU and its own."""
    gpus = {uuid: _with(gpu, _of_gpu(node, gpu)) for uuid, gpu in node.gpus.items()}
    host = _of_incidents(node, "")
    if host is None and node.nvml.state is not WorkerState.UP:
        host = Health.UNKNOWN
    every = [gpu.health for gpu in gpus.values() if gpu.presence not in _NOT_OURS_NOW]
    worst = min((host or Health.HEALTHY, *every), key=_WORST.index)
    return replace(node, gpus=gpus, health=worst)


def _with(gpu: GpuState, health: Health) -> GpuState:
    return gpu if gpu.health is health else replace(gpu, health=health)


def _of_gpu(node: NodeState, gpu: GpuState) -> Health:
    uuid = gpu.identity.uuid
    known = _of_incidents(node, uuid)
    if known is Health.UNHEALTHY:
        return known
    blind = (
        gpu.presence is not Presence.ANSWERING
        or Lane.FAST not in gpu.lane_times
        or any(name == uuid for _, name in node.unsure)
    )
    return Health.UNKNOWN if blind else known or Health.HEALTHY


def _of_incidents(node: NodeState, uuid: str) -> Health | None:
    severities = {incident.severity for key, incident in node.incidents.items() if key[1] == uuid}
    if Severity.CRITICAL in severities:
        return Health.UNHEALTHY
    return Health.DEGRADED if Severity.WARNING in severities else None
