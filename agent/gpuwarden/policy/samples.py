"""What GPUs say: merging a lane's readings, their age, and what is only seen over time. Aggregates, no sample lists."""

from __future__ import annotations

from bisect import bisect_left

from msgspec.structs import replace

from gpuwarden.model.gpu import GpuReading, Lane, Missing, Value, present
from gpuwarden.model.mig import MOST_INSTANCES
from gpuwarden.model.observation import GpuSampled, MigSeen
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import POLL_BUCKETS, GpuState, NodeState, Presence, Window
from gpuwarden.policy import links
from gpuwarden.policy.census import stand
from gpuwarden.policy.gpus import at_bdf, put, voided
from gpuwarden.policy.tallies import saw_reasons

WINDOW_SECONDS: dict[str, float] = {
    "pcie_replays": 60.0,
    "event_sw_thermal_seconds": 900.0,
    "event_hw_thermal_seconds": 60.0,
    "event_power_brake_seconds": 60.0,
    "ecc_corrected_volatile": 3600.0,
    "ecc_uncorrected_volatile": 600.0,
    "energy_joules": 600.0,
    "nvlink_tx_bytes": 30.0,
    "nvlink_rx_bytes": 30.0,
}
"""Cumulative readings whose growth is judged, and over how long; a window covers once to twice this."""

FURTHER_WINDOWS: dict[str, tuple[str, float]] = {
    "ecc_corrected_burst": ("ecc_corrected_volatile", 60.0),
    "ecc_corrected_baseline": ("ecc_corrected_volatile", 6 * 3600.0),
}
"""Further windows of a reading that has one already, each under a name of its own."""
EVENT_BITS: dict[str, int] = {  # source: nvml.h, nvmlClocksEventReason*
    "event_sw_thermal_seconds": 0x20,
    "event_hw_thermal_seconds": 0x40,
    "event_power_brake_seconds": 0x80,
}
"""Time counters that older drivers do not have, and the reason bit that is counted once a sample in their place."""

_START_OVER = ("energy_joules", "ecc_corrected_volatile", "ecc_uncorrected_volatile")
"""Counters that fall only when the GPU was reset or its driver reloaded."""


def sampled(node: NodeState, sample: GpuSampled) -> NodeState:
    """Return the node with one lane's readings taken in. A sample of a GPU nobody opened is dropped."""
    gpu = at_bdf(node, sample.bdf)
    if gpu is None:
        return node
    answered = any(present(value) for value in sample.values.values())
    node = _polled(node, sample, answered)
    uuid = gpu.identity.uuid
    if sample.lane is Lane.PCIE and gpu.presence is not Presence.ANSWERING:
        return node  # its thread is another one: it proves nothing about the one that hangs
    if answered and gpu.presence is not Presence.ANSWERING and uuid in node.by_index.values():
        failed = {index: what for index, what in node.nvml.failed.items() if index != sample.index}
        node = stand(replace(node, nvml=replace(node.nvml, failed=failed)), uuid, Presence.ANSWERING)
        gpu = node.gpus[uuid]
    if gpu.presence not in (Presence.ANSWERING, Presence.BLOCKED):
        return node
    return put(node, _merged(gpu, sample, node.settings, answered))


def mig_seen(node: NodeState, seen: MigSeen) -> NodeState:
    """Return the node with one GPU's MIG instances as they are now: those that were removed are gone with this."""
    gpu = at_bdf(node, seen.bdf)
    if gpu is None or gpu.presence not in (Presence.ANSWERING, Presence.BLOCKED):
        return node
    return put(node, replace(gpu, mig=seen.instances[:MOST_INSTANCES]))


def _merged(gpu: GpuState, sample: GpuSampled, settings: Settings, answered: bool) -> GpuState:
    at = sample.at
    static = dict(sample.values) if sample.lane is Lane.STATIC else gpu.static
    back = static if Lane.STATIC not in gpu.lane_times else {}
    times = gpu.lane_times | {sample.lane: at.boottime}
    if back:
        times[Lane.STATIC] = at.boottime
    rejected = gpu.rejected
    for name in sample.rejected:
        rejected = rejected | {name: rejected.get(name, 0) + 1}
    counted = _counted(gpu, sample, settings)
    windows, restarted = _windows(gpu, sample, counted)
    loaded, settled = _since(gpu, sample, settings)
    if "clocks_event_reasons" in sample.values:
        gpu = saw_reasons(gpu, sample.values["clocks_event_reasons"], at.boottime)
    return replace(
        gpu,
        readings=replace(gpu.readings, **{**back, **sample.values}),
        static=static,
        lane_times=times,
        lane_fields=gpu.lane_fields | {sample.lane: tuple(sample.values)},
        last_sample=at.wall if answered else gpu.last_sample,
        last_seen=at.wall if answered else gpu.last_seen,
        rejected=rejected,
        windows=windows,
        link_windows=links.windows(gpu.link_windows, sample.values, at.boottime),
        links_seen_up=links.seen_up(gpu.links_seen_up, sample.values),
        event_seconds=counted,
        restarted=at.boottime if restarted else gpu.restarted,
        loaded_since=loaded,
        settled_since=settled,
    )


