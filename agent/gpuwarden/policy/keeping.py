"""What of a GPU's past is worth keeping over a restart, and when: what it usually reaches at work."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from gpuwarden.model.observation import BaselineRow
from gpuwarden.model.rows import CLOCK_FIGURE, WORK_FIGURE
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.speed import Work
from gpuwarden.policy.gpus import put
from gpuwarden.policy.workload import remembered

KEEP_SECONDS = 1800.0
"""How often baselines are due: half an hour of learning is the most that a crash costs."""


def due(node: NodeState) -> NodeState:
    """Return the node marked for writing when its time has come."""
    return kept(node) if node.now.boottime - node.kept_at >= KEEP_SECONDS else node


def kept(node: NodeState) -> NodeState:
    """Return the node marked for writing now."""
    return replace(node, kept_at=node.now.boottime)


def recalled(node: NodeState, rows: Iterable[BaselineRow]) -> NodeState:
    """Return the node with what its GPUs usually reached before the restart."""
    for row in rows:
        gpu = node.gpus.get(row.uuid)
        if gpu is None:
            continue
        if row.figure == CLOCK_FIGURE:
            node = put(node, replace(gpu, speed=replace(gpu.speed, history=row.history)))
        elif row.figure.startswith(WORK_FIGURE):
            metric = row.figure.removeprefix(WORK_FIGURE)
            work = remembered(gpu.work.get(metric, Work()), row.history)
            node = put(node, replace(gpu, work=gpu.work | {metric: work}))
    return replace(node, kept_at=node.now.boottime)
