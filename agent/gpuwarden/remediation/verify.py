"""The proof table: what must be seen after an action before its GPU is let back to work.

That a command exited 0 is an outcome, never a proof. Each row answers True, False, or None for what cannot be seen yet;
only True counts. A card that does not have a reading cannot fail its row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gpuwarden.model.case import ActionKind, Case
from gpuwarden.model.finding import Incident
from gpuwarden.model.gpu import Lane, Missing, Value
from gpuwarden.model.observation import WorkerState
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import GpuState, NodeState, Presence
from gpuwarden.model.stamp import Stamp


class Proof(NamedTuple):
    """One row: what is to be proven, after which actions (None: where nothing was done), and its test."""

    name: str
    after: frozenset[ActionKind | None]
    test: Callable[[NodeState, Case], bool | None]


def unproven(node: NodeState, case: Case, action: ActionKind | None) -> tuple[tuple[str, bool | None], ...]:
    """Return the rows that do not say True yet, in order, each with its False or None; none: all is proven."""
    answers = ((proof.name, proof.test(node, case)) for proof in PROOFS if action in proof.after)
    return tuple((name, answer) for name, answer in answers if answer is not True)


def is_open(node: NodeState, case: Case, incident: Incident) -> bool:
    """Return whether an incident still speaks for its case: a latched one only if it was seen again after the action.

    What latches ends with its case, so its staying open proves nothing.
    """
    return not incident.latched or case.acted is None or is_later(node, incident.last_seen, case.acted)


def incidents_of(node: NodeState, case: Case) -> list[Incident]:
    """Return the open incidents that a case is about. What is only a drill says nothing of a real fault."""
    found = (node.incidents.get((kind, case.uuid or "")) for kind in case.kinds)
    return [incident for incident in found if incident is not None and (case.drill or not incident.drill)]


def is_later(node: NodeState, moment: Stamp, than: Stamp | None) -> bool:
    """Return whether a moment lies after another one; of two earlier boots nobody knows the order, and it does not."""
    if than is None or moment.boot_id != than.boot_id:
        return moment.boot_id == node.now.boot_id
    return moment.boottime > than.boottime


def _after(node: NodeState, moment: Stamp | None, boottime: float) -> bool:
    """Return whether a time of this boot lies after a moment; without a moment to wait for every time does."""
    return moment is None or node.now.boot_id != moment.boot_id or boottime > moment.boottime


def _gpu(node: NodeState, case: Case) -> GpuState | None:
    return node.gpus.get(case.uuid or "")


_CANNOT_BE_SEEN = (Presence.UNSEEN, Presence.PAUSED, Presence.BLOCKED, Presence.ASLEEP)


def _rebooted(node: NodeState, case: Case) -> bool | None:
    return case.acted is not None and node.now.boot_id != case.acted.boot_id


def _session(node: NodeState, case: Case) -> bool | None:
    if node.nvml.state is not WorkerState.UP:
        return None
    return True if _after(node, case.begun, node.nvml.session_at) else None


def _same_gpu(node: NodeState, case: Case) -> bool | None:
    """Return whether the GPU the case is about answers again, under its own uuid and serial."""
    gpu = _gpu(node, case)
    if case.uuid is None:
        return True
    if gpu is None or (case.serial and gpu.identity.serial and gpu.identity.serial != case.serial):
        return False
    if gpu.presence is not Presence.ANSWERING:
        return None if gpu.presence in _CANNOT_BE_SEEN else False
    fast = gpu.lane_times.get(Lane.FAST)
    return True if fast is not None and _after(node, case.acted, fast) else None


def _all_back(node: NodeState, _: Case) -> bool | None:
    """Return whether every GPU of the inventory answers, or is known to sleep or to be somebody else's."""
    fine = (Presence.ANSWERING, Presence.BOUND_ELSEWHERE, Presence.ASLEEP)
    return True if all(gpu.presence in fine for gpu in node.gpus.values()) else None


def _reading(name: str, good: Callable[[float], bool]) -> Callable[[NodeState, Case], bool | None]:
    def test(node: NodeState, case: Case) -> bool | None:
        gpu = _gpu(node, case)
        if gpu is None:
            return True
        value: Value = gpu.readings.value(name)
        if value is Missing.NOT_SUPPORTED:
            return True
        if isinstance(value, Missing | tuple):
            return None
        at = max((at for lane, at in gpu.lane_times.items() if name in gpu.lane_fields.get(lane, ())), default=None)
        return good(value) if at is not None and _after(node, case.acted, at) else None

    return test


def _over(node: NodeState, case: Case) -> bool | None:
    """Return whether what the case is about has ended, and is known to have ended."""
    if any(is_open(node, case, incident) for incident in incidents_of(node, case)):
        return False
    doubtful = any((kind, case.uuid or "") in node.unsure for kind in case.kinds)
    return None if doubtful else True


def _nothing_worse(node: NodeState, case: Case) -> bool | None:
    """Return whether nothing else critical came up on this GPU since the action."""
    for key, incident in node.incidents.items():
        new = key[1] == (case.uuid or "") and key[0] not in case.kinds and not incident.drill
        if new and incident.severity is Severity.CRITICAL and is_later(node, incident.opened, case.acted):
            return False
    return True


def _nobody_there(node: NodeState, case: Case) -> bool | None:
    gpu = _gpu(node, case)
    if gpu is None or gpu.presence is not Presence.ANSWERING or isinstance(gpu.readings.processes, Missing):
        return None
    return gpu.readings.processes == 0


_A = ActionKind
_STARTED_OVER = frozenset({_A.RESET, _A.REBOOT})
_ANY = frozenset({None, _A.STOP_WORKLOAD, _A.RESET, _A.REBOOT, _A.COMMAND, _A.EVICT})

PROOFS: tuple[Proof, ...] = (
    Proof("host_rebooted", frozenset({_A.REBOOT}), _rebooted),
    Proof("session_reopened", _STARTED_OVER, _session),
    Proof("gpu_answers", _ANY, _same_gpu),
    Proof("all_gpus_back", frozenset({_A.REBOOT}), _all_back),
    Proof("nobody_on_gpu", frozenset({_A.STOP_WORKLOAD}), _nobody_there),
    Proof("no_recovery_asked", _ANY, _reading("recovery_action", lambda action: action == 0)),
    Proof("no_remap_pending", _STARTED_OVER, _reading("row_remap_pending", lambda pending: pending == 0)),
    Proof("no_retirement_pending", _STARTED_OVER, _reading("retired_pages_pending", lambda pending: pending == 0)),
    Proof("no_uncorrected_errors", _STARTED_OVER, _reading("ecc_uncorrected_volatile", lambda count: count == 0)),
    Proof("incidents_over", _ANY, _over),
    Proof("nothing_worse", _ANY, _nothing_worse),
)
