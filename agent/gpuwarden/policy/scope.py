"""Whose work an action would end: is it gone? True and False are knowledge; what is unknown may be at work.

A reset needs the GPU's own work gone, and that of its NVLink peers; a reboot that of the whole host, and nobody logged
in where no scheduler says who owns it.
"""

from __future__ import annotations

from collections.abc import Iterable

from gpuwarden.model.case import SCHEDULERS, ActionKind, Case
from gpuwarden.model.gpu import Missing
from gpuwarden.model.snapshot import GpuState, NodeState, Presence

_OF_THE_HOST = frozenset({ActionKind.REBOOT, ActionKind.COMMAND})


def work_gone(node: NodeState, case: Case, action: ActionKind, since: float | None = None) -> bool | None:
    """Return whether nothing is at work that an action of this case would end.

    What NVML says of processes counts only where it was read after `since` (boottime): its lane is a slow one.
    """
    gpu = node.gpus.get(case.uuid or "")
    if action in _OF_THE_HOST or gpu is None:
        return _all((_host_idle(node), *(_idle(node, each, since) for each in node.gpus.values())))
    concerned = (gpu, *(peers_of(node, gpu) if action is ActionKind.RESET else ()))
    return _all(fact for each in concerned for fact in (_jobs_gone(node, each), _idle(node, each, since)))


def peers_busy(node: NodeState, case: Case) -> bool | None:
    """Return whether a GPU on the same NVLink fabric is at work. A card without active links has no peers."""
    gpu = node.gpus.get(case.uuid or "")
    if gpu is None:
        return False
    gone = _all(fact for each in peers_of(node, gpu) for fact in (_jobs_gone(node, each), _idle(node, each)))
    return None if gone is None else not gone


def peers_of(node: NodeState, gpu: GpuState) -> tuple[GpuState, ...]:
    """Return the other GPUs that a reset of this one takes along: all with NVLinks, where it has any."""
    if not linked(gpu):
        return ()
    return tuple(each for each in node.gpus.values() if each is not gpu and linked(each))


def linked(gpu: GpuState) -> bool:
    """Return whether a GPU has NVLinks at all: one that is down may be the fault that is treated."""
    links = gpu.readings.nvlink_up
    return not isinstance(links, Missing) and any(not isinstance(link, Missing) for link in links)


def _idle(node: NodeState, gpu: GpuState, since: float | None = None) -> bool | None:
    """Return whether nobody holds a GPU: by whoever has its device open, else by what NVML says of it."""
    holders = node.around.surroundings.holders
    if holders is not None and gpu.identity.bdf in holders:
        return holders[gpu.identity.bdf] == 0
    if gpu.presence is Presence.MISSING:
        return True  # it is not on the bus: nothing can hold it
    processes = gpu.readings.processes
    if gpu.presence is not Presence.ANSWERING or isinstance(processes, Missing):
        return None
    read_at = max(
        (at for lane, at in gpu.lane_times.items() if "processes" in gpu.lane_fields.get(lane, ())), default=0
    )
    if since is not None and read_at < since:
        return None
    return processes == 0


def _jobs_gone(node: NodeState, gpu: GpuState) -> bool | None:
    """Return whether the scheduler has nothing on a GPU; where it does not tell by GPU, on the whole node."""
    if node.settings.remedy.backend not in SCHEDULERS:
        return True
    by_gpu = node.around.surroundings.jobs_on
    if by_gpu is not None:
        return by_gpu.get(gpu.identity.bdf, 0) == 0
    jobs = node.around.surroundings.jobs
    return None if jobs is None else jobs == 0


def _host_idle(node: NodeState) -> bool | None:
    around = node.around.surroundings
    if node.settings.remedy.backend in SCHEDULERS:
        return None if around.jobs is None else around.jobs == 0
    return None if around.logged_in is None else around.logged_in == 0


def _all(facts: Iterable[bool | None]) -> bool | None:
    """Return False where one is false, None where one is not known, else True."""
    found = tuple(facts)
    if False in found:
        return False
    return None if None in found else True
