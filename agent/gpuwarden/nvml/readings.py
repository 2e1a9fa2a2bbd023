"""The reading table: for each GpuReading field its lane, its NVML call, and the step to base units.

`CALLS` are functions of their own; `FIELDS` are fetched together, one nvmlDeviceGetFieldValues per lane. Later rows
for the same reading are tried only while earlier ones are not supported. Source: nvml.h 13.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import byref
from typing import Any, NamedTuple

import pynvml

from gpuwarden.model.gpu import Lane, Missing

MILLI = 1e-3
NANO = 1e-9
MEGA = 1e6
KIBI = 1024
PERCENT = 0.01

Numbers = Sequence[float | int | Missing | None]


class Call(NamedTuple):
    """One C function (or a pair that belongs together). `get(handle)` returns one number per reading in base units,
    None where this card has none of them, and raises what pynvml raises."""

    lane: Lane
    readings: tuple[str, ...]
    name: str
    get: Callable[[Any], Numbers]


class Field(NamedTuple):
    """One field id. `member` is the part of the answer that holds it: the type a driver names there is not reliable.
    `scope` is the link or sensor it is asked of.
    """

    lane: Lane
    reading: str
    id: int
    member: str = "uiVal"
    scale: float = 1
    scope: int = 0


class Vector(NamedTuple):
    """A reading with one element per fan or link. `count(handle)` says how many; `get(handle, i)` returns one."""

    lane: Lane
    reading: str
    name: str
    count: Callable[[Any], int]
    get: Callable[[Any, int], float | int]


class Whole(NamedTuple):
    """A reading that one call returns as a vector."""

    lane: Lane
    reading: str
    name: str
    get: Callable[[Any], tuple[int, ...]]


def one(name: str, scale: float = 1, *arguments: Any) -> Callable[[Any], Numbers]:
    """Return a getter of one number through the pynvml function of that name."""

    def get(handle: Any) -> Numbers:
        return (scaled(getattr(pynvml, name)(handle, *arguments), scale),)

    return get


def scaled(raw: float, scale: float) -> float | int:
    """Return a raw number in base units; whole ones stay whole."""
    return raw if scale == 1 else raw * scale


def _memory(handle: Any) -> Numbers:
    info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    return info.used, info.free, info.reserved, info.total


def _memory_v1(handle: Any) -> Numbers:
    info = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return info.used, info.free, None, info.total


def _bar1(handle: Any) -> Numbers:
    info = pynvml.nvmlDeviceGetBAR1MemoryInfo(handle)
    return info.bar1Used, info.bar1Total


def _utilization(handle: Any) -> Numbers:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu * PERCENT, rates.memory * PERCENT


def _engine(name: str) -> Callable[[Any], Numbers]:
    return lambda handle: (getattr(pynvml, name)(handle)[0] * PERCENT,)


def _power_range(handle: Any) -> Numbers:
    low, high = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    return low * MILLI, high * MILLI


def _remapped(handle: Any) -> Numbers:
    return tuple(pynvml.nvmlDeviceGetRemappedRows(handle))


def _sram_threshold(handle: Any) -> Numbers:
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    status.version = pynvml.nvmlEccSramErrorStatus_v1
    pynvml.nvmlDeviceGetSramEccErrorStatus(handle, byref(status))
    return (status.bThresholdExceeded,)


def _ecc_mode_default(handle: Any) -> Numbers:
    return tuple(pynvml.nvmlDeviceGetDefaultEccMode(handle))  # the binding's own shape: a list of one


def _mig(handle: Any) -> Numbers:
    return (pynvml.nvmlDeviceGetMigMode(handle)[0],)


def _processes(handle: Any) -> Numbers:
    """Return how many processes hold a context, each once. Compute-only boards have no list of graphics clients."""
    found = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)}
    with suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        found |= {process.pid for process in pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)}
    return (len(found),)


def _performance_state(handle: Any) -> Numbers:
    state = pynvml.nvmlDeviceGetPerformanceState(handle)
    return (Missing.UNKNOWN if state == pynvml.NVML_PSTATE_UNKNOWN else state,)


def _retired(cause: int) -> Callable[[Any], Numbers]:
    return lambda handle: (len(pynvml.nvmlDeviceGetRetiredPages(handle, cause)),)


def _throughput(counter: int) -> Callable[[Any], Numbers]:
    return lambda handle: (pynvml.nvmlDeviceGetPcieThroughput(handle, counter) * KIBI,)


def _clock(domain: int, name: str = "nvmlDeviceGetClockInfo") -> Callable[[Any], Numbers]:
    return one(name, MEGA, domain)


def _ecc(kind: int, counter: int, location: int) -> Callable[[Any], Numbers]:
    return one("nvmlDeviceGetMemoryErrorCounter", 1, kind, counter, location)


def _histogram(handle: Any) -> tuple[int, ...]:
    banks = pynvml.nvmlDeviceGetRowRemapperHistogram(handle)
    return banks.max, banks.high, banks.partial, banks.low, banks.none


def _fan_rpm(handle: Any, fan: int) -> int:
    """Return one fan's speed. The binding's own getter only ever asks fan 0."""
    info = pynvml.c_nvmlFanSpeedInfo_t()
    info.version, info.fan = pynvml.nvmlFanSpeedInfo_v1, fan
    code = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetFanSpeedRPM")(handle, byref(info))
    if code:
        raise pynvml.NVMLError(code)
    return int(info.speed)


def _fans(handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetNumFans(handle))


_LOCATIONS = {"dram": pynvml.NVML_MEMORY_LOCATION_DRAM, "sram": pynvml.NVML_MEMORY_LOCATION_SRAM}
_ERRORS = {
    "corrected": pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
    "uncorrected": pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
}
_COUNTERS = {"volatile": pynvml.NVML_VOLATILE_ECC, "lifetime": pynvml.NVML_AGGREGATE_ECC}
_DOMAINS = {
    "graphics": pynvml.NVML_CLOCK_GRAPHICS,
    "sm": pynvml.NVML_CLOCK_SM,
    "memory": pynvml.NVML_CLOCK_MEM,
    "video": pynvml.NVML_CLOCK_VIDEO,
}
_ENGINES = {"encoder": "Encoder", "decoder": "Decoder", "jpeg": "Jpg", "ofa": "Ofa"}
_THRESHOLDS = {"shutdown": 0, "slowdown": 1, "memory_max": 2, "gpu_max": 3, "target": 5}  # 5: ACOUSTIC_CURR
_D = "nvmlDeviceGet"

CALLS: tuple[Call, ...] = (
    Call(Lane.FAST, ("core_celsius",), _D + "TemperatureV", one(_D + "TemperatureV", 1, 0)),
    Call(Lane.FAST, ("core_celsius",), _D + "Temperature", one(_D + "Temperature", 1, 0)),
    Call(Lane.FAST, ("margin_celsius",), _D + "MarginTemperature", one(_D + "MarginTemperature")),
    Call(Lane.FAST, ("power_watts",), _D + "PowerUsage", one(_D + "PowerUsage", MILLI)),
    *(Call(Lane.FAST, (f"{name}_clock_hertz",), _D + "ClockInfo", _clock(id_)) for name, id_ in _DOMAINS.items()),
    Call(Lane.FAST, ("performance_state",), _D + "PerformanceState", _performance_state),
    Call(
        Lane.FAST,
        ("clocks_event_reasons",),
        _D + "CurrentClocksEventReasons",
        one(_D + "CurrentClocksEventReasons"),
    ),
    Call(
        Lane.FAST,
        ("clocks_event_reasons",),
        _D + "CurrentClocksThrottleReasons",
        one(_D + "CurrentClocksThrottleReasons"),
    ),
    Call(Lane.FAST, ("gpu_utilization_ratio", "memory_utilization_ratio"), _D + "UtilizationRates", _utilization),
    *(
        Call(Lane.NORMAL, (f"{name}_utilization_ratio",), f"{_D}{call}Utilization", _engine(f"{_D}{call}Utilization"))
        for name, call in _ENGINES.items()
    ),
    Call(
        Lane.FAST,
        ("memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes", "memory_size_bytes"),
        _D + "MemoryInfo_v2",
        _memory,
    ),
    Call(
        Lane.FAST,
        ("memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes", "memory_size_bytes"),
        _D + "MemoryInfo",
        _memory_v1,
    ),
    Call(Lane.NORMAL, ("bar1_used_bytes", "bar1_size_bytes"), _D + "BAR1MemoryInfo", _bar1),
    Call(
        Lane.NORMAL, ("power_limit_enforced_watts",), _D + "EnforcedPowerLimit", one(_D + "EnforcedPowerLimit", MILLI)
    ),
    Call(
        Lane.STATIC,
        ("power_limit_default_watts",),
        _D + "PowerManagementDefaultLimit",
        one(_D + "PowerManagementDefaultLimit", MILLI),
    ),
    Call(
        Lane.STATIC,
        ("power_limit_min_watts", "power_limit_max_watts"),
        _D + "PowerManagementLimitConstraints",
        _power_range,
    ),
    Call(Lane.FAST, ("energy_joules",), _D + "TotalEnergyConsumption", one(_D + "TotalEnergyConsumption", MILLI)),
    *(
        Call(Lane.STATIC, (f"{name}_clock_max_hertz",), _D + "MaxClockInfo", _clock(id_, _D + "MaxClockInfo"))
        for name, id_ in _DOMAINS.items()
    ),
    *(
        Call(
            Lane.STATIC,
            (f"limit_{name}_celsius",),
            _D + "TemperatureThreshold",
            one(_D + "TemperatureThreshold", 1, threshold),
        )
        for name, threshold in _THRESHOLDS.items()
    ),
    Call(Lane.SLOW, ("processes",), _D + "ComputeRunningProcesses_v3", _processes),
    Call(Lane.SLOW, ("ecc_mode",), _D + "EccMode", lambda handle: (pynvml.nvmlDeviceGetEccMode(handle)[0],)),
    Call(Lane.STATIC, ("ecc_mode_default",), _D + "DefaultEccMode", _ecc_mode_default),
    *(
        Call(
            Lane.NORMAL,
            (f"ecc_{error}_{counter}",),
            _D + "TotalEccErrors",
            one(_D + "TotalEccErrors", 1, _ERRORS[error], _COUNTERS[counter]),
        )
        for error in _ERRORS
        for counter in _COUNTERS
    ),
    *(
        Call(
            Lane.SLOW,
            (f"ecc_{error}_{counter}_{location}",),
            _D + "MemoryErrorCounter",
            _ecc(_ERRORS[error], _COUNTERS[counter], _LOCATIONS[location]),
        )
        for error in _ERRORS
        for counter in _COUNTERS
        for location in _LOCATIONS
    ),
    Call(Lane.SLOW, ("sram_threshold_exceeded",), _D + "SramEccErrorStatus", _sram_threshold),
    Call(
        Lane.NORMAL,
        ("remapped_rows_corrected", "remapped_rows_uncorrected", "row_remap_pending", "row_remap_failed"),
        _D + "RemappedRows",
        _remapped,
    ),
    Call(Lane.SLOW, ("retired_pages_sbe",), _D + "RetiredPages", _retired(0)),
    Call(Lane.SLOW, ("retired_pages_dbe",), _D + "RetiredPages", _retired(1)),
    Call(
        Lane.SLOW,
        ("retired_pages_pending",),
        _D + "RetiredPagesPendingStatus",
        one(_D + "RetiredPagesPendingStatus"),
    ),
    Call(Lane.SLOW, ("persistence_mode",), _D + "PersistenceMode", one(_D + "PersistenceMode")),
    Call(Lane.SLOW, ("mig_mode",), _D + "MigMode", _mig),
    Call(Lane.SLOW, ("display_active",), _D + "DisplayActive", one(_D + "DisplayActive")),
    Call(Lane.NORMAL, ("pcie_generation",), _D + "CurrPcieLinkGeneration", one(_D + "CurrPcieLinkGeneration")),
    Call(Lane.NORMAL, ("pcie_width_lanes",), _D + "CurrPcieLinkWidth", one(_D + "CurrPcieLinkWidth")),
    Call(Lane.STATIC, ("pcie_generation_max",), _D + "MaxPcieLinkGeneration", one(_D + "MaxPcieLinkGeneration")),
    Call(Lane.STATIC, ("pcie_width_max_lanes",), _D + "MaxPcieLinkWidth", one(_D + "MaxPcieLinkWidth")),
    Call(Lane.NORMAL, ("pcie_replays",), _D + "PcieReplayCounter", one(_D + "PcieReplayCounter")),
    Call(Lane.PCIE, ("pcie_tx_bytes_per_second",), _D + "PcieThroughput", _throughput(0)),
    Call(Lane.PCIE, ("pcie_rx_bytes_per_second",), _D + "PcieThroughput", _throughput(1)),
)

_ALL_LINKS = 0xFFFFFFFF  # scope UINT_MAX: the sum over all links

FIELDS: tuple[Field, ...] = (
    Field(Lane.FAST, "memory_celsius", 82),
    Field(Lane.STATIC, "margin_limit_shutdown_celsius", 193, "siVal"),
    Field(Lane.STATIC, "margin_limit_slowdown_celsius", 194, "siVal"),
    Field(Lane.STATIC, "margin_limit_max_operating_celsius", 196, "siVal"),
    Field(Lane.FAST, "event_sw_power_cap_seconds", 74, "ullVal", NANO),
    Field(Lane.FAST, "event_sync_boost_seconds", 76, "ullVal", NANO),
    Field(Lane.FAST, "event_sw_thermal_seconds", 269, "ullVal", NANO),
    Field(Lane.FAST, "event_hw_thermal_seconds", 270, "ullVal", NANO),
    Field(Lane.FAST, "event_power_brake_seconds", 271, "ullVal", NANO),
    Field(Lane.NORMAL, "recovery_action", 230),
    Field(Lane.NORMAL, "nvlink_tx_bytes", 138, "ullVal", KIBI, _ALL_LINKS),
    Field(Lane.NORMAL, "nvlink_rx_bytes", 139, "ullVal", KIBI, _ALL_LINKS),
    Field(Lane.NORMAL, "nvlink_tx_bytes", 202, "ullVal", 1, _ALL_LINKS),  # NVLink 5 counts bytes, in these fields
    Field(Lane.NORMAL, "nvlink_rx_bytes", 204, "ullVal", 1, _ALL_LINKS),
)

TAKES_A_CHOICE = frozenset(
    _D + name
    for name in (
        "TemperatureV",
        "Temperature",
        "MarginTemperature",
        "TemperatureThreshold",
        "ClockInfo",
        "MaxClockInfo",
        "MemoryInfo_v2",
        "TotalEccErrors",
        "MemoryErrorCounter",
        "SramEccErrorStatus",
        "RetiredPages",
        "PcieThroughput",
        "FanSpeed_v2",
        "FanSpeedRPM",
        "NvLinkState",
    )
)
"""Functions given a sensor, domain, link or structure version beside the handle, which an older driver may not know."""

VECTORS: tuple[Vector, ...] = (
    Vector(
        Lane.NORMAL,
        "fan_speed_ratio",
        _D + "FanSpeed_v2",
        _fans,
        lambda handle, fan: pynvml.nvmlDeviceGetFanSpeed_v2(handle, fan) * PERCENT,
    ),
    Vector(Lane.NORMAL, "fan_speed_rpm", _D + "FanSpeedRPM", _fans, _fan_rpm),
    Vector(
        Lane.SLOW,
        "nvlink_up",
        _D + "NvLinkState",
        lambda _: pynvml.NVML_NVLINK_MAX_LINKS,
        lambda handle, link: int(pynvml.nvmlDeviceGetNvLinkState(handle, link)),
    ),
)

WHOLES: tuple[Whole, ...] = (Whole(Lane.SLOW, "row_remap_banks", _D + "RowRemapperHistogram", _histogram),)
