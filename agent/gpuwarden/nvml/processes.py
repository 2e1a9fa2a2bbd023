"""Reads which processes hold one GPU: NVML's lists of compute, graphics and MPS clients, or why there is none.

Under MIG the GPU's own lists want root; where they are refused the instances are asked one by one. Raises nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pynvml

from gpuwarden.model.gpu import Missing
from gpuwarden.model.workload import GpuProcess, ProcessKind
from gpuwarden.nvml.codes import WHOLE_GPU, code_of, missing_of
from gpuwarden.nvml.driver import GpuMemory

_MOST = 256  # processes a frame carries; a GPU with more says how many
_NO_INSTANCE = 0xFFFFFFFF
_LISTS = {
    ProcessKind.COMPUTE: "nvmlDeviceGetComputeRunningProcesses_v3",
    ProcessKind.GRAPHICS: "nvmlDeviceGetGraphicsRunningProcesses_v3",
    ProcessKind.MPS: "nvmlDeviceGetMPSComputeRunningProcesses_v3",
}
_NEEDED = ProcessKind.COMPUTE  # boards without graphics, and drivers without MPS, lack the other lists
_NOT_HERE = 6  # NVML_ERROR_NOT_FOUND: no instance has this number


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What one look gave. With `absent` there is no list; with `fault` the GPU as a whole answered badly."""

    processes: tuple[GpuProcess, ...] = ()
    total: int = 0
    absent: Missing | None = None
    fault: int | None = None
    where: str = ""


def read_processes(handle: Any, memory: GpuMemory) -> Listing:
    """Return the processes on one GPU, each once. Blocks for as long as the driver does; `memory.call` says in what."""
    try:
        listing = _of_handle(handle, memory, None, None)
        if listing.absent is Missing.NO_PERMISSION:
            listing = _of_instances(handle, memory) or listing
    finally:
        memory.end()
    return listing


def _of_handle(handle: Any, memory: GpuMemory, gi: int | None, ci: int | None) -> Listing:
    found: dict[int, GpuProcess] = {}
    for kind, function in _LISTS.items():
        memory.begin(function)
        try:
            rows = getattr(pynvml, function)(handle)
        except Exception as error:  # a foreign library may fail in any way: its code, or UNKNOWN, is what we know
            code = code_of(error)
            if code in WHOLE_GPU:
                return Listing(absent=missing_of(code), fault=code, where=function)
            if kind is _NEEDED or missing_of(code) is not Missing.NOT_SUPPORTED:
                return Listing(absent=missing_of(code))
            continue
        for row in rows:
            process = _process(row, kind, gi, ci)
            if process.pid not in found or kind is ProcessKind.MPS:  # a client of MPS stands in both compute lists
                found[process.pid] = process
    return Listing(processes=tuple(found.values())[:_MOST], total=len(found))


def _process(row: Any, kind: ProcessKind, gi: int | None, ci: int | None) -> GpuProcess:
    return GpuProcess(
        pid=int(row.pid),
        kind=kind,
        used_bytes=None if row.usedGpuMemory is None else int(row.usedGpuMemory),
        gi=_instance(row.gpuInstanceId) if gi is None else gi,
        ci=_instance(row.computeInstanceId) if ci is None else ci,
    )


def _instance(number: Any) -> int | None:
    return None if number is None or int(number) == _NO_INSTANCE else int(number)


def _of_instances(handle: Any, memory: GpuMemory) -> Listing | None:
    """Return the processes of all MIG instances together, None where there are none or not all of them can be asked."""
    processes: list[GpuProcess] = []
    total, asked = 0, False
    try:
        for instance, gi, ci in _instances(handle, memory):
            listing = _of_handle(instance, memory, gi, ci)
            if listing.absent is not None:
                return listing
            asked = True
            processes += listing.processes
            total += listing.total
    except Exception:  # no instances, or they are changed at this moment: the GPU's own answer stands
        return None
    return Listing(processes=tuple(processes)[:_MOST], total=total) if asked else None


def _instances(handle: Any, memory: GpuMemory) -> Iterator[tuple[Any, int, int]]:
    """Yield (handle, GI id, CI id) of each instance. Raises: what pynvml raises, but for numbers nobody has."""
    memory.begin("nvmlDeviceGetMaxMigDeviceCount")
    for number in range(int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))):
        memory.begin("nvmlDeviceGetMigDeviceHandleByIndex")
        try:
            instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except pynvml.NVMLError as error:
            if code_of(error) == _NOT_HERE:
                continue
            raise
        memory.begin("nvmlDeviceGetGpuInstanceId")
        gi = int(pynvml.nvmlDeviceGetGpuInstanceId(instance))
        memory.begin("nvmlDeviceGetComputeInstanceId")
        yield instance, gi, int(pynvml.nvmlDeviceGetComputeInstanceId(instance))
