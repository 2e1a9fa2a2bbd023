"""Links: PCIe width and generation under load only, replays against their budget; the room's other files beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gpuwarden.checks import aer, fabric, nvlink, ports
from gpuwarden.checks.rule import Context, Outcome, Rule, judge, number, under_load
from gpuwarden.model.finding import Evidence, Verdict
from gpuwarden.model.snapshot import NodeState


def _below(name: str) -> Rule:
    """Return the rule of one link property: under load it must be at what the slot and the card can both do."""
    now, most = {
        "width": ("pcie_width_lanes", "pcie_width_max_lanes"),
        "generation": ("pcie_generation", "pcie_generation_max"),
    }[name]

    def test(context: Context, current: float, maximum: float) -> Outcome:
        if not (under_load(context) and 0 < current < maximum):
            return None
        evidence: Evidence = {now: current, most: maximum}
        own = number(context.gpu.readings.pcie_generation_gpu_max)
        return evidence if own is None else evidence | {"pcie_generation_gpu_max": own}

    return Rule(f"links.pcie_{name}", (now, most), test)


def _replays(context: Context, _: float, generation: float, lanes: float) -> Outcome:
    window = context.gpu.windows.get("pcie_replays")
    rate = window.rate if window is not None else None
    per_lane = context.thresholds.get(f"gen{int(generation)}_per_lane_minute")
    if window is None or rate is None or per_lane is None or window.span_seconds < 30.0:
        return None
    budget = math.ceil(per_lane * lanes)
    minute = rate * 60.0
    if minute <= budget:
        return None
    return {
        "replays_per_minute": round(minute, 1),
        "budget_per_minute": budget,
        "window_seconds": round(window.span_seconds),
    }


RULES = (
    _below("width"),
    _below("generation"),
    Rule("links.pcie_replays", ("pcie_replays", "pcie_generation_max", "pcie_width_max_lanes"), _replays),
)


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about PCIe."""
    yield from judge(RULES, node)
    yield from aer.check(node)
    yield from nvlink.check(node)
    yield from fabric.check(node)
    yield from ports.check(node)
