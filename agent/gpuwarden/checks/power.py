"""Power: somebody or something holds the GPU below its default."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Context, Outcome, Rule, judge
from gpuwarden.checks.thermal import spent
from gpuwarden.model.finding import Verdict
from gpuwarden.model.snapshot import NodeState


def _capped(context: Context, enforced: float, default: float) -> Outcome:
    if enforced >= context.thresholds["share_ratio"] * default:
        return None
    return {"enforced_watts": enforced, "default_watts": default}


RULES = (
    spent("power.power_brake", "event_power_brake_seconds"),
    Rule("power.capped_below_default", ("power_limit_enforced_watts", "power_limit_default_watts"), _capped),
)


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about power."""
    yield from judge(RULES, node)