def _counted(gpu: GpuState, sample: GpuSampled, settings: Settings) -> dict[str, float]:
    """Return the time under each clocks event reason for which the driver keeps no counter, this sample's added."""
    reasons = sample.values.get("clocks_event_reasons")
    if not isinstance(reasons, int):
        return gpu.event_seconds
    last = gpu.lane_times.get(sample.lane)
    passed = 0.0 if last is None else min(sample.at.boottime - last, 2 * settings.fast_seconds)
    return {
        name: gpu.event_seconds.get(name, 0.0) + (passed if reasons & bit else 0.0)
        for name, bit in EVENT_BITS.items()
        if sample.values.get(name, gpu.readings.value(name)) is Missing.NOT_SUPPORTED
    }


def _windows(gpu: GpuState, sample: GpuSampled, counted: dict[str, float]) -> tuple[dict[str, Window], bool]:
    """Return the windows with this sample in them, and whether a counter shows that the GPU started over."""
    windows, started_over = gpu.windows, False
    ours = counted if counted is not gpu.event_seconds else {}
    for name, value in (sample.values | ours).items():
        period = WINDOW_SECONDS.get(name)
        if period is None or isinstance(value, Missing | tuple):
            continue
        window = grow(windows.get(name), float(value), sample.at.boottime, period)
        started_over |= window.restarted and name in _START_OVER
        windows = windows | {name: window}
    for key, (name, period) in FURTHER_WINDOWS.items():
        value = sample.values.get(name, Missing.UNKNOWN)
        if not isinstance(value, Missing | tuple):
            windows = windows | {key: grow(windows.get(key), float(value), sample.at.boottime, period)}
    return windows, started_over


def grow(window: Window | None, value: float, at: float, period: float) -> Window:
    """Return a window one sample on. A first sample, a fall and a long silence start it anew."""
    fell = window is not None and value < window.last
    if window is None or fell or at - window.last_at > 2 * period:
        return Window(
            last=value,
            last_at=at,
            base=value,
            base_at=at,
            previous_base=value,
            previous_base_at=at,
            restarted=fell,
        )
    base, base_at, previous, previous_at = window.base, window.base_at, window.previous_base, window.previous_base_at
    if at - base_at >= period:
        base, base_at, previous, previous_at = value, at, base, base_at
    return Window(
        last=value,
        last_at=at,
        base=base,
        base_at=base_at,
        previous_base=previous,
        previous_base_at=previous_at,
        grown=value - previous,
        span_seconds=at - previous_at,
    )


def _since(gpu: GpuState, sample: GpuSampled, settings: Settings) -> tuple[float | None, float | None]:
    """Return since when the GPU is busy without a break, and since when it is in its performance state."""
    at = sample.at.boottime
    loaded, settled = gpu.loaded_since, gpu.settled_since
    if "gpu_utilization_ratio" in sample.values:
        busy = _at_least(sample.values["gpu_utilization_ratio"], settings.load_utilization_ratio)
        loaded = (at if loaded is None else loaded) if busy else None
    if "performance_state" in sample.values:
        state = sample.values["performance_state"]
        if not present(state):
            settled = None
        elif settled is None or state != gpu.readings.performance_state:
            settled = at
    return loaded, settled


def _at_least(value: Value, least: float) -> bool:
    return isinstance(value, int | float) and value >= least


def _polled(node: NodeState, sample: GpuSampled, answered: bool) -> NodeState:
    lane = sample.lane.value
    key = (lane, "ok" if answered else "failed")
    total, counts = node.poll_seconds.get(lane, (0.0, (0,) * (len(POLL_BUCKETS) + 1)))
    bucket = bisect_left(POLL_BUCKETS, sample.duration_seconds)
    counts = (*counts[:bucket], counts[bucket] + 1, *counts[bucket + 1 :])
    return replace(
        node,
        polls=node.polls | {key: node.polls.get(key, 0) + 1},
        poll_seconds=node.poll_seconds | {lane: (total + sample.duration_seconds, counts)},
    )


def expired(node: NodeState) -> NodeState:
    """Return the node without readings that are older than two of their periods and the deadline.

    With the fast lane goes what never changes: a GPU that is silent shows no readings at all.
    """
    for gpu in node.gpus.values():
        late = [lane for lane, at in gpu.lane_times.items() if node.now.boottime - at > _lifetime(lane, node.settings)]
        if Lane.FAST in late and Lane.STATIC in gpu.lane_times:
            late.append(Lane.STATIC)
        if late:
            node = put(node, _without(gpu, late))
    return node


def _without(gpu: GpuState, late: list[Lane]) -> GpuState:
    readings: GpuReading = gpu.readings
    times = {lane: at for lane, at in gpu.lane_times.items() if lane not in late}
    fresh = {name for lane in times for name in gpu.lane_fields.get(lane, ())}  # PCIe traffic can change its lane
    for lane in late:
        names = tuple(name for name in gpu.lane_fields.get(lane, ()) if name not in fresh)
        readings = voided(readings, Missing.TIMED_OUT, names)
    fast = Lane.FAST in late
    return replace(
        gpu,
        readings=readings,
        mig=() if Lane.NORMAL in late else gpu.mig,
        lane_times=times,
        loaded_since=None if fast else gpu.loaded_since,
        settled_since=None if fast else gpu.settled_since,
    )


def _lifetime(lane: Lane, settings: Settings) -> float:
    period = {
        Lane.FAST: settings.fast_seconds,
        Lane.NORMAL: settings.normal_seconds,
        Lane.SLOW: settings.slow_seconds,
        Lane.PCIE: settings.pcie_seconds,
        Lane.STATIC: float("inf"),
    }[lane]
    return 2 * period + settings.deadline_seconds
