"""Cases as JSON-able data, for `/api/v1/status`, the page and `gpuwarden status`."""

from __future__ import annotations

from typing import Any

from gpuwarden.model.case import Case
from gpuwarden.model.snapshot import NodeState


def cases(node: NodeState) -> list[dict[str, Any]]:
    """Return the open cases, in the order they were opened. Times are Unix seconds."""
    return [_case(case) for case in node.remedy.cases.values()]


def remedy(node: NodeState) -> dict[str, Any]:
    """Return the brakes of remediation: what is stopped, paused and held, and who answers."""
    around, until = node.around, node.remedy.paused_until
    return {
        "stopped": around.stopped,
        "stop_detail": around.stop_detail,
        "paused_until": until if until is not None and node.now.wall < until else None,
        "actuator_up": around.surroundings.actuator_up,
        "actuator_detail": around.surroundings.detail,
        "isolated": around.surroundings.isolated,
        "mark": around.surroundings.mark,
        "holds": [{"uuid": hold.uuid, "since": hold.since, "why": hold.why} for hold in node.remedy.holds.values()],
        "reboot_expected_until": node.remedy.reboot_expected_until or None,
    }


def _case(case: Case) -> dict[str, Any]:
    rungs = [rung.name for rung in case.treatment.rungs]
    return {
        "case": case.id,
        "kind": case.kind,
        "kinds": list(case.kinds),
        "gpu": case.gpu,
        "uuid": case.uuid,
        "state": case.state.value,
        "since": case.since.wall,
        "opened": case.opened.wall,
        "urgency": case.treatment.urgency.value,
        "ladder": rungs,
        "rung": rungs[min(case.rung, len(rungs) - 1)],
        "attempt": case.attempt + 1,
        "waits_for": list(case.guards),
        "why": case.why,
        "missing_proofs": list(case.missing_proofs),
        "intent": case.intent.id if case.intent is not None else None,
        "isolated": case.isolated,
        "mark": case.mark,
        "drill": case.drill,
    }
