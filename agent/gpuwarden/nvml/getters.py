"""What single NVML functions answer, as plain numbers in base units. Raises what pynvml raises.

Each hides one habit of the binding: lists of one, pairs of which one half is wanted, structures with a version to ask
for, a fan getter that only knows the first fan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import byref
from typing import Any, TypeAlias

import pynvml

from gpuwarden.model.gpu import Missing

MILLI = 1e-3
MICRO = 1e-6
NANO = 1e-9
MEGA = 1e6
KIBI = 1024
PERCENT = 0.01

Numbers: TypeAlias = Sequence[float | int | Missing | None]
"""One element per reading of a call; None where this call has no such number."""


def one(name: str, scale: float = 1, *arguments: Any) -> Callable[[Any], Numbers]:
    """Return a getter of one number through the pynvml function of that name."""

    def get(handle: Any) -> Numbers:
        return (scaled(getattr(pynvml, name)(handle, *arguments), scale),)

    return get


def scaled(raw: float, scale: float) -> float | int:
    """Return a raw number in base units; whole ones stay whole."""
    return raw if scale == 1 else raw * scale


def memory(handle: Any) -> Numbers:
    """Return used, free, reserved and size in bytes."""
    info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    return info.used, info.free, info.reserved, info.total


def memory_v1(handle: Any) -> Numbers:
    """Return the same from drivers that count what is reserved as used."""
    info = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return info.used, info.free, None, info.total


def bar1(handle: Any) -> Numbers:
    """Return used and size of the BAR1 aperture in bytes."""
    info = pynvml.nvmlDeviceGetBAR1MemoryInfo(handle)
    return info.bar1Used, info.bar1Total


def utilization(handle: Any) -> Numbers:
    """Return how much of the time kernels ran, and memory was read or written."""
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu * PERCENT, rates.memory * PERCENT


def engine(name: str) -> Callable[[Any], Numbers]:
    """Return a getter of the load of one engine."""
    return lambda handle: (getattr(pynvml, name)(handle)[0] * PERCENT,)


def power_range(handle: Any) -> Numbers:
    """Return the least and the highest limit that may be set, in watts."""
    low, high = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    return low * MILLI, high * MILLI


def remapped(handle: Any) -> Numbers:
    """Return rows remapped after corrected and uncorrected errors, whether one is pending, whether one failed."""
    return tuple(pynvml.nvmlDeviceGetRemappedRows(handle))


def sram_threshold(handle: Any) -> Numbers:
    """Return whether uncorrected SRAM errors went over the threshold of the board."""
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    status.version = pynvml.nvmlEccSramErrorStatus_v1
    pynvml.nvmlDeviceGetSramEccErrorStatus(handle, byref(status))
    return (status.bThresholdExceeded,)


def ecc_mode(handle: Any) -> Numbers:
    """Return the ECC mode in force."""
    return (pynvml.nvmlDeviceGetEccMode(handle)[0],)


def ecc_mode_default(handle: Any) -> Numbers:
    """Return the ECC mode the product ships with; the binding gives it as a list of one."""
    return tuple(pynvml.nvmlDeviceGetDefaultEccMode(handle))


def mig(handle: Any) -> Numbers:
    """Return the MIG mode in force."""
    return (pynvml.nvmlDeviceGetMigMode(handle)[0],)


def vgpu_licensed(handle: Any) -> Numbers:
    """Return whether a guest of a virtual GPU has its licence: any feature that is licensed and on."""
    found = pynvml.nvmlDeviceGetGridLicensableFeatures_v4(handle)
    features = found.gridLicensableFeatures[: found.licensableFeaturesCount]
    return (int(any(feature.featureState and feature.featureEnabled for feature in features)),)


def processes(handle: Any) -> Numbers:
    """Return how many processes hold a context, each once. Compute-only boards have no list of graphics clients."""
    found = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)}
    with suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        found |= {process.pid for process in pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)}
    return (len(found),)


def performance_state(handle: Any) -> Numbers:
    """Return the P-state; 32 is NVML's own word for not knowing it."""
    state = pynvml.nvmlDeviceGetPerformanceState(handle)
    return (Missing.UNKNOWN if state == pynvml.NVML_PSTATE_UNKNOWN else state,)


def retired(cause: int) -> Callable[[Any], Numbers]:
    """Return a getter of the number of pages retired for a cause."""
    return lambda handle: (len(pynvml.nvmlDeviceGetRetiredPages(handle, cause)),)


def retired_by_double_bit(handle: Any) -> Numbers:
    """Return the number of pages retired for double-bit errors, and when the last one was (Unix time).

    A board that has none, or keeps no times, has no such time.
    """
    pages = pynvml.nvmlDeviceGetRetiredPages_v2(handle, 1)
    last = max((page["timestamp"] for page in pages), default=0)
    return len(pages), last * MICRO if last else None


def repairs(handle: Any) -> Numbers:
    """Return whether the next reset repairs a memory channel, and a TPC."""
    return tuple(pynvml.nvmlDeviceGetRepairStatus(handle))


def histogram(handle: Any) -> tuple[int, ...]:
    """Return how many banks have how many spare rows: max, high, partial, low, none."""
    banks = pynvml.nvmlDeviceGetRowRemapperHistogram(handle)
    return banks.max, banks.high, banks.partial, banks.low, banks.none


def fan_rpm(handle: Any, fan: int) -> int:
    """Return one fan's speed. The binding's own getter only ever asks fan 0."""
    info = pynvml.c_nvmlFanSpeedInfo_t()
    info.version, info.fan = pynvml.nvmlFanSpeedInfo_v1, fan
    code = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetFanSpeedRPM")(handle, byref(info))
    if code:
        raise pynvml.NVMLError(code)
    return int(info.speed)


def fans(handle: Any) -> int:
    """Return how many fans the board has."""
    return int(pynvml.nvmlDeviceGetNumFans(handle))


def fabric(handle: Any) -> Numbers:
    """Return state, status and health mask of the NVLink fabric; a GPU without one says so by its state."""
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    pynvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info))
    if info.state == pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED:
        return None, None, None
    return info.state, info.status, info.healthMask


def fabric_summary(handle: Any) -> Numbers:
    """Return the fabric's health in one number, from drivers that sum it up."""
    info = pynvml.c_nvmlGpuFabricInfo_v3_t()
    info.version = pynvml.nvmlGpuFabricInfo_v3
    pynvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info))
    return (info.healthSummary or None,)
