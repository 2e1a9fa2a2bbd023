"""How fast each GPU works, and what it is held against: once a tick, from the readings as they stand.

The reference clock of a GPU is, in this order: the median of its busy peers, what it usually reached itself, the boost
clock of the board, a share of its highest clock. "Below 0.9 of the maximum" would already call a healthy RTX 4080
SUPER slow, which runs at 0.886 of it. Source: throughput rules, measured on loaded cards.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import TypeAlias

from msgspec.structs import replace

from gpuwarden.model.gpu import Value
from gpuwarden.model.load import under_load
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.speed import Peers, Reference, Speed, clock_bucket, clock_of
from gpuwarden.policy.sketch import counted, quantile, smoothed

SMOOTH_SECONDS = 15.0
HISTORY_SECONDS = 3600.0  # of work at least, before a GPU's own past is a measure
USUAL_SHARE = 0.95
SHARE_OF_MAX = 0.80
_LONGEST_STEP_SECONDS = 5.0
_GPU_IDLE = 0x001  # not a reason to hold a clock down: the only one that a working card cannot have

_Kin: TypeAlias = tuple[str, float | None]
"""Model and power limit in watts: GPUs that somebody capped differently are not peers."""


def compared(node: NodeState) -> NodeState:
    """Return the node with every GPU's speed brought up to now and put beside that of its peers."""
    gpus = {uuid: _measured(node, gpu) for uuid, gpu in node.gpus.items()}
    groups: dict[_Kin, list[float]] = {}
    for gpu in gpus.values():
        if gpu.speed.clock is not None:
            groups.setdefault(_kin(gpu), []).append(gpu.speed.clock.value)
    least = node.settings.kinds["speed.straggler"].thresholds["at_least_gpus"]
    peers = {kin: _peers(clocks) for kin, clocks in groups.items() if len(clocks) >= least}
    return replace(node, gpus={uuid: _held_against(gpu, peers.get(_kin(gpu))) for uuid, gpu in gpus.items()})


def held_down(reasons: Value) -> bool | None:
    """Return whether the driver says why a clock is lower than it could be; None where it says nothing."""
    return bool(reasons & ~_GPU_IDLE) if isinstance(reasons, int) else None


def _measured(node: NodeState, gpu: GpuState) -> GpuState:
    """Return a GPU with this moment's clock taken in, or with its means gone where it does not work."""
    speed, now, clock = gpu.speed, node.now.boottime, gpu.readings.sm_clock_hertz
    if not isinstance(clock, int | float) or not under_load(node, gpu):
        return gpu if speed.clock is None else replace(gpu, speed=replace(speed, clock=None, free_clock=None, at=None))
    passed = 0.0 if speed.at is None else min(now - speed.at, _LONGEST_STEP_SECONDS)
    free = speed.free_clock
    history = speed.history
    if held_down(gpu.readings.clocks_event_reasons) is False:
        free = smoothed(free, clock, now, SMOOTH_SECONDS)
        history = counted(history, clock_bucket(clock), passed) if passed > 0 else history
    mean = smoothed(speed.clock, clock, now, SMOOTH_SECONDS)
    return replace(gpu, speed=replace(speed, at=now, clock=mean, free_clock=free, history=history))


def _kin(gpu: GpuState) -> _Kin:
    limit = gpu.readings.power_limit_enforced_watts
    return gpu.identity.name, round(limit) if isinstance(limit, int | float) else None


def _peers(clocks: Iterable[float]) -> Peers:
    values = list(clocks)
    middle = median(values)
    return Peers(len(values), middle, median(abs(value - middle) for value in values))


def _held_against(gpu: GpuState, peers: Peers | None) -> GpuState:
    hertz, source = _reference(gpu, peers)
    speed = gpu.speed
    if (speed.peers, speed.reference_hertz, speed.reference) == (peers, hertz, source):
        return gpu
    return replace(gpu, speed=replace(speed, peers=peers, reference_hertz=hertz, reference=source))


def _reference(gpu: GpuState, peers: Peers | None) -> tuple[float | None, Reference | None]:
    if peers is not None:
        return peers.median_hertz, Reference.PEERS
    usual = _usual(gpu.speed)
    if usual is not None:
        return usual, Reference.HISTORY
    boost, highest = gpu.readings.graphics_clock_boost_hertz, gpu.readings.sm_clock_max_hertz
    if isinstance(boost, int | float):
        return float(boost), Reference.CUSTOMER_BOOST
    if isinstance(highest, int | float):
        return SHARE_OF_MAX * highest, Reference.SHARE_OF_MAX
    return None, None


def _usual(speed: Speed) -> float | None:
    if speed.history.seconds < HISTORY_SECONDS:
        return None
    return quantile(speed.history, USUAL_SHARE, clock_of)
