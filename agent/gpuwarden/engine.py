"""THE BRAIN: advance(state, observation) -> Step. Pure: no I/O, no clock, no log, nothing that can hang.

An observation changes what is known (policy), then what is true is judged (checks), then what that means over time
(incidents) and for each GPU (health), and last what is done about it (remediation). Readings only change what is known:
they are judged with the next tick, so eight GPUs at a sample a second cost eight merges and one look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from gpuwarden.checks.rooms import verdicts
from gpuwarden.model import observation as seen
from gpuwarden.model.gpu import Lane
from gpuwarden.model.observation import AnyObservation, Stamp, WorkerState
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import NodeState, Presence
from gpuwarden.model.step import Command, Do, ReopenNvml, Step
from gpuwarden.policy import (
    aer,
    census,
    governor,
    holders,
    inventory,
    keeping,
    links,
    ports,
    samples,
    sightings,
    speed,
    warmth,
    workload,
    xids,
)
from gpuwarden.policy.health import assess
from gpuwarden.policy.incidents import latch, settle, unlatch
from gpuwarden.policy.told import Told
from gpuwarden.remediation.cases import answered, remediate, resumed
from gpuwarden.remediation.requests import asked

__all__ = ["Command", "RemediationError", "Step", "advance", "failed", "initial"]


class RemediationError(Exception):
    """Remediation failed on an observation. `step` is all the rest of it: what was seen is known and told all the same,
    the cases stand as before, and nothing is done about anything.
    """

    def __init__(self, step: Step) -> None:
        super().__init__("remediation failed: the cases stand as before")
        self.step = step


def initial(at: Stamp, settings: Settings) -> NodeState:
    """Return the node before anything was observed."""
    return NodeState(now=at, started=at, settings=settings, config_loaded=at.wall)


def advance(state: NodeState, observation: AnyObservation) -> Step:
    """Return what one observation leads to.

    Raises: whatever a defect raises, and the caller keeps the old state; RemediationError where the defect is in what
    is done about faults, which must not blind the host to them.
    """
    before = state.remedy
    if observation.at.boottime > state.now.boottime or observation.at.boot_id != state.now.boot_id:
        state = replace(state, now=observation.at)
    step = _TAKE[type(observation)](state, observation)
    if not _is_judged(observation, state, step.state):
        return step
    step = step.then(unlatch(step.state))
    step = step.then(settle(step.state, verdicts(step.state)))
    step = replace(step, state=assess(step.state))
    if isinstance(observation, seen.Restored):
        return step  # of the present nothing is known yet
    try:
        return step.then(remediate(step.state))
    except Exception as error:
        commands = tuple(command for command in step.commands if not isinstance(command, Do))
        raise RemediationError(replace(step, state=replace(step.state, remedy=before), commands=commands)) from error


def failed(state: NodeState) -> NodeState:
    """Return the old state with one more observation set aside: the finding follows with the next tick."""
    return replace(state, engine_errors=state.engine_errors + 1)


def _is_judged(observation: AnyObservation, before: NodeState, after: NodeState) -> bool:
    """Return whether to look at everything now: at each tick, and at once when a thing happened."""
    match observation:
        case seen.SurroundingsSeen() | seen.StopRead() | seen.FleetAsked():
            told = (before.around.surroundings, before.around.stopped, before.around.fleet)
            return told != (after.around.surroundings, after.around.stopped, after.around.fleet)
        case seen.ThroughputSeen():
            return False
        case seen.GpuSampled():
            return _presences(before) != _presences(after)
        case seen.MigSeen() | seen.GpuProcesses() | seen.OwnersSeen() | seen.PodsSeen() | seen.HeatHandsSeen():
            return False
        case seen.KernelLogChanged() | seen.InboxDropped():
            return before.kmsg_up != after.kmsg_up
    return True


def _presences(node: NodeState) -> list[Presence]:
    return [gpu.presence for gpu in node.gpus.values()]


def _known(change: Callable[[NodeState, Any], NodeState]) -> Callable[[NodeState, Any], Step]:
    """Return a taker for an observation that only changes what is known."""
    return lambda node, observation: Step(state=change(node, observation))


def _tick(node: NodeState, _: seen.Tick) -> Step:
    step = _told(xids.unconfirmed(holders.expired(samples.expired(node))))
    known = warmth.followed(speed.compared(census.reckon(step.state)))
    return replace(step, state=keeping.due(workload.silent(known)))


def _told(told: Told) -> Step:
    step = Step(state=told.node, events=told.events, commands=told.commands)
    for sighting in told.sightings:
        step = step.then(latch(step.state, sighting))
    return step


def _pci(node: NodeState, scan: seen.PciScanned) -> Step:
    """Take a look at the bus; a driver module that was exchanged under an open session calls for a new one, and so do
    GPUs that the driver took or gave up meanwhile."""
    exchanged = scan.module_version not in ("", node.module_version) and node.pci_readable is not None
    reason = "driver_reload" if exchanged else "topology" if census.is_regrouped(node, scan) else ""
    up = node.nvml.state is WorkerState.UP
    node = aer.scanned(census.pci_scanned(node, scan), scan)
    return Step(state=node, commands=(ReopenNvml(reason),) if reason and up else ())


def _sampled(node: NodeState, sample: seen.GpuSampled) -> Step:
    """Take one lane's readings; of what never changes, say what an operator should know once."""
    after = holders.sampled(samples.sampled(node, sample), sample)
    events = links.slot_limit(node, after, sample) if sample.lane is Lane.STATIC else ()
    return Step(state=after, events=events).then(governor.governed(after, sample))


