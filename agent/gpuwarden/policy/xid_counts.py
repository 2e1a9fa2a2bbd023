"""Counting Xids: each event once whoever tells of it, different codes bounded in number, bursts that are a storm."""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.model.snapshot import Burst, GpuState, NodeState, XidCount
from gpuwarden.policy.gpus import put

ECHO_SECONDS = 2.0
STORM_SECONDS = 60.0
DRIVER, USER = "driver", "user"
KMSG, NVML, FORGED = "kmsg", "nvml", "user"
_OTHERS = {KMSG: (NVML,), FORGED: (NVML,), NVML: (KMSG, FORGED)}
"""Whose word about an Xid can be the same event as whose."""
_MOST_CODES = {DRIVER: 64, USER: 16}  # different codes kept per GPU and source; further ones are counted as OTHER
_MOST_ADDRESSES = {DRIVER: 64, USER: 16}
_MOST_PROCESSES = 16  # processes of one burst that are told apart
OTHER = 0


def once(node: NodeState, address: str, code: int, witness: str, count: int) -> tuple[NodeState, int]:
    """Return the node, and how many of `count` events no other witness has told already."""
    now, fresh = node.now.boottime, count
    recent = dict(node.recent)
    for other in _OTHERS[witness]:
        matched = min(alone(node, address, code, other), fresh)
        if matched:
            at, told = recent[address, code, other]
            recent[address, code, other] = (at, told - matched)
            fresh -= matched
    recent[address, code, witness] = (now, alone(node, address, code, witness) + fresh)
    return replace(node, recent=recent), fresh


def alone(node: NodeState, address: str, code: int, witness: str) -> int:
    """Return how many events one witness told just now that no other has told."""
    at, told = node.recent.get((address, code, witness), (float("-inf"), 0))
    return told if node.now.boottime - at <= ECHO_SECONDS else 0


def counted(node: NodeState, gpu: GpuState | None, address: str, row: XidCount) -> NodeState:
    """Return the node with `row.total` more of an Xid, on its GPU or kept for the address until one answers there."""
    kept = gpu.xids if gpu is not None else node.unclaimed_xids.get(address, ())
    rows = _added(kept, row)
    if gpu is not None:
        return put(node, replace(gpu, xids=rows))
    full = len(node.unclaimed_xids) >= _MOST_ADDRESSES[row.source]
    if address not in node.unclaimed_xids and full:
        return node
    return replace(node, unclaimed_xids=node.unclaimed_xids | {address: rows})


def _added(kept: tuple[XidCount, ...], row: XidCount) -> tuple[XidCount, ...]:
    counts = {(each.xid, each.source): each for each in kept}
    key = (row.xid, row.source)
    if key not in counts and sum(each.source == row.source for each in kept) >= _MOST_CODES[row.source]:
        key = (OTHER, row.source)
    had = counts.get(key, XidCount(xid=key[0], source=row.source, total=0, last=0.0))
    counts[key] = replace(had, total=had.total + row.total, last=max(had.last, row.last))
    return tuple(counts.values())


def burst(node: NodeState, gpu: GpuState, code: int, pid: int | None, count: int) -> tuple[NodeState, int]:
    """Return the node, and how many Xids this minute has brought on a GPU.

    One process that dies can write a line for each of its channels or cores: what one process is told to have done
    within two seconds counts as one. Lines that name no process count each.
    """
    now, had = node.now.boottime, gpu.xid_burst
    if now - had.began > STORM_SECONDS:
        had = Burst(began=now)
    same = {key: at for key, at in had.processes.items() if now - at <= ECHO_SECONDS}
    if pid is not None:
        count = 0 if (code, pid) in same else 1
        if count and len(same) < _MOST_PROCESSES:
            same[code, pid] = now
    grown = Burst(began=had.began, number=had.number + count, processes=same)
    return put(node, replace(gpu, xid_burst=grown)), grown.number
