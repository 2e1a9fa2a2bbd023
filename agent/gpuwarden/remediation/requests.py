"""What an operator may say to remediation: hold and release, pause and resume, approve and cancel. Each is history."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from gpuwarden.model.case import FOREVER, Case, CaseState, Hold
from gpuwarden.model.finding import Event, Evidence
from gpuwarden.model.observation import OperatorAsked, OperatorVerb
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import Step
from gpuwarden.policy.guards import life
from gpuwarden.policy.incidents import close


def asked(node: NodeState, request: OperatorAsked) -> Step:
    """Return the node after a request; one that is about nothing that exists is told as refused and changes nothing."""
    after, refused = _VERBS[request.verb](node, request)
    ended = Step(state=after)
    if request.verb is OperatorVerb.RELEASE:
        ended = _settled(node, after, request.uuid or "")
        refused = "" if ended.events else refused
    evidence: Evidence = {"by": request.by, "case": request.case, "why": request.why, "until": request.until}
    if refused:
        evidence["refused"] = refused
    gpu = node.gpus.get(request.uuid or "")
    event = Event(
        kind="request",
        name=request.verb.value,
        severity=Severity.INFO.value,
        gpu=gpu.index if gpu is not None else None,
        uuid=request.uuid,
        state="refused" if refused else "done",
        time=node.now.wall,
        boot_id=node.now.boot_id,
        evidence={key: value for key, value in evidence.items() if value not in ("", None)},
    )
    return replace(ended, events=(event, *ended.events))


_Answer = tuple[NodeState, str]


def _hold(node: NodeState, request: OperatorAsked) -> _Answer:
    name = request.uuid or ""
    if name and name not in node.gpus:
        return node, "no such GPU"
    holds = node.remedy.holds | {name: Hold(uuid=name, since=node.now.wall, why=request.why)}
    return replace(node, remedy=replace(node.remedy, holds=holds)), ""


def _release(node: NodeState, request: OperatorAsked) -> _Answer:
    """Take an operator's hold away, and let a held case of the same GPU go: its isolation is given back."""
    name = request.uuid or ""
    holds = {key: hold for key, hold in node.remedy.holds.items() if key != name}
    cases = {
        key: _let_go(node, case) if (case.uuid or "") == name and case.state is CaseState.HELD else case
        for key, case in node.remedy.cases.items()
    }
    if holds == node.remedy.holds and cases == node.remedy.cases:
        return node, "nothing is held there"
    return replace(node, remedy=replace(node.remedy, holds=holds, cases=cases)), ""


def _settled(before: NodeState, after: NodeState, name: str) -> Step:
    """Return the node without what was latched on a GPU that has no case: an operator says that it is dealt with."""
    step = Step(state=after)
    if any((case.uuid or "") == name for case in before.remedy.cases.values()):
        return step
    for key, incident in before.incidents.items():
        if key[1] == name and incident.latched:
            step = step.then(close(step.state, key, {"reason": "released by an operator"}))
    return step


def _let_go(node: NodeState, case: Case) -> Case:
    return replace(
        case,
        state=CaseState.RELEASING,
        since=node.now,
        why="released by an operator",
        free_by="operator",
        guards=(),
        retry_at=None,
        tries=0,
    )


def _pause(node: NodeState, request: OperatorAsked) -> _Answer:
    """Pause, by both clocks: a wall clock that is set ends no pause early."""
    until = request.until or FOREVER
    to_life = life(node) + max(0.0, until - node.now.wall)
    return replace(node, remedy=replace(node.remedy, paused_until=until, paused_to_life=to_life)), ""


def _resume(node: NodeState, _: OperatorAsked) -> _Answer:
    if node.remedy.paused_until is None:
        return node, "nothing is paused"
    return replace(node, remedy=replace(node.remedy, paused_until=None)), ""


def _approve(node: NodeState, request: OperatorAsked) -> _Answer:
    """Approve the present rung of a case; the next one asks again."""
    return _on_case(node, request, lambda case: replace(case, approved=True))


def _cancel(node: NodeState, request: OperatorAsked) -> _Answer:
    """Cancel a case: nothing more is begun. One that is held is left by release only."""
    case = node.remedy.cases.get(request.case)
    if case is not None and case.state is CaseState.HELD:
        return node, "it is held: release its GPU"
    return _on_case(node, request, lambda case: replace(case, cancelled=True))


def _on_case(node: NodeState, request: OperatorAsked, change: Callable[[Case], Case]) -> _Answer:
    case = node.remedy.cases.get(request.case)
    if case is None:
        return node, f"no open case {request.case!r}"
    cases = node.remedy.cases | {case.id: change(case)}
    return replace(node, remedy=replace(node.remedy, cases=cases)), ""


_VERBS: dict[OperatorVerb, Callable[[NodeState, OperatorAsked], _Answer]] = {
    OperatorVerb.HOLD: _hold,
    OperatorVerb.RELEASE: _release,
    OperatorVerb.PAUSE: _pause,
    OperatorVerb.RESUME: _resume,
    OperatorVerb.APPROVE: _approve,
    OperatorVerb.CANCEL: _cancel,
}