def _services(node: NodeState, seen_now: seen.ServicesSeen) -> NodeState:
    """Take what the service manager tells; while it tells nothing, nothing is known of its units."""
    return replace(node, services_readable=seen_now.readable, services={unit.name: unit for unit in seen_now.units})


def _kernel_log(node: NodeState, changed: seen.KernelLogChanged) -> NodeState:
    return replace(
        node, kmsg_up=changed.up, kmsg_detail=changed.detail, kmsg_records=changed.records, kmsg_lost=changed.lost
    )


def _journal(node: NodeState, changed: seen.JournalChanged) -> NodeState:
    return replace(
        node,
        journal_writable=changed.writable,
        journal_detail=changed.detail,
        journal_bytes=changed.size_bytes,
        journal_write_errors=changed.write_errors,
    )


def _reloaded(node: NodeState, reloaded: seen.Reloaded) -> NodeState:
    if reloaded.settings is None:
        return replace(node, config_ok=reloaded.ok)
    return replace(node, config_ok=reloaded.ok, config_loaded=reloaded.at.wall, settings=reloaded.settings)


def _restored(node: NodeState, remembered: seen.Restored) -> Step:
    """Take in what was remembered; an effect that was asked for in this boot is asked for again, under its old name."""
    node = keeping.recalled(inventory.restored(node, remembered), remembered.baselines)
    node = replace(node, remedy=remembered.remedy)
    return Step(state=node, commands=resumed(node))


def _around(node: NodeState, **changes: object) -> NodeState:
    return replace(node, around=replace(node.around, **changes))


_TAKE: dict[type, Callable[[NodeState, Any], Step]] = {
    seen.Tick: _tick,
    seen.WorkerChanged: _known(census.worker_changed),
    seen.SessionOpened: _known(census.session_opened),
    seen.GpuOpened: _known(census.gpu_opened),
    seen.GpuFailed: _known(census.gpu_failed),
    seen.GpuBlocked: _known(census.gpu_blocked),
    seen.GpuAsleep: _known(census.gpu_asleep),
    seen.PausedGpu: _known(census.gpu_paused),
    seen.PciScanned: _pci,
    seen.ServicesSeen: _known(_services),
    seen.PortsSeen: _known(ports.ports_seen),
    seen.GpuSampled: _sampled,
    seen.MigSeen: _known(samples.mig_seen),
    seen.GpuProcesses: _known(holders.listed),
    seen.OwnersSeen: _known(holders.owned),
    seen.PodsSeen: _known(holders.pods_seen),
    seen.NvmlEvent: lambda node, event: _told(sightings.delivered(node, event)),
    seen.KernelLogged: lambda node, line: _told(sightings.logged(node, line)),
    seen.KernelLogChanged: _known(_kernel_log),
    seen.JournalChanged: _known(_journal),
    seen.InboxDropped: _known(lambda node, dropped: replace(node, inbox_dropped=dropped.total)),
    seen.Restored: _restored,
    seen.ActionEnded: answered,
    seen.OperatorAsked: asked,
    seen.SurroundingsSeen: _known(
        lambda node, look: _around(node, surroundings=look.surroundings, seen_at=look.at.boottime)
    ),
    seen.StopRead: _known(lambda node, read: _around(node, stopped=read.stopped, stop_detail=read.detail)),
    seen.FleetAsked: _known(lambda node, told: _around(node, fleet=told.fleet, fleet_at=told.at.boottime)),
    seen.MemoryJudged: _known(lambda node, judged: _around(node, memory=judged.memory)),
    seen.ThroughputSeen: _known(workload.seen),
    seen.HeatHandsSeen: _known(governor.hands_seen),
    seen.ForgetGpu: inventory.forget,
    seen.Injected: _known(lambda node, injected: replace(node, drill=injected.active)),
    seen.Reloaded: _known(_reloaded),
    seen.SourceFailed: _known(lambda node, _: node),
}
