"""How temperatures move: once a tick, from the readings as they stand."""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.warmth import POWER_SECONDS, QUICK_SECONDS, SLOW_SECONDS, Warmth
from gpuwarden.policy.sketch import smoothed


def followed(node: NodeState) -> NodeState:
    """Return the node with the movement of each temperature brought up to now; a silence starts it anew."""
    return replace(node, gpus={uuid: _followed(gpu, node.now.boottime) for uuid, gpu in node.gpus.items()})


def _followed(gpu: GpuState, now: float) -> GpuState:
    core, watts, warmth = gpu.readings.core_celsius, gpu.readings.power_watts, gpu.warmth
    if not isinstance(core, int | float) or not isinstance(watts, int | float):
        return gpu
    return replace(
        gpu,
        warmth=Warmth(
            quick_celsius=smoothed(warmth.quick_celsius, core, now, QUICK_SECONDS),
            slow_celsius=smoothed(warmth.slow_celsius, core, now, SLOW_SECONDS),
            power_watts=smoothed(warmth.power_watts, watts, now, POWER_SECONDS),
        ),
    )
