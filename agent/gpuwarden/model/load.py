"""Does a GPU work? The gate of every "under load" rule, and what only looks like work.

Source: throughput rules; clocks, links and power fall at idle by design, so nothing about them is judged otherwise.
"""

from __future__ import annotations

from gpuwarden.model.gpu import GpuReading
from gpuwarden.model.snapshot import GpuState, NodeState

_GPU_IDLE = 0x001  # source: nvml.h, nvmlClocksEventReasonGpuIdle


def under_load(node: NodeState, gpu: GpuState) -> bool:
    """Return whether the GPU has been busy, in one performance state, for the settle time without a break."""
    since = (gpu.loaded_since, gpu.settled_since)
    settled = all(s is not None and node.now.boottime - s >= node.settings.load_settle_seconds for s in since)
    return settled and not looks_idle(gpu.readings, idle_power_ratio(node))


def idle_power_ratio(node: NodeState) -> float:
    """Return the share of its default power limit up to which a GPU counts as near idle."""
    return node.settings.kinds["speed.ghost_busy"].thresholds["idle_power_ratio"]


def looks_idle(readings: GpuReading, power_ratio: float) -> bool:
    """Return whether a GPU that claims to be busy is not: the driver calls it idle, or nobody is there and it is cold.

    Source: a utilisation counter that stays at 100 % after its process was killed, at idle power (Blackwell).
    """
    reasons = readings.clocks_event_reasons
    if isinstance(reasons, int) and reasons & _GPU_IDLE:
        return True
    power, limit = readings.power_watts, readings.power_limit_default_watts
    cold = isinstance(power, int | float) and isinstance(limit, int | float) and power <= power_ratio * limit
    return readings.processes == 0 and cold
