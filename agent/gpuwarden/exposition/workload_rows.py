"""Metric rows about who holds each GPU. Names of owners stand on the info metric alone; joins on uuid do the rest."""

from __future__ import annotations

from collections.abc import Iterable

from gpuwarden.exposition.rows import GpuRow, Labelled
from gpuwarden.model.snapshot import GpuState, NodeState


def _info(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    """Yield one series: of several holders the one that uses most, so that a join on uuid stays one to one."""
    for holder in gpu.held.holders[:1]:
        owner = holder.owner
        yield (
            (
                owner.source.value,
                owner.workload,
                owner.namespace,
                owner.pod,
                owner.container,
                owner.job,
                owner.user,
            ),
            1,
        )


def _processes(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    for process in gpu.held.processes:
        owner = gpu.held.owners.get(process.pid)
        command, user = (owner.command, owner.user) if owner is not None else ("", "")
        yield (str(process.pid), process.kind.value, command, user), process.used_bytes


WORKLOAD_ROWS: tuple[GpuRow, ...] = (
    GpuRow(
        "workload_info",
        "Whose work the GPU does; of several the one that holds most of it. Join on uuid.",
        ("source", "workload", "namespace", "pod", "container", "job", "user"),
        _info,
    ),
    GpuRow(
        "gpu_workloads",
        "How many workloads hold the GPU; absent where that cannot be told.",
        (),
        lambda _node, gpu: (((), gpu.held.workloads),),
    ),
)

GPU_PROCESS_ROWS: tuple[GpuRow, ...] = (
    GpuRow(
        "gpu_process_memory_bytes",
        "Memory one process uses on the GPU.",
        ("pid", "kind", "command", "user"),
        _processes,
    ),
)
