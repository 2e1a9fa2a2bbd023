"""The cases of a node: opened by incidents, joined by more of the same GPU, moved on, told of, and closed.

One case per GPU: what is done follows from the strictest of what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from gpuwarden.model.case import GIVES_BACK, ActionKind, Attempt, Case, CaseState, Intent, Left, Outcome, Treatment
from gpuwarden.model.finding import Event, Evidence, Incident
from gpuwarden.model.observation import ActionEnded
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import Command, Do, Step
from gpuwarden.policy.guards import life, of_gpu, recent
from gpuwarden.policy.incidents import close
from gpuwarden.policy.ladder import climbed, strictness, treatment_of
from gpuwarden.remediation.machine import Move, advance, ended, invariants, rung_of
from gpuwarden.remediation.verify import is_later

RECURRENCE_SECONDS = 7 * 86_400.0
"""What was done to a GPU this long ago still counts: the next case begins a rung higher."""
_MOST_MOVES = 16  # of one case in one step; a good course needs five
_MOST_ATTEMPTS = 256
_STILL_MEANT_SECONDS = 60.0  # how long after it was decided an effect is asked for again
_LIFE_STEP_SECONDS = 600.0  # how often the time a host was watched is worth writing down
_FATE_SECONDS = 1800.0  # what a host may take to come back from our reboot


class InvariantError(Exception):
    """A step that must not be: the state before it stays, and nothing is done."""


def remediate(node: NodeState) -> Step:
    """Return what the cases come to now. Raises: InvariantError, with which the whole step is void."""
    step = Step(state=_pruned(_lived(node)))
    step = step.then(_opened(step.state))
    for name in tuple(step.state.remedy.cases):
        step = step.then(_moved(step.state, name))
    broken = list(invariants(step.state))
    if broken:
        raise InvariantError("; ".join(broken))
    return step


def answered(node: NodeState, told: ActionEnded) -> Step:
    """Return the node after the outcome of an intent. One that nobody waits for any more changes nothing."""
    case = next((each for each in node.remedy.cases.values() if each.intent and each.intent.id == told.intent), None)
    if case is None or case.intent is None:
        return Step(state=node)
    intent = case.intent
    after = ended(node, case, told.outcome, told.detail)
    node = _put(node, after)
    totals = _counted(node.remedy.actions, intent.action.value, told.outcome.value)
    attempts = node.remedy.attempts
    if told.outcome is Outcome.REFUSED:  # nothing was begun: it costs no budget
        attempts = tuple(each for each in attempts if (each.uuid, each.at) != (intent.uuid or "", intent.made))
    node = replace(node, remedy=replace(node.remedy, actions=totals, attempts=attempts))
    events = (_action_event(node, case, intent.action.value, told.outcome.value, {"detail": told.detail}),)
    return Step(state=node, events=(*events, *_told(node, case, after)))


def resumed(node: NodeState) -> tuple[Command, ...]:
    """Return the effects to ask for again after a restart within the same boot; whoever did one says so.

    What was decided a while ago is not begun on the strength of it: jobs may run by now. It ends in doubt.
    """
    return tuple(
        Do(case.intent)
        for case in node.remedy.cases.values()
        if case.intent is not None
        and case.intent.made.boot_id == node.now.boot_id
        and (case.intent.action in GIVES_BACK or node.now.boottime - case.intent.made.boottime <= _STILL_MEANT_SECONDS)
    )


def _lived(node: NodeState) -> NodeState:
    """Return the node with the time it was watched written down now and then."""
    counted_to = node.around.lived_to
    if counted_to is not None and node.now.boottime - counted_to < _LIFE_STEP_SECONDS:
        return node
    return replace(
        node,
        remedy=replace(node.remedy, life=life(node)),
        around=replace(node.around, lived_to=node.now.boottime),
    )


def _left_alone(incident: Incident) -> Left:
    """Return the name under which an incident is left alone: the same fault opening anew is another one."""
    return Left(incident.kind, incident.uuid or "", incident.opened, incident.drill)


def _pruned(node: NodeState) -> NodeState:
    """Return the node without what was left alone and is over by now."""
    if not node.remedy.left:
        return node
    still = {_left_alone(incident) for incident in node.incidents.values()}
    left = tuple(each for each in node.remedy.left if each in still)
    return node if left == node.remedy.left else replace(node, remedy=replace(node.remedy, left=left))


# ---- opening and joining


def _opened(node: NodeState) -> Step:
    step = Step(state=node)
    for name, incidents in _by_gpu(node).items():
        known = next((case for case in step.state.remedy.cases.values() if (case.uuid or "") == name), None)
        if known is None:
            step = step.then(_new(step.state, name, incidents))
        else:
            step = step.then(_joined(step.state, known, incidents))
    return step


def _by_gpu(node: NodeState) -> dict[str, list[tuple[Incident, Treatment]]]:
    """Return the incidents that something is to be done about by now, by uuid ("" is the host)."""
    found: dict[str, list[tuple[Incident, Treatment]]] = {}
    for (_, name), incident in node.incidents.items():
        treatment = treatment_of(incident, node.settings.remedy.ladder)
        patient = _open_for(node, incident) >= treatment.patience_seconds
        if treatment.rungs and patient and _left_alone(incident) not in node.remedy.left:
            found.setdefault(name, []).append((incident, treatment))
    return found


def _open_for(node: NodeState, incident: Incident) -> float:
    if incident.opened.boot_id == node.now.boot_id:
        return node.now.boottime - incident.opened.boottime
    return node.now.boottime


def _strictest(found: Iterable[tuple[Incident, Treatment]]) -> tuple[Incident, Treatment]:
    return max(found, key=lambda each: (not each[0].drill, strictness(each[1])))


def _new(node: NodeState, name: str, found: list[tuple[Incident, Treatment]]) -> Step:
    incident, treatment = _strictest(found)
    found = [each for each in found if incident.drill or not each[0].drill]
    gpu = node.gpus.get(name)
    number = max(node.remedy.counter + 1, int(node.now.boottime))  # not used twice even by a host that forgot
    case = Case(
        id=f"{node.now.boot_id[:8]}-c{number}",
        kind=incident.kind,
        kinds=tuple(each.kind for each, _ in found),
        uuid=name or None,
        serial=gpu.identity.serial if gpu is not None else "",
        bdf=gpu.identity.bdf if gpu is not None else "",
        gpu=gpu.index if gpu is not None else None,
        opened=node.now,
        since=node.now,
        treatment=treatment,
        drill=incident.drill,
    )
    made = [each.rung for each in recent(node, of_gpu(node, case), RECURRENCE_SECONDS)]
    case = replace(case, rung=climbed(treatment, made))
    node = replace(node, remedy=replace(node.remedy, counter=number))
    node = _put(node, case)
    return Step(state=node, events=(_case_event(node, case, "opened"),))


def _joined(node: NodeState, case: Case, found: list[tuple[Incident, Treatment]]) -> Step:
    """Return a case with what else is wrong with its GPU. Until something was done, the strictest leads."""
    incident, treatment = _strictest(found)
    if incident.drill and not case.drill:
        return Step(state=node)  # what anybody could have written changes nothing about a real fault
    found = [each for each in found if incident.drill or not each[0].drill]
    kinds = tuple(dict.fromkeys((*case.kinds, *(each.kind for each, _ in found))))
    real = case.drill and not incident.drill
    stricter = strictness(treatment) > strictness(case.treatment)
    later = replace(case, kinds=kinds)
    if (stricter or real) and not case.acts and case.intent is None:
        made = [each.rung for each in recent(node, of_gpu(node, case), RECURRENCE_SECONDS)]
        later = replace(
            later,
            kind=incident.kind,
            treatment=treatment,
            rung=climbed(treatment, made),
            attempt=0,
            tried=False,
            refusals=0,
            isolating_since=node.now if case.isolating_since is not None else None,
            drill=incident.drill,
            approved=False,
            told_shadow=False,
        )
    if later == case:
        return Step(state=node)
    node = _put(node, later)
    events = (_case_event(node, later, "joined"),) if kinds != case.kinds else ()
    return Step(state=node, events=events)


# ---- moving


def _moved(node: NodeState, name: str) -> Step:
    """Return the node with one case moved on as far as it goes now."""
    step = Step(state=node)
    for _ in range(_MOST_MOVES):
        before = step.state.remedy.cases[name]
        move = advance(step.state, before)
        step = step.then(_taken(step.state, before, move))
        after = step.state.remedy.cases.get(name)
        if after is None or after == before or move.intent is not None:
            return step
    return step


def _taken(node: NodeState, before: Case, move: Move) -> Step:
    """Return the node with one move of a case taken in, and what is to be told and done of it."""
    node, case, events = _told_guards(node, move)
    node = _put(node, case)
    events += _told(node, before, case)
    commands: tuple[Command, ...] = ()
    if move.intent is not None:
        events += (_intended(node, case, move.intent),)
        commands = (Do(move.intent),)
    if move.attempt is not None:
        node = _remembered(node, move.attempt)
    node = _announced(node, before, case)
    step = Step(state=node, events=events, commands=commands)
    return step.then(_closed(node, case)) if case.state is CaseState.CLOSED else step


def _announced(node: NodeState, before: Case, case: Case) -> NodeState:
    """Return the node with a reboot announced, or an announcement withdrawn that nothing came of."""
    if rung_of(before).action is not ActionKind.REBOOT or before.state is not CaseState.ACTING:
        return node
    until = node.remedy.reboot_expected_until
    if case.state is CaseState.ACTING and case.retry_at is not None and case.retry_at != before.retry_at:
        until = node.now.wall + node.settings.remedy.announce_seconds + rung_of(case).deadline_seconds + _FATE_SECONDS
    elif before.retry_at is not None and case.retry_at is None and case.state is not CaseState.VERIFYING:
        until = 0.0
    elif before.retry_at is not None and case.state is CaseState.VERIFYING and case.acts == before.acts:
        until = 0.0
    if until == node.remedy.reboot_expected_until:
        return node
    return replace(node, remedy=replace(node.remedy, reboot_expected_until=until))


def _told_guards(node: NodeState, move: Move) -> tuple[NodeState, Case, tuple[Event, ...]]:
    """Return what is said once of a case that is held: each guard, and what would be done if this were no shadow."""
    case = move.case
    events: tuple[Event, ...] = ()
    if not move.held or move.action is None:
        return node, case, events
    action = move.action.value
    held = node.remedy.held
    fresh = [each for each in move.held if f"{action}/{each.guard}" not in case.held_once]
    for each in fresh:
        held = _counted(held, action, each.guard)
        events += (_action_event(node, case, action, "held", {"guard": each.guard, "why": each.why}),)
    case = replace(case, held_once=(*case.held_once, *(f"{action}/{each.guard}" for each in fresh)))
    if any(each.guard == "mode" for each in move.held) and not case.told_shadow:
        others = ", ".join(each.guard for each in move.held if each.guard != "mode")
        would: Evidence = {"rung": rung_of(case).name, "first": action, "also_held_by": others}
        events += (_action_event(node, case, rung_of(case).name, "would", would),)
        case = replace(case, told_shadow=True)
    return replace(node, remedy=replace(node.remedy, held=held)), case, events


def _remembered(node: NodeState, attempt: Attempt) -> NodeState:
    attempts = (*node.remedy.attempts, attempt)[-_MOST_ATTEMPTS:]
    return replace(node, remedy=replace(node.remedy, attempts=attempts))


def _closed(node: NodeState, case: Case) -> Step:
    """Return the node without a closed case.

    What its incidents latched ends with a repair, proven or vouched for. What a cancelled case, a drill or a
    release by an operator leaves open is left alone: it opens no further case. What came since then does.
    """
    cases = {name: each for name, each in node.remedy.cases.items() if name != case.id}
    step = Step(state=replace(node, remedy=replace(node.remedy, cases=cases)))
    left = step.state.remedy.left
    for kind in case.kinds:
        key = (kind, case.uuid or "")
        incident = step.state.incidents.get(key)
        if incident is None or is_later(node, incident.last_seen if incident.latched else incident.opened, case.since):
            continue
        if incident.latched and case.free_by in ("proof", "operator"):
            step = step.then(close(step.state, key, {"reason": f"case {case.id} closed"}))
        elif case.free_by in ("operator", "cancelled", "drill"):
            left = (*left, _left_alone(incident))
    return replace(step, state=replace(step.state, remedy=replace(step.state.remedy, left=left)))


def _put(node: NodeState, case: Case) -> NodeState:
    if node.remedy.cases.get(case.id) == case:
        return node
    return replace(node, remedy=replace(node.remedy, cases=node.remedy.cases | {case.id: case}))


def _counted(totals: dict[str, dict[str, int]], action: str, what: str) -> dict[str, dict[str, int]]:
    row = totals.get(action, {})
    return totals | {action: row | {what: row.get(what, 0) + 1}}


# ---- what is told


def _told(node: NodeState, before: Case, after: Case) -> tuple[Event, ...]:
    return (_case_event(node, after, after.state.value),) if after.state is not before.state else ()


def _case_event(node: NodeState, case: Case, state: str) -> Event:
    severity = Severity.WARNING if case.state is CaseState.HELD else Severity.INFO
    evidence: Evidence = {
        "case": case.id,
        "rung": rung_of(case).name,
        "attempt": case.attempt + 1,
        "why": case.why,
        "kinds": ", ".join(case.kinds),
    }
    if case.missing_proofs:
        evidence["missing_proofs"] = ", ".join(case.missing_proofs)
    if case.free_by:
        evidence["free_by"] = case.free_by
    return _event(node, case, kind="case", name=case.kind, state=state, severity=severity, evidence=evidence)


def _intended(node: NodeState, case: Case, intent: Intent) -> Event:
    return _action_event(node, case, intent.action.value, "intended", {"intent": intent.id})


def _action_event(node: NodeState, case: Case, action: str, state: str, evidence: Evidence) -> Event:
    severity = Severity.WARNING if state in (Outcome.FAILED.value, Outcome.EFFECT_UNKNOWN.value) else Severity.INFO
    told = {"case": case.id, **evidence}
    return _event(node, case, kind="action", name=action, state=state, severity=severity, evidence=told)


def _event(
    node: NodeState, case: Case, *, kind: str, name: str, state: str, severity: Severity, evidence: Evidence
) -> Event:
    return Event(
        kind=kind,
        name=name,
        severity=severity.value,
        gpu=case.gpu,
        uuid=case.uuid,
        state=state,
        time=node.now.wall,
        boot_id=node.now.boot_id,
        evidence=evidence,
        drill=case.drill,
    )
