"""GPU performance monitoring (GPM): how busy the parts of a GPU were, on Hopper and newer and on Blackwell GeForce.

A sample holds the driver's running totals; the averages between two of them are the readings. So each GPU, and each
instance of a partitioned one, keeps its last sample, and every look compares a new one with it: nothing between two
looks is missed. Source: nvml.h 13.5, nvmlGpm*.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import pynvml

from gpuwarden.model.gpu import Missing, Value
from gpuwarden.nvml.asking import GpuMemory, Samples, absent, asked
from gpuwarden.nvml.codes import SUCCESS, UNKNOWN

_PERCENT = 0.01
_MEBI = float(1 << 20)
_APART_SECONDS = 0.11  # the driver refreshes its totals every 100 ms. Source: nvml.h, nvmlGpmSampleGet
_SUPPORT, _ALLOC = "nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc"
_SAMPLE, _MIG_SAMPLE = "nvmlGpmSampleGet", "nvmlGpmMigSampleGet"
_METRICS = "nvmlGpmMetricsGet"


Activities: TypeAlias = dict[int | None, dict[str, Value]]


class Gpm(NamedTuple):
    """One metric: the reading it gives, its id, and the factor to base units."""

    reading: str
    id: int
    scale: float = _PERCENT


ACTIVITY: tuple[Gpm, ...] = (
    Gpm("graphics_activity_ratio", pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL),
    Gpm("sm_activity_ratio", pynvml.NVML_GPM_METRIC_SM_UTIL),
    Gpm("sm_occupancy_ratio", pynvml.NVML_GPM_METRIC_SM_OCCUPANCY),
    Gpm("integer_activity_ratio", pynvml.NVML_GPM_METRIC_INTEGER_UTIL),
    Gpm("tensor_activity_ratio", pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL),
    Gpm("tensor_dfma_activity_ratio", pynvml.NVML_GPM_METRIC_DFMA_TENSOR_UTIL),
    Gpm("tensor_hmma_activity_ratio", pynvml.NVML_GPM_METRIC_HMMA_TENSOR_UTIL),
    Gpm("tensor_dmma_activity_ratio", pynvml.NVML_GPM_METRIC_DMMA_TENSOR_UTIL),
    Gpm("tensor_imma_activity_ratio", pynvml.NVML_GPM_METRIC_IMMA_TENSOR_UTIL),
    Gpm("dram_activity_ratio", pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL),
    Gpm("fp64_activity_ratio", pynvml.NVML_GPM_METRIC_FP64_UTIL),
    Gpm("fp32_activity_ratio", pynvml.NVML_GPM_METRIC_FP32_UTIL),
    Gpm("fp16_activity_ratio", pynvml.NVML_GPM_METRIC_FP16_UTIL),
)
"""What a GPU has, and each instance of a partitioned one."""

NVLINK: tuple[Gpm, ...] = (
    Gpm("nvlink_tx_bytes_per_second", pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, _MEBI),
    Gpm("nvlink_rx_bytes_per_second", pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, _MEBI),
)
PCIE: tuple[Gpm, ...] = (
    Gpm("pcie_tx_bytes_per_second", pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC, _MEBI),
    Gpm("pcie_rx_bytes_per_second", pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC, _MEBI),
)
"""Readings that other calls give too: GPM is the better source, an average of the whole time, and costs no 20 ms."""

METRICS: tuple[Gpm, ...] = (*ACTIVITY, *NVLINK, *PCIE)


def read_gpu(handle: Any, memory: GpuMemory, targets: Mapping[int | None, object]) -> Activities:
    """Return the averages since the last look: by GPU instance id, under None those of the whole GPU.

    `targets` gives each a fingerprint: one that changed is another instance, none of whose totals are known yet. Two
    samples are kept apart far enough, by waiting where they are not. Raises: FaultError.
    """
    with memory.sampling:
        for target in [key for key, kept in memory.samples.items() if key not in targets]:
            _free(memory.samples.pop(target))
        why = _unsupported(handle, memory)
        if why is not None:
            return {target: dict.fromkeys(_names(target), why) for target in targets}
        failed = {target: why for target, mark in targets.items() if (why := _prepare(handle, memory, target, mark))}
        _keep_apart(memory)
        return {
            target: dict.fromkeys(_names(target), failed[target])
            if target in failed
            else _compare(handle, memory, target)
            for target in targets
        }


def free(memory: GpuMemory) -> None:
    """Give all buffers back, before the session ends. Not while a call is using them: then the process's end does."""
    if memory.sampling.acquire(blocking=False):
        try:
            while memory.samples:
                _free(memory.samples.popitem()[1])
        finally:
            memory.sampling.release()


def settle_pcie(values: dict[str, Value], memory: GpuMemory) -> None:
    """Leave PCIe traffic to the other source where GPM has never given a number of it in this session, or no more can.

    While GPM is the source (`memory.pcie_from_gpm`) its failures are shown as such, so that nothing stale stays.
    """
    found = [values[row.reading] for row in PCIE]
    if any(not isinstance(value, Missing) for value in found):
        memory.pcie_from_gpm = True
    elif not memory.pcie_from_gpm:
        for row in PCIE:
            del values[row.reading]
    elif any(value in (Missing.NOT_SUPPORTED, Missing.NO_PERMISSION) for value in found):
        memory.pcie_from_gpm = False


