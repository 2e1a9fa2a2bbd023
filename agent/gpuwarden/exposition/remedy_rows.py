"""Metric rows about remediation: its mode and brakes, the cases, and what was done or held."""

from __future__ import annotations

from collections.abc import Iterable

from gpuwarden.exposition.rows import CaseRow, Extras, Labelled, Row, flag
from gpuwarden.model.case import NOT_READ, ActionKind, Case, CaseState, Outcome
from gpuwarden.model.snapshot import NodeState

_OPEN_STATES = tuple(state for state in CaseState if state is not CaseState.CLOSED)


def _stopped(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    """Say whether anything is stopped: a switch that cannot be read is one that is on. Absent before the first look."""
    if node.around.stop_detail != NOT_READ:
        yield (), int(node.around.stopped is not False)


def _paused(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    until = node.remedy.paused_until
    yield (), int(until is not None and node.now.wall < until)


def _cases(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    states = [case.state for case in node.remedy.cases.values()]
    return [((state.value,), states.count(state)) for state in _OPEN_STATES]


def _approvals(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    yield (), sum("approval" in case.guards for case in node.remedy.cases.values())


def _actions(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    totals = {(action.value, outcome.value): 0 for action in ActionKind for outcome in Outcome}
    totals |= {(action, name): n for action, row in node.remedy.actions.items() for name, n in row.items()}
    return sorted(totals.items())


def _held(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    return sorted(((action, guard), n) for action, row in node.remedy.held.items() for guard, n in row.items())


def _out_of_service(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    """Say who keeps new work away; absent while nobody can tell."""
    around = node.around.surroundings
    if around.isolated is None:
        return
    ours = around.isolated and around.mark.startswith("gpuwarden ")
    yield ("gpuwarden",), int(ours)
    yield ("other",), int(around.isolated and not ours)


REMEDY_ROWS: tuple[Row, ...] = (
    Row("stopped", "Whether the stop switch is on, or cannot be read.", (), _stopped),
    Row("paused", "Whether an operator has paused remediation.", (), _paused),
    Row(
        "actuator_up",
        "Whether the actuator answers.",
        (),
        lambda node, _extras: flag(node.around.surroundings.actuator_up),
    ),
    Row("cases", "Open cases by state.", ("state",), _cases),
    Row("approvals_waiting", "Cases that wait for an operator's approval.", (), _approvals),
    Row("actions_total", "Effects that ended, by outcome.", ("action", "outcome"), _actions),
    Row("actions_held_total", "Effects a guard held, once per case and guard.", ("action", "guard"), _held),
    Row("host_out_of_service", "Whether new work is kept away from this host, and by whom.", ("by",), _out_of_service),
    Row(
        "reboot_expected_until_timestamp_seconds",
        "Until when this host may be away because gpuwarden reboots it, as Unix time; 0 when it does not.",
        (),
        lambda node, _extras: (((), node.remedy.reboot_expected_until),),
    ),
)


def _case(case: Case) -> Labelled:
    rungs = case.treatment.rungs
    rung = rungs[min(case.rung, len(rungs) - 1)].name
    return (case.id, case.kind, rung, case.state.value), 1


CASE_ROWS: tuple[CaseRow, ...] = (
    CaseRow("case_info", "An open case.", ("case", "kind", "rung", "state"), _case),
    CaseRow(
        "case_state_since_timestamp_seconds",
        "Since when a case is in its state, as Unix time.",
        ("case",),
        lambda case: ((case.id,), case.since.wall),
    ),
)
