"""Heat: judged by the card's own limits first, by its margin where it gives one, by fixed numbers last."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.checks.rule import Context, Outcome, Rule, finding, judge, number
from gpuwarden.model.finding import Evidence, Verdict
from gpuwarden.model.gpu import Missing, Scalar, Value
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.warmth import QUICK_SECONDS, SLOW_SECONDS

_LEAST_SAMPLED_SECONDS = 60.0
_STEADY_POWER_RATIO = 0.05
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

    The counter is cumulative seconds, so a blink at a P-state change does not count as an event. An older driver keeps
    none: there the reason is counted once a sample, and a minute of samples is the least that says anything.
    """
    window, limits = context.gpu.windows.get(reading), context.thresholds
    rate = window.rate if window is not None else None
    sampled = reading in context.gpu.event_seconds
    least = max(limits["least_seconds"], _LEAST_SAMPLED_SECONDS if sampled else 0.0)
    if window is None or rate is None or window.span_seconds < least or rate < limits["share_ratio"]:
        return None
    found: Evidence = {"share_ratio": round(rate, 3), "window_seconds": round(window.span_seconds, 1)}
    return found | ({"counted_by": "samples"} if sampled else {})


def spent(kind: str, reading: str) -> Rule:
    """Return the rule of a kind that is a share of time: of the driver's counter, else of samples of its reason."""
    return Rule(kind, (reading,), lambda context, _: share(context, reading), {reading: "clocks_event_reasons"})


def _fan_suspect(context: Context, core: float, told: Value, watts: float) -> Outcome:
    """Judge a fan by what it cannot hide: it stands still, or the core warms up although it was told to run fast.

    What NVML calls the fan's speed is what the fan was told, so a blocked one still reads as running.
    """
    limits = context.thresholds
    fastest = max(_numbers(told), default=None)
    stopped = [fan for fan, rpm in enumerate(_vector(context.gpu.readings.fan_speed_rpm)) if rpm == 0]
    if stopped and core > limits["stopped_celsius"]:
        return {"core_celsius": core, "stopped_fan": stopped[0], "fan_rpm": 0, "fan_speed_ratio": fastest}
    if fastest is None or fastest < limits["high_ratio"]:
        return None
    rise = context.gpu.warmth.rise or 0.0
    if not _is_open(context, "thermal.fan_suspect") and not _warms_alone(context, core, watts):
        return None
    return {
        "core_celsius": core,
        "fan_speed_ratio": fastest,
        "rise_celsius_per_minute": round(rise, 1),
        "window_seconds": SLOW_SECONDS,
    }


def _warms_alone(context: Context, core: float, watts: float) -> bool:
    """Return whether this core still rises, its power does not, and most of its siblings do not warm up with it."""
    warmth, limit = context.gpu.warmth, context.thresholds["rise_celsius_per_minute"]
    quick, power = warmth.quick_celsius, warmth.power_watts
    if quick is None or power is None or warmth.rise is None or warmth.rise < limit:
        return False
    rises_still = core - quick.value >= limit / 60.0 * QUICK_SECONDS / 2
    others = [gpu.warmth.rise for uuid, gpu in context.node.gpus.items() if uuid != context.gpu.identity.uuid]
    warming = sum(rise is not None and rise >= limit / 2 for rise in others)
    room = warming > 0 and 2 * warming >= len(others)
    return rises_still and watts <= (1.0 + _STEADY_POWER_RATIO) * power.value and not room


def _vector(value: Value) -> tuple[Scalar, ...]:
    return value if isinstance(value, tuple) else ()


def _numbers(value: Value) -> list[float]:
    return [float(each) for each in _vector(value) if not isinstance(each, Missing)]


RULES = (
    Rule("thermal.core_near_limit", ("core_celsius",), _near),
    Rule("thermal.core_over_limit", ("core_celsius",), _over),
    Rule("thermal.memory_over_limit", ("memory_celsius",), _memory_over),
    spent("thermal.hw_slowdown", "event_hw_thermal_seconds"),
    spent("thermal.sw_slowdown", "event_sw_thermal_seconds"),
    Rule("thermal.fan_suspect", ("core_celsius", "fan_speed_ratio", "power_watts"), _fan_suspect),
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