def _rows(target: int | None) -> Sequence[Gpm]:
    return METRICS if target is None else ACTIVITY


def _names(target: int | None) -> tuple[str, ...]:
    return tuple(row.reading for row in _rows(target))


def _unsupported(handle: Any, memory: GpuMemory) -> Missing | None:
    """Return why this GPU has no GPM, None where it has."""
    if memory.samples:
        return None
    answer = asked(memory, _SUPPORT, _SUPPORT, lambda: pynvml.nvmlGpmQueryDeviceSupport(handle))
    if isinstance(answer, Missing):
        return answer
    if not answer.isSupportedDevice:
        memory.unsupported.add(_SUPPORT)
        return Missing.NOT_SUPPORTED
    return None


def _prepare(handle: Any, memory: GpuMemory, target: int | None, fingerprint: object) -> Missing | None:
    """Have two buffers for a target and a first sample in one of them; return why that cannot be."""
    kept = memory.samples.get(target)
    if kept is not None and kept.fingerprint == fingerprint:
        return None
    if kept is not None:
        _free(memory.samples.pop(target))
    if _row(target, fingerprint) in memory.unsupported:
        return Missing.NOT_SUPPORTED
    buffers: list[Any] = []
    for _ in range(2):
        buffer = asked(memory, _ALLOC, _ALLOC, pynvml.nvmlGpmSampleAlloc)
        if isinstance(buffer, Missing):
            _free_all(buffers)
            return buffer
        buffers.append(buffer)
    last, spare = buffers
    memory.samples[target] = Samples(fingerprint, last, spare, 0.0)
    why = _take(handle, memory, target, fingerprint, last)
    if why is not None:
        _free(memory.samples.pop(target))
        return why
    memory.samples[target] = Samples(fingerprint, last, spare, time.monotonic())
    return None


def _take(handle: Any, memory: GpuMemory, target: int | None, fingerprint: object, buffer: Any) -> Missing | None:
    """Put a sample of a target into a buffer; return why there is none."""
    row = _row(target, fingerprint)
    if target is None:
        answer = asked(memory, row, _SAMPLE, lambda: pynvml.nvmlGpmSampleGet(handle, buffer))
    else:
        answer = asked(memory, row, _MIG_SAMPLE, lambda: pynvml.nvmlGpmMigSampleGet(handle, target, buffer))
    return answer if isinstance(answer, Missing) else None


def _row(target: int | None, fingerprint: object) -> object:
    """Return under what it is remembered that a target gives no samples."""
    return _SAMPLE if target is None else (_MIG_SAMPLE, target, fingerprint)


def _keep_apart(memory: GpuMemory) -> None:
    """Wait until the youngest sample is old enough for the next: at the first look at a target, and at quick polls."""
    youngest = max((kept.at for kept in memory.samples.values()), default=-math.inf)
    wait = _APART_SECONDS - (time.monotonic() - youngest)
    if wait > 0:
        memory.end()
        memory.pause(wait)


def _compare(handle: Any, memory: GpuMemory, target: int | None) -> dict[str, Value]:
    """Return the averages between the last sample and one taken now, which becomes the last."""
    kept = memory.samples[target]
    why = _take(handle, memory, target, kept.fingerprint, kept.spare)
    if why is not None:
        _free(memory.samples.pop(target))
        return dict.fromkeys(_names(target), why)
    memory.samples[target] = Samples(kept.fingerprint, kept.spare, kept.last, time.monotonic())
    return _averages(memory, target, kept.last, kept.spare)


def _averages(memory: GpuMemory, target: int | None, older: Any, newer: Any) -> dict[str, Value]:
    values: dict[str, Value] = dict.fromkeys(_names(target), Missing.NOT_SUPPORTED)
    rows = [row for row in _rows(target) if (row, target is None) not in memory.unsupported]
    request = pynvml.c_nvmlGpmMetricsGet_t(
        version=pynvml.NVML_GPM_METRICS_GET_VERSION, numMetrics=len(rows), sample1=older, sample2=newer
    )
    for entry, row in zip(request.metrics, rows, strict=False):
        entry.metricId, entry.nvmlReturn, entry.value = row.id, UNKNOWN, math.nan
    answer = asked(memory, _METRICS, _METRICS, lambda: pynvml.nvmlGpmMetricsGet(request))
    if isinstance(answer, Missing):
        return values | {row.reading: answer for row in rows}
    for entry, row in zip(request.metrics, rows, strict=False):
        if entry.nvmlReturn != SUCCESS:
            values[row.reading] = absent(memory, (row, target is None), _METRICS, entry.nvmlReturn, choice=True)
        else:
            values[row.reading] = Missing.UNKNOWN if math.isnan(entry.value) else round(entry.value * row.scale, 6)
    return values


def _free(kept: Samples) -> None:
    _free_all([kept.last, kept.spare])


def _free_all(buffers: Sequence[Any]) -> None:
    for buffer in buffers:
        with suppress(Exception):  # a library that will not take its own memory back has lost a kilobyte
            pynvml.nvmlGpmSampleFree(buffer)
