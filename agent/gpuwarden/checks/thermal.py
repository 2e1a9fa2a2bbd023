"""Heat: judged by the card's own limits first, by its margin where it gives one, by fixed numbers last."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Context, Outcome, Rule, finding, judge, number
from gpuwarden.model.finding import Evidence, Verdict
from gpuwarden.model.snapshot import GpuState, NodeState

_COOL_CELSIUS = 60.0  # no card slows down below this: a margin of zero there is a broken reading


def _limit(context: Context) -> tuple[float, str]:
    """Return the core's slowdown limit in Celsius and where it comes from."""
    configured = context.node.settings.core_limit_celsius
    if configured is not None:
        return configured, "configured"
    own = number(context.gpu.readings.limit_slowdown_celsius)
    return (own, "card") if own else (context.thresholds["fixed_limit_celsius"], "fixed")


def _distance(context: Context, core_celsius: float) -> tuple[float, Evidence]:
    """Return how many degrees are left until the slowdown, and the numbers behind that.

    The margin (T.Limit) counts down to an offset and says nothing when the driver gives no offset; a margin at or
    below zero with a cool core is a known bad reading of some boards, so the absolute limit is asked beside it.
    """
    margin = number(context.gpu.readings.margin_celsius)
    offset = number(context.gpu.readings.margin_limit_slowdown_celsius)
    trusted = margin is not None and (margin > 0 or core_celsius > _COOL_CELSIUS)
    if trusted and margin is not None and offset is not None and context.node.settings.core_limit_celsius is None:
        return margin - offset, {"core_celsius": core_celsius, "margin_celsius": margin, "limit_offset_celsius": offset}
    limit, source = _limit(context)
    return limit - core_celsius, {"core_celsius": core_celsius, "limit_celsius": limit, "limit_source": source}


def _is_open(context: Context, kind: str) -> bool:
    return (kind, context.gpu.identity.uuid) in context.node.incidents


def _near(context: Context, core: float) -> Outcome:
    left, evidence = _distance(context, core)
    slack = context.thresholds["hysteresis_celsius"] if _is_open(context, "thermal.core_near_limit") else 0.0
    return evidence if 0 < left <= context.thresholds["near_celsius"] + slack else None


def _over(context: Context, core: float) -> Outcome:
    left, evidence = _distance(context, core)
    return evidence if left <= 0 else None


def _memory_over(context: Context, memory: float) -> Outcome:
    limit = number(context.gpu.readings.limit_memory_max_celsius) or context.thresholds["fixed_limit_celsius"]
    return {"memory_celsius": memory, "limit_celsius": limit} if memory >= limit else None


def share(context: Context, reading: str) -> Outcome:
    """Return evidence when an event counter grew for more than `share_ratio` of the covered window.

    The counter is cumulative seconds, so a blink at a P-state change does not count as an event.
    """
    window = context.gpu.windows.get(reading)
    rate = window.rate if window is not None else None
    if window is None or rate is None or window.span_seconds < 10.0 or rate < context.thresholds["share_ratio"]:
        return None
    return {"share_ratio": round(rate, 3), "window_seconds": round(window.span_seconds, 1)}


RULES = (
    Rule("thermal.core_near_limit", ("core_celsius",), _near),
    Rule("thermal.core_over_limit", ("core_celsius",), _over),
    Rule("thermal.memory_over_limit", ("memory_celsius",), _memory_over),
    Rule("thermal.hw_slowdown", ("event_hw_thermal_seconds",), lambda c, _: share(c, "event_hw_thermal_seconds")),
    Rule("thermal.sw_slowdown", ("event_sw_thermal_seconds",), lambda c, _: share(c, "event_sw_thermal_seconds")),
)


def _is_hot(gpu: GpuState, node: NodeState) -> bool:
    """Return whether a GPU is near its limit or over it."""
    core = number(gpu.readings.core_celsius)
    context = Context(node, gpu, node.settings.kinds["thermal.core_near_limit"].thresholds)
    return core is not None and (_near(context, core) or _over(context, core)) is not None


def _room(node: NodeState) -> Iterator[Verdict]:
    kind = "thermal.room_hot"
    settings = node.settings.kinds[kind]
    seen = [gpu for gpu in node.gpus.values() if number(gpu.readings.core_celsius) is not None]
    hot = [gpu for gpu in seen if _is_hot(gpu, node)]
    limits = settings.thresholds
    if settings.enabled and len(hot) >= max(limits["at_least_gpus"], limits["share_ratio"] * len(seen)):
        found = finding(kind, settings, None, {"hot_gpus": len(hot), "seen_gpus": len(seen)})
        if found is not None:
            yield found


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about heat."""
    yield from judge(RULES, node)
    yield from _room(node)
