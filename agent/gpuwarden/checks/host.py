"""The host and gpuwarden itself."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Context, Outcome, Rule, finding, judge, number
from gpuwarden.model.finding import Verdict
from gpuwarden.model.host import PERSISTENCED
from gpuwarden.model.snapshot import NodeState


def _persistence_off(context: Context, mode: float) -> Outcome:
    """Return evidence where the mode is off and somebody or something says that it should be on."""
    if mode:
        return None
    unit = context.node.services.get(PERSISTENCED)
    others = [gpu for gpu in context.node.gpus.values() if gpu is not context.gpu]
    reasons = {
        "product": number(context.gpu.readings.ecc_mode_default) == 1,
        "peers": any(number(other.readings.persistence_mode) == 1 for other in others),
        "unit": unit is not None and unit.exists and not unit.runs and unit.enabled == "enabled",
    }
    expected_by = next((reason for reason, holds in reasons.items() if holds), None)
    if expected_by is None:
        return None
    return {"persistence_mode": 0, "expected_by": expected_by, "persistenced": unit.active if unit else "unknown"}


RULES = (Rule("host.persistence_off", ("persistence_mode",), _persistence_off),)


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about the host's GPUs as a whole, the journal and the engine."""
    yield from judge(RULES, node)
    outcomes: dict[str, Outcome] = {
        "host.journal_unwritable": None if node.journal_writable else {"detail": node.journal_detail},
        "host.engine_error": {"observations_set_aside": node.engine_errors} if node.engine_errors else None,
    }
    for kind, outcome in outcomes.items():
        settings = node.settings.kinds[kind]
        found = finding(kind, settings, None, outcome) if settings.enabled else None
        if found is not None:
            yield found
