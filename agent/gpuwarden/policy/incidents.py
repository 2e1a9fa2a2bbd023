"""Findings over time: what opens an incident, what holds it, what ends it. Uncertainty does neither.

A state finding opens after its hold and ends after it was gone for its clear time. An event finding is latched and
ends by what repairs it. Holds and clear times are boot time, so a jump of the wall clock moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from msgspec.structs import replace

from gpuwarden.model.finding import Event, Evidence, Finding, Incident, Unsure, Verdict
from gpuwarden.model.gpu import Lane
from gpuwarden.model.settings import KindSettings
from gpuwarden.model.severity import EventClass, Severity, stricter, worse
from gpuwarden.model.snapshot import GpuState, NodeState, Presence
from gpuwarden.model.step import Step
from gpuwarden.policy.told import Sighting

_Key = tuple[str, str]
_ENDS_WITH_AN_ANSWER = frozenset({"presence.init_failed"})
"""Kinds that say a GPU could not be started: one that answers afterwards has been started."""


def settle(node: NodeState, verdicts: Iterable[Verdict]) -> Step:
    """Return the incidents after one look at everything: opened, changed, flapping, clearing, cleared."""
    findings: dict[_Key, Finding] = {}
    unsure: dict[_Key, Unsure] = {}
    for verdict in verdicts:
        key = (verdict.kind, verdict.uuid or "")
        if isinstance(verdict, Finding):
            findings[key] = verdict
        else:
            unsure[key] = verdict
    step = Step(state=replace(node, unsure=frozenset(key for key, verdict in unsure.items() if not verdict.refused)))
    step = _appeared(step, findings, unsure)
    return _disappeared(step, findings, unsure)


def _appeared(step: Step, findings: dict[_Key, Finding], unsure: dict[_Key, Unsure]) -> Step:
    now = step.state.now.boottime
    pending = {key: since for key, since in step.state.pending.items() if (key in findings or key in unsure)}
    for key, finding in findings.items():
        node = step.state
        incident = node.incidents.get(key)
        if incident is not None:
            step = step.then(_goes_on(node, key, incident, finding))
        elif now - pending.setdefault(key, now) >= node.settings.kinds[key[0]].hold_seconds:
            step = step.then(_opened(node, _incident(node, finding)))
    pending = {key: since for key, since in pending.items() if key not in step.state.incidents}
    return replace(step, state=replace(step.state, pending=pending))


def _goes_on(node: NodeState, key: _Key, incident: Incident, finding: Finding) -> Step:
    """Return an open incident that is still true. A latched one only remembers that it was seen as a state too."""
    was_clearing = key in node.clearing
    later = replace(
        incident,
        last_seen=incident.last_seen if incident.latched else node.now,
        severity=finding.severity,
        evidence=finding.evidence if not incident.latched else incident.evidence,
        flaps=incident.flaps + was_clearing,
    )
    clearing = (
        {other: since for other, since in node.clearing.items() if other != key} if was_clearing else node.clearing
    )
    node = replace(node, incidents=node.incidents | {key: later}, clearing=clearing)
    if later.severity is incident.severity:
        return Step(state=node)
    return Step(state=node, events=(event_of(node, later, "changed"),))


def _disappeared(step: Step, findings: dict[_Key, Finding], unsure: dict[_Key, Unsure]) -> Step:
    for key, incident in step.state.incidents.items():
        node = step.state
        if key in findings or (incident.latched and key[1] in ("", *node.gpus)):
            continue
        settings = node.settings.kinds.get(key[0])
        gone = settings is None or not settings.enabled or (key[1] != "" and key[1] not in node.gpus)
        if gone:
            step = step.then(close(node, key, {"reason": "no longer judged"}))
        elif key not in unsure and settings is not None:
            since = node.clearing.get(key, node.now.boottime)
            if node.now.boottime - since >= settings.clear_seconds:
                step = step.then(close(node, key, {}))
            elif key not in node.clearing:
                step = replace(step, state=replace(node, clearing=node.clearing | {key: since}))
    return step


def latch(node: NodeState, sighting: Sighting) -> Step:
    """Return the incidents after an event: a latched one opened or seen again, or the one it ends."""
    settings = node.settings.kinds.get(sighting.kind)
    if settings is None or not settings.enabled:
        return Step(state=node)
    key = (sighting.kind, sighting.uuid or "")
    incident = node.incidents.get(key)
    if incident is not None and sighting.drill and not incident.drill:
        return Step(state=node)  # what anybody could have written neither ends nor changes what is true
    if sighting.ends:
        return close(node, key, sighting.evidence) if incident is not None else Step(state=node)
    if incident is not None:
        return _seen_again(node, key, incident, sighting, settings)
    if sighting.only_open:
        return Step(state=node)
    finding = Finding(
        kind=sighting.kind,
        severity=sighting.severity or settings.severity,
        uuid=sighting.uuid,
        evidence=sighting.evidence,
        drill=sighting.drill,
    )
    event_class = sighting.event_class or settings.event_class
    fresh = _incident(node, finding)
    return _opened(node, replace(fresh, count=max(1, sighting.count), latched=True, event_class=event_class))


def _seen_again(node: NodeState, key: _Key, incident: Incident, sighting: Sighting, settings: KindSettings) -> Step:
    """Return an open incident after another sighting, or after a comment on it, which has a count of 0.

    The worst that was seen counts, except that the full account of its only event takes the place of the first word.
    """
    severity, event_class = sighting.severity or settings.severity, sighting.event_class or settings.event_class
    settled = sighting.settles and incident.count + sighting.count <= 1
    if not settled:
        named = bool(sighting.count)
        severity = worse(incident.severity, severity) if named or sighting.severity else incident.severity
        classes = [each for each in (incident.event_class, event_class if named else sighting.event_class) if each]
        event_class = reduce(stricter, classes) if classes else None
    later = replace(
        incident,
        latched=True,
        severity=severity,
        event_class=event_class,
        last_seen=node.now,
        count=incident.count + sighting.count,
        drill=incident.drill and (sighting.drill or node.drill),
        evidence=incident.evidence | sighting.evidence,
    )
    changed = (incident.drill and not sighting.drill) or severity is not incident.severity
    node = replace(node, incidents=node.incidents | {key: later})
    return Step(state=node, events=(event_of(node, later, "changed" if changed else "repeated"),))


def unlatch(node: NodeState) -> Step:
    """Return the incidents without latched ones whose repair was seen."""
    step = Step(state=node)
    for key, incident in node.incidents.items():
        reason = _repair(step.state, incident) if incident.latched else None
        if reason is not None:
            step = step.then(close(step.state, key, {"reason": reason}))
    return step


def _repair(node: NodeState, incident: Incident) -> str | None:
    """Return what ended a latched incident, None while nothing did."""
    if incident.event_class is EventClass.APPLICATION:
        latch_seconds = node.settings.kinds[incident.kind].latch_seconds
        quiet = latch_seconds is not None and _age(node, incident) >= latch_seconds
        return "no repetition" if quiet else None
    if incident.last_seen.boot_id != node.now.boot_id:
        return "rebooted"
    if incident.uuid is None:
        reloaded = bool(node.gpus) and all(_restarted_since(gpu, incident) for gpu in node.gpus.values())
        return "driver reload" if reloaded else None
    gpu = node.gpus.get(incident.uuid)
    if gpu is None:
        return None
    if _restarted_since(gpu, incident):
        return "reset or driver reload"
    if incident.kind in _ENDS_WITH_AN_ANSWER and _answers_since(gpu, incident):
        return "the driver started it"
    if incident.event_class is EventClass.RECOVERY and gpu.readings.recovery_action == 0:
        read_at = max(
            (at for lane, at in gpu.lane_times.items() if _reads_recovery(gpu.lane_fields, lane)), default=0.0
        )
        return "driver asks for nothing" if read_at > incident.last_seen.boottime else None
    return None


def _restarted_since(gpu: GpuState, incident: Incident) -> bool:
    return gpu.restarted is not None and gpu.restarted > incident.last_seen.boottime


def _answers_since(gpu: GpuState, incident: Incident) -> bool:
    return gpu.presence is Presence.ANSWERING and gpu.presence_since > incident.last_seen.boottime


def _reads_recovery(fields: dict[Lane, tuple[str, ...]], lane: Lane) -> bool:
    return "recovery_action" in fields.get(lane, ())


def _age(node: NodeState, incident: Incident) -> float:
    """Return seconds since an incident was last seen: boot time within a boot, wall time across."""
    if incident.last_seen.boot_id == node.now.boot_id:
        return node.now.boottime - incident.last_seen.boottime
    return node.now.wall - incident.last_seen.wall


def _incident(node: NodeState, finding: Finding) -> Incident:
    return Incident(
        id=f"{node.now.boot_id[:8]}-{node.incident_counter + 1}",
        kind=finding.kind,
        severity=finding.severity,
        uuid=finding.uuid,
        opened=node.now,
        last_seen=node.now,
        drill=finding.drill or node.drill,
        evidence=finding.evidence,
    )


def _opened(node: NodeState, incident: Incident) -> Step:
    counted = (incident.kind, incident.severity.value)
    node = replace(
        node,
        incident_counter=node.incident_counter + 1,
        incidents=node.incidents | {(incident.kind, incident.uuid or ""): incident},
        incident_totals=node.incident_totals | {counted: node.incident_totals.get(counted, 0) + 1},
    )
    return Step(state=node, events=(event_of(node, incident, "opened"),))


def close(node: NodeState, key: _Key, why: Evidence) -> Step:
    """Return the node without an open incident; `why` goes into the evidence of its end."""
    incident = node.incidents[key]
    node = replace(
        node,
        incidents={other: kept for other, kept in node.incidents.items() if other != key},
        clearing={other: since for other, since in node.clearing.items() if other != key},
    )
    last = replace(incident, evidence=incident.evidence | why)
    return Step(state=node, events=(event_of(node, last, "cleared"),))


def event_of(node: NodeState, incident: Incident, state: str) -> Event:
    """Return the line of history for a change of an incident; a cleared one is told as info."""
    gpu = node.gpus.get(incident.uuid or "")
    severity = Severity.INFO if state == "cleared" else incident.severity
    return Event(
        kind="incident",
        name=incident.kind,
        severity=severity.value,
        gpu=gpu.index if gpu is not None else None,
        uuid=incident.uuid,
        state=state,
        time=node.now.wall,
        boot_id=node.now.boot_id,
        evidence={"incident": incident.id, **incident.evidence},
        drill=incident.drill,
    )
