"""What was seen in the last minutes and since the start: Xids of each instance, clocks event reasons.

Unlike `GpuState.xids` these are of this run only: nothing of them is journalled, and history does not count.
"""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.model.gpu import CLOCKS_EVENT_REASONS, Value
from gpuwarden.model.snapshot import GpuState
from gpuwarden.model.tally import Tally

_MOST_XIDS = 64  # different (instance, Xid) pairs per GPU; the one not seen for longest makes room


def saw_xid(gpu: GpuState, instance: int, xid: int, count: int, at: float) -> GpuState:
    """Return the GPU with an Xid noted as its newest."""
    key = (instance, xid)
    others = {known: tally for known, tally in gpu.xid_tallies.items() if known != key}
    if len(others) >= _MOST_XIDS:
        others.pop(next(iter(others)))
    return replace(gpu, xid_tallies=others | {key: gpu.xid_tallies.get(key, Tally()).plus(count, at)})


def saw_reasons(gpu: GpuState, mask: Value, at: float) -> GpuState:
    """Return the GPU with one sample of its clocks event reasons noted. Call before the reading itself is replaced."""
    if not isinstance(mask, int) or mask == 0:
        return gpu
    before = gpu.readings.clocks_event_reasons
    known = before if isinstance(before, int) else 0
    events, edges = dict(gpu.clock_events), gpu.clock_event_edges
    for bit in CLOCKS_EVENT_REASONS:
        if mask & bit:
            events[bit] = events.get(bit, Tally()).plus(1, at)
            if not known & bit:
                edges = edges | {bit: edges.get(bit, 0) + 1}
    return replace(gpu, clock_events=events, clock_event_edges=edges)
