"""The NVLink fabric: GPUs that have not joined it, and the fabric manager that has to bring it up.

The fabric is built some minutes after boot: until the grace is over, one that is not ready is no fault and no health.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Context, Graded, Outcome, Rule, finding, judge
from gpuwarden.model.finding import Evidence, Unsure, Verdict
from gpuwarden.model.gpu import FABRIC_STATES, UNKNOWN_FABRIC_STATE, GpuReading, Missing, fabric_faults
from gpuwarden.model.host import FABRIC_MANAGER
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import GpuState, NodeState

_NOT_READY, _MANAGER = "links.fabric_not_ready", "links.fabric_manager_down"
_COMPLETED = 3  # NVML_GPU_FABRIC_STATE_COMPLETED


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about the fabric."""
    yield from judge(RULES, node)
    yield from _waiting(node)
    yield from _manager(node)


def _not_ready(context: Context, state: float, status: float, mask: float) -> Outcome:
    faults = fabric_faults(int(mask))
    if _joined(context.gpu.readings):
        return Graded(Severity.WARNING, _evidence(state, status, faults)) if faults else None
    return None if _in_grace(context.node) else _evidence(state, status, faults)


RULES = (Rule(_NOT_READY, ("fabric_state", "fabric_status", "fabric_health_mask"), _not_ready),)


def _evidence(state: float, status: float, faults: tuple[str, ...]) -> Evidence:
    name = FABRIC_STATES.get(int(state), UNKNOWN_FABRIC_STATE)
    return {"fabric_state": name, "nvml_return_code": int(status), "faults": ", ".join(faults)}


def _joined(readings: GpuReading) -> bool:
    return (readings.fabric_state, readings.fabric_status) == (_COMPLETED, 0)


def _has_fabric(gpu: GpuState) -> bool:
    return not isinstance(gpu.readings.fabric_state, Missing)


def _in_grace(node: NodeState) -> bool:
    return node.now.boottime < node.settings.kinds[_NOT_READY].thresholds["boot_grace_seconds"]


def _waiting(node: NodeState) -> Iterator[Verdict]:
    """Yield the GPUs that may still join: nobody knows yet."""
    if node.settings.kinds[_NOT_READY].enabled and _in_grace(node):
        for uuid, gpu in node.gpus.items():
            if _has_fabric(gpu) and not _joined(gpu.readings):
                yield Unsure(kind=_NOT_READY, uuid=uuid)


def _manager(node: NodeState) -> Iterator[Verdict]:
    """Yield the fabric manager: a unit that is there and does not run, or a fabric that no GPU has joined."""
    settings = node.settings.kinds[_MANAGER]
    members = [gpu for gpu in node.gpus.values() if _has_fabric(gpu)]
    joined = [gpu for gpu in members if _joined(gpu.readings)]
    unit = node.services.get(FABRIC_MANAGER)
    wanted = unit is not None and (bool(members) or unit.enabled == "enabled" or unit.active == "failed")
    stopped = unit is not None and unit.exists and not unit.runs and wanted
    untold = any(gpu.readings.fabric_state not in (Missing.NOT_SUPPORTED, *FABRIC_STATES) for gpu in node.gpus.values())
    nobody = bool(members) and not joined and not untold
    if not settings.enabled:
        return
    if (stopped or nobody) and not _in_grace(node):
        evidence: Evidence = {
            "unit": FABRIC_MANAGER,
            "unit_state": unit.active if unit is not None else "unknown",
            "unit_result": unit.sub if unit is not None else "unknown",
            "fabric_gpus": len(members),
            "joined_gpus": len(joined),
        }
        found = finding(_MANAGER, settings, None, evidence)
        if found is not None:
            yield found
    elif stopped or nobody or (members and not node.services_readable):
        yield Unsure(kind=_MANAGER, uuid=None)
