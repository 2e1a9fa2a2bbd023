"""Presence: is each GPU there, does it answer, does the driver. From the census, no thresholds and no hold."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Context, Graded, Outcome, Rule, finding, judge
from gpuwarden.model.finding import Evidence, Finding, Unsure, Verdict
from gpuwarden.model.observation import WorkerState
from gpuwarden.model.recovery import recovery_name, recovery_severity
from gpuwarden.model.snapshot import GpuState, NodeState, Presence

_KIND_OF = {
    Presence.LOST: "presence.gpu_lost",
    Presence.NEEDS_RESET: "presence.gpu_needs_reset",
    Presence.ACCESS_LOST: "presence.access_lost",
    Presence.BLOCKED: "presence.nvml_blocked",
    Presence.MISSING: "presence.gpu_missing",
    Presence.BOUND_ELSEWHERE: "presence.bound_elsewhere",
}
_FAULT_KIND = {8: "presence.insufficient_power", 11: "presence.irq_trouble", 14: "presence.inforom_corrupt"}
_PER_GPU = (*_KIND_OF.values(), *_FAULT_KIND.values())
_CANNOT_SAY = frozenset({Presence.UNSEEN, Presence.PAUSED, Presence.ASLEEP, Presence.BLOCKED})

_WORKER_KIND = {
    WorkerState.NO_DRIVER: "presence.driver_not_loaded",
    WorkerState.LIBRARY_MISMATCH: "presence.library_mismatch",
    WorkerState.ACCESS_LOST: "presence.access_lost",
    WorkerState.BLOCKED: "presence.nvml_blocked",
    WorkerState.ABANDONED: "presence.nvml_blocked",
}
_WORKER_KNOWS = frozenset({WorkerState.UP, WorkerState.RELEASED})


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about the presence of GPUs and driver."""
    for gpu in node.gpus.values():
        yield from _gpu(node, gpu)
    yield from judge((Rule("presence.recovery_action", ("recovery_action",), _recovery),), node)
    yield from _worker(node)
    yield from _versions(node)
    yield from _crashed(node)
    yield from _expected(node)
    yield from _nameless(node)


def _gpu(node: NodeState, gpu: GpuState) -> Iterator[Verdict]:
    uuid = gpu.identity.uuid
    kind = _FAULT_KIND.get(gpu.fault_code or 0) if gpu.presence is Presence.FAULTY else _KIND_OF.get(gpu.presence)
    if kind is not None:
        yield from _found(node, kind, uuid, _evidence(node, gpu))
    if gpu.presence in _CANNOT_SAY:
        for other in _PER_GPU:
            if other != kind:
                yield Unsure(kind=other, uuid=uuid)


def _evidence(node: NodeState, gpu: GpuState) -> Evidence:
    identity = gpu.identity
    known = (("pci", identity.bdf), ("slot", identity.slot), ("serial", identity.serial))
    evidence: Evidence = {name: value for name, value in known if value}
    if gpu.fault_code is not None:
        evidence["nvml_return_code"] = gpu.fault_code
    if gpu.presence is Presence.BLOCKED:
        evidence["call"] = gpu.blocked_call
        if gpu.blocked_since is not None:
            evidence["blocked_seconds"] = round(node.now.boottime - gpu.blocked_since, 1)
    if gpu.pci is not None:
        evidence["pci_driver"] = gpu.pci.driver
        evidence["pci_config_readable"] = gpu.pci.config_readable
    else:
        evidence["on_pci_bus"] = False if node.pci_readable and node.pci else None
    return evidence


def _recovery(_: Context, action: float) -> Outcome:
    severity = recovery_severity(int(action))
    if severity is None:
        return None
    return Graded(severity, {"recovery_action": recovery_name(int(action)), "value": int(action)})


def _worker(node: NodeState) -> Iterator[Verdict]:
    state = node.nvml.state
    kind = _WORKER_KIND.get(state)
    if state is WorkerState.NO_DRIVER and not (node.pci or node.gpus or node.settings.expected_gpus):
        kind = None  # a host without GPUs needs no driver
    if kind is not None:
        evidence: Evidence = {"state": state.value, "detail": node.nvml.detail}
        if node.nvml.code is not None:
            evidence["nvml_return_code"] = node.nvml.code
        if state in (WorkerState.BLOCKED, WorkerState.ABANDONED):
            evidence["blocked_seconds"] = round(node.now.boottime - node.nvml.since, 1)
        yield from _found(node, kind, None, evidence)
    if state not in _WORKER_KNOWS:
        for other in sorted(set(_WORKER_KIND.values()) - {kind}):
            yield Unsure(kind=other, uuid=None)


def _versions(node: NodeState) -> Iterator[Verdict]:
    """Yield `library_mismatch` where a session opened under this module says that the driver is another one.

    A session from before the module was exchanged says so too; it is about to be replaced.
    """
    nvml = node.nvml
    known = nvml.state is WorkerState.UP and nvml.driver and node.module_version
    if known and nvml.driver != node.module_version and nvml.session_at >= node.module_since:
        evidence: Evidence = {"module_version": node.module_version, "nvml_driver_version": nvml.driver}
        yield from _found(node, "presence.library_mismatch", None, evidence)


def _crashed(node: NodeState) -> Iterator[Verdict]:
    kind = "presence.nvml_crashed"
    at = node.nvml.crashed_at
    if at is not None and node.now.boottime - at < node.settings.kinds[kind].thresholds["remember_seconds"]:
        yield from _found(node, kind, None, {"crashes": node.nvml.restarts.get("crashed", 0)})


def _expected(node: NodeState) -> Iterator[Verdict]:
    """Yield host-level `gpu_missing` where GPUs were never seen: those the inventory knows are named one by one."""
    wanted, kind = node.settings.expected_gpus, "presence.gpu_missing"
    if not wanted:
        return
    if node.nvml.state is not WorkerState.UP or node.nvml.count is None:
        yield Unsure(kind=kind, uuid=None)
        return
    settled = len(node.by_index.keys() | node.nvml.failed.keys()) >= node.nvml.count
    if len(node.gpus) < wanted:
        evidence: Evidence = {"expected_gpus": wanted, "known_gpus": len(node.gpus)}
        yield from _found(node, kind, None, evidence) if settled else iter((Unsure(kind=kind, uuid=None),))


def _nameless(node: NodeState) -> Iterator[Verdict]:
    """Yield host-level `gpu_lost` for handles that fail although nobody can say which card that is."""
    unplaced = {index: what for index, what in node.nvml.failed.items() if index not in node.by_index}
    if unplaced:
        index, (code, since) = min(unplaced.items())
        if node.now.boottime - since >= node.settings.deadline_seconds:
            evidence: Evidence = {"nvml_index": index, "nvml_return_code": code, "handles": len(unplaced)}
            yield from _found(node, "presence.gpu_lost", None, evidence)


def _found(node: NodeState, kind: str, uuid: str | None, evidence: Evidence) -> Iterator[Finding]:
    settings = node.settings.kinds[kind]
    found = finding(kind, settings, uuid, evidence) if settings.enabled else None
    if found is not None:
        yield found
