"""Speed: is a GPU that works as fast as it should be, by its peers, by its own past, by what the board promises?

Only ever under load, and never by utilisation alone: in synchronous training the fast GPUs wait for the slow one at
100 %. Source: throughput rules 7 to 9 and 11, and peer comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpuwarden.checks.rule import Context, Outcome, Rule, finding, judge, under_load
from gpuwarden.model.finding import Evidence, Unsure, Verdict
from gpuwarden.model.gpu import CLOCKS_EVENT_REASONS, Missing
from gpuwarden.model.load import idle_power_ratio, looks_idle
from gpuwarden.model.settings import KindSettings
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.speed import Work

_FRESH_SECONDS = 60.0  # a clock that the driver has held down for longer is explained
_LOADED = ("gpu_utilization_ratio", "performance_state")
_IDLE_STATE = "performance_state"


def _clock_deficit(context: Context, _: float, state: float, __: float, ___: int) -> Evidence | None:
    """Judge the clock of those seconds in which the driver names no reason to hold it down."""
    speed, now = context.gpu.speed, context.node.now.boottime
    free, reference = speed.free_clock, speed.reference_hertz
    if free is None or not reference or speed.reference is None or now - free.at > _FRESH_SECONDS:
        return None
    if state >= context.node.settings.kinds["speed.stuck_pstate"].thresholds[_IDLE_STATE]:
        return None  # its state says why; that is a finding of its own
    ratio = free.value / reference
    if ratio >= context.thresholds["below_ratio"]:
        return None
    return {
        "clock_hertz": round(free.value),
        "reference_hertz": round(reference),
        "reference_source": speed.reference.value,
        "clock_ratio": round(ratio, 3),
    }


def _straggler(context: Context, _: float, __: float, ___: float) -> Evidence | None:
    """Judge the clock against the busy GPUs of this model and power limit: a median, and how far they lie around it."""
    clock, peers, limits = context.gpu.speed.clock, context.gpu.speed.peers, context.thresholds
    if clock is None or peers is None or peers.busy < limits["at_least_gpus"]:
        return None
    below = peers.median_hertz - clock.value
    ratio = clock.value / peers.median_hertz
    if ratio >= limits["below_ratio"] or below <= limits["deviations"] * peers.mad_hertz:
        return None
    return {
        "clock_hertz": round(clock.value),
        "peers_median_hertz": round(peers.median_hertz),
        "peers_mad_hertz": round(peers.mad_hertz),
        "busy_gpus": peers.busy,
        "clock_ratio": round(ratio, 3),
        "clocks_event_reasons": _reasons(context.gpu),
    }


def _reasons(gpu: GpuState) -> str | None:
    """Return the names of the reasons the driver gives now; None where it cannot be asked."""
    mask = gpu.readings.clocks_event_reasons
    if not isinstance(mask, int):
        return None
    return " ".join(name for bit, name in CLOCKS_EVENT_REASONS.items() if mask & bit) or "none"


def _stuck_pstate(context: Context, utilization: float, state: float) -> Evidence | None:
    limits = context.thresholds
    if state < limits[_IDLE_STATE] or utilization < limits["utilization_ratio"]:
        return None
    if looks_idle(context.gpu.readings, idle_power_ratio(context.node)):
        return None  # a counter that is stuck, not a card
    return {"performance_state": state, "utilization_ratio": utilization}


def _memory_clock(context: Context, _: float, state: float, clock: float, highest: float) -> Evidence | None:
    limits = context.thresholds
    if not under_load(context) or state > limits[_IDLE_STATE] or clock >= limits["below_ratio"] * highest:
        return None
    return {"memory_clock_hertz": clock, "memory_clock_max_hertz": highest, "performance_state": state}


def _ghost_busy(context: Context, utilization: float, processes: float, watts: float, limit: float) -> Evidence | None:
    limits = context.thresholds
    near_idle = watts <= limits["idle_power_ratio"] * limit
    if utilization < limits["utilization_ratio"] or processes > 0 or not near_idle:
        return None
    return {"utilization_ratio": utilization, "processes": processes, "power_watts": watts}


def _lasting(kind: str, needs: tuple[str, ...], test: Callable[..., Evidence | None]) -> Rule:
    """Return a rule whose evidence says for how long it must have been true."""

    def lasting(context: Context, *values: float) -> Outcome:
        found = test(context, *values)
        window = context.node.settings.kinds[kind].hold_seconds
        return None if found is None else {**found, "window_seconds": window}

    return Rule(kind, needs, lasting)


RULES = (
    _lasting("speed.clock_deficit", (*_LOADED, "sm_clock_hertz", "clocks_event_reasons"), _clock_deficit),
    _lasting("speed.straggler", (*_LOADED, "sm_clock_hertz"), _straggler),
    _lasting("speed.stuck_pstate", _LOADED, _stuck_pstate),
    _lasting("speed.memory_clock", (*_LOADED, "memory_clock_hertz", "memory_clock_max_hertz"), _memory_clock),
    _lasting(
        "speed.ghost_busy",
        ("gpu_utilization_ratio", "processes", "power_watts", "power_limit_default_watts"),
        _ghost_busy,
    ),
)


def _throughput(node: NodeState) -> Iterator[Verdict]:
    """Yield whether the operator's own figure of each working GPU is what it usually is; unsure while nobody tells."""
    kind = "speed.throughput_drop"
    settings, metric = node.settings.kinds[kind], node.settings.throughput_metric
    if not settings.enabled or not metric:
        return
    told = node.throughput_up is True and any(metric in gpu.work for gpu in node.gpus.values())
    for uuid, gpu in node.gpus.items():
        busy = gpu.readings.gpu_utilization_ratio
        if isinstance(busy, Missing) and busy is not Missing.NOT_SUPPORTED:
            yield Unsure(kind=kind, uuid=uuid)
        elif under_load(Context(node, gpu, settings.thresholds)):
            work = gpu.work.get(metric)
            if not told or (work is not None and work.mean is None):
                yield Unsure(kind=kind, uuid=uuid)
            elif work is not None and (found := finding(kind, settings, uuid, _drop(work, settings, metric))):
                yield found


def _drop(work: Work, settings: KindSettings, metric: str) -> Outcome:
    mean, usual = work.mean, work.usual
    if mean is None or usual is None or mean.value >= settings.thresholds["below_ratio"] * usual:
        return None
    return {
        "metric": metric,
        "throughput": float(f"{mean.value:.6g}"),
        "usual_throughput": float(f"{usual:.6g}"),
        "throughput_ratio": round(mean.value / usual, 3),
        "history_hours": round(work.history.seconds / 3600.0, 1),
        "window_seconds": settings.hold_seconds,
    }


def check(node: NodeState) -> Iterator[Verdict]:
    """Yield what is true now about speed."""
    yield from judge(RULES, node)
    yield from _throughput(node)
