"""The reading table: for each GpuReading field its lane, its NVML call, and the step to base units.

`CALLS` are functions of their own; `FIELDS` are fetched together, one nvmlDeviceGetFieldValues per lane. Later rows
for the same reading are tried only while earlier ones are not supported. Source: nvml.h 13.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pynvml

from gpuwarden.model.gpu import ON_CHIP_MEMORIES, Lane
from gpuwarden.nvml import getters
from gpuwarden.nvml.getters import KIBI, MEGA, MILLI, NANO, PERCENT, Numbers


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

    def asks(self) -> tuple[tuple[int, int], ...]:
        """Return the (field, scope) it is fetched with."""
        return ((self.id, self.scope),)


class LinkField(NamedTuple):
    """A vector over NVLink links out of field values: one (field, scope) per link, in the lane's one batch.

    Since Hopper one field is asked with the link for a scope; before it each link has a field of its own.
    """

    lane: Lane
    reading: str
    links: tuple[tuple[int, int], ...]
    member: str = "ullVal"
    scale: float = 1

    def asks(self) -> tuple[tuple[int, int], ...]:
        """Return the (field, scope) of each link."""
        return self.links


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


_LOCATIONS = {
    "dram": pynvml.NVML_MEMORY_LOCATION_DRAM,
    "sram": pynvml.NVML_MEMORY_LOCATION_SRAM,
    **{name: getattr(pynvml, f"NVML_MEMORY_LOCATION_{name.upper()}") for name in ON_CHIP_MEMORIES},
}
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
_THRESHOLDS = {"shutdown": 0, "slowdown": 1, "memory_max": 2, "gpu_max": 3, "target": 5}  # 5: ACOUSTIC_CURR
_D = "nvmlDeviceGet"
_ENGINES = {
    "encoder": _D + "EncoderUtilization",
    "decoder": _D + "DecoderUtilization",
    "jpeg": _D + "JpgUtilization",
    "ofa": _D + "OfaUtilization",
}


def _one(lane: Lane, reading: str, function: str, scale: float = 1, *arguments: int) -> Call:
    """Return the row of a function that answers with one number."""
    return Call(lane, (reading,), _D + function, getters.one(_D + function, scale, *arguments))


_FABRIC = ("fabric_state", "fabric_status", "fabric_health_mask")
_ALL_MEMORY = ("memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes", "memory_size_bytes")

CALLS: tuple[Call, ...] = (
    _one(Lane.FAST, "core_celsius", "TemperatureV", 1, 0),
    _one(Lane.FAST, "core_celsius", "Temperature", 1, 0),
    _one(Lane.FAST, "margin_celsius", "MarginTemperature"),
    _one(Lane.FAST, "power_watts", "PowerUsage", MILLI),
    *(_one(Lane.FAST, f"{name}_clock_hertz", "ClockInfo", MEGA, domain) for name, domain in _DOMAINS.items()),
    Call(Lane.FAST, ("performance_state",), _D + "PerformanceState", getters.performance_state),
    _one(Lane.FAST, "clocks_event_reasons", "CurrentClocksEventReasons"),
    _one(Lane.FAST, "clocks_event_reasons", "CurrentClocksThrottleReasons"),
    Call(
        Lane.FAST, ("gpu_utilization_ratio", "memory_utilization_ratio"), _D + "UtilizationRates", getters.utilization
    ),
    Call(Lane.FAST, _ALL_MEMORY, _D + "MemoryInfo_v2", getters.memory),
    Call(Lane.FAST, _ALL_MEMORY, _D + "MemoryInfo", getters.memory_v1),
    _one(Lane.FAST, "energy_joules", "TotalEnergyConsumption", MILLI),
    *(
        Call(Lane.NORMAL, (f"{name}_utilization_ratio",), function, getters.engine(function))
        for name, function in _ENGINES.items()
    ),
    Call(Lane.NORMAL, ("bar1_used_bytes", "bar1_size_bytes"), _D + "BAR1MemoryInfo", getters.bar1),
    _one(Lane.NORMAL, "power_limit_enforced_watts", "EnforcedPowerLimit", MILLI),
    _one(Lane.NORMAL, "power_limit_requested_watts", "PowerManagementLimit", MILLI),
    *(
        _one(Lane.NORMAL, f"ecc_{error}_{counter}", "TotalEccErrors", 1, _ERRORS[error], _COUNTERS[counter])
        for error in _ERRORS
        for counter in _COUNTERS
    ),
    Call(
        Lane.NORMAL,
        ("remapped_rows_corrected", "remapped_rows_uncorrected", "row_remap_pending", "row_remap_failed"),
        _D + "RemappedRows",
        getters.remapped,
    ),
    Call(
        Lane.NORMAL,
        ("channel_repair_pending", "tpc_repair_pending"),
        _D + "RepairStatus",
        getters.repairs,
    ),
    _one(Lane.SLOW, "unrepairable_memory", "UnrepairableMemoryFlag_v1"),
    Call(Lane.NORMAL, ("mig_mode",), _D + "MigMode", getters.mig),
    _one(Lane.NORMAL, "pcie_generation", "CurrPcieLinkGeneration"),
    _one(Lane.NORMAL, "pcie_width_lanes", "CurrPcieLinkWidth"),
    _one(Lane.NORMAL, "pcie_replays", "PcieReplayCounter"),
    Call(Lane.NORMAL, _FABRIC, _D + "GpuFabricInfoV", getters.fabric),
    Call(Lane.NORMAL, ("fabric_health_summary",), _D + "GpuFabricInfoV", getters.fabric_summary),
    Call(Lane.SLOW, ("processes",), _D + "ComputeRunningProcesses_v3", getters.processes),
    Call(Lane.SLOW, ("ecc_mode",), _D + "EccMode", getters.ecc_mode),
    *(
        _one(
            Lane.SLOW,
            f"ecc_{error}_{counter}_{location}",
            "MemoryErrorCounter",
            1,
            _ERRORS[error],
            _COUNTERS[counter],
            _LOCATIONS[location],
        )
        for error in _ERRORS
        for counter in _COUNTERS
        for location in _LOCATIONS
    ),
    Call(Lane.SLOW, ("sram_threshold_exceeded",), _D + "SramEccErrorStatus", getters.sram_threshold),
    Call(Lane.SLOW, ("retired_pages_sbe",), _D + "RetiredPages", getters.retired(0)),
    Call(
        Lane.SLOW,
        ("retired_pages_dbe", "retired_pages_dbe_timestamp_seconds"),
        _D + "RetiredPages_v2",
        getters.retired_by_double_bit,
    ),
    Call(Lane.SLOW, ("retired_pages_dbe",), _D + "RetiredPages", getters.retired(1)),
    _one(Lane.SLOW, "retired_pages_pending", "RetiredPagesPendingStatus"),
    _one(Lane.SLOW, "persistence_mode", "PersistenceMode"),
    _one(Lane.SLOW, "display_active", "DisplayActive"),
    *(
        _one(Lane.SLOW, f"{name}_clock_application_hertz", "ApplicationsClock", MEGA, _DOMAINS[name])
        for name in ("sm", "memory")
    ),
    Call(Lane.SLOW, ("vgpu_licensed",), _D + "GridLicensableFeatures_v4", getters.vgpu_licensed),
    _one(Lane.STATIC, "power_limit_default_watts", "PowerManagementDefaultLimit", MILLI),
    Call(
        Lane.STATIC,
        ("power_limit_min_watts", "power_limit_max_watts"),
        _D + "PowerManagementLimitConstraints",
        getters.power_range,
    ),
    *(_one(Lane.STATIC, f"{name}_clock_max_hertz", "MaxClockInfo", MEGA, domain) for name, domain in _DOMAINS.items()),
    _one(Lane.STATIC, "graphics_clock_boost_hertz", "MaxCustomerBoostClock", MEGA, _DOMAINS["graphics"]),
    *(_one(Lane.STATIC, f"limit_{name}_celsius", "TemperatureThreshold", 1, id_) for name, id_ in _THRESHOLDS.items()),
    Call(Lane.STATIC, ("ecc_mode_default",), _D + "DefaultEccMode", getters.ecc_mode_default),
    _one(Lane.STATIC, "pcie_generation_max", "MaxPcieLinkGeneration"),
    _one(Lane.STATIC, "pcie_generation_gpu_max", "GpuMaxPcieLinkGeneration"),
    _one(Lane.STATIC, "pcie_width_max_lanes", "MaxPcieLinkWidth"),
    _one(Lane.PCIE, "pcie_tx_bytes_per_second", "PcieThroughput", KIBI, 0),
    _one(Lane.PCIE, "pcie_rx_bytes_per_second", "PcieThroughput", KIBI, 1),
)

_ALL_LINKS = 0xFFFFFFFF  # scope UINT_MAX: the sum over all links

FIELDS: tuple[Field, ...] = (
    Field(Lane.FAST, "memory_celsius", 82),
    Field(Lane.FAST, "power_instant_watts", 186, "uiVal", MILLI),
    Field(Lane.STATIC, "margin_limit_shutdown_celsius", 193, "siVal"),
    Field(Lane.STATIC, "margin_limit_slowdown_celsius", 194, "siVal"),
    Field(Lane.STATIC, "margin_limit_max_operating_celsius", 196, "siVal"),
    Field(Lane.FAST, "event_sw_power_cap_seconds", 74, "ullVal", NANO),
    Field(Lane.FAST, "event_sync_boost_seconds", 76, "ullVal", NANO),
    Field(Lane.FAST, "event_sw_thermal_seconds", 269, "ullVal", NANO),
    Field(Lane.FAST, "event_hw_thermal_seconds", 270, "ullVal", NANO),
    Field(Lane.FAST, "event_power_brake_seconds", 271, "ullVal", NANO),
    Field(Lane.NORMAL, "violation_thermal_seconds", 75, "ullVal", NANO),
    Field(Lane.NORMAL, "violation_board_limit_seconds", 77, "ullVal", NANO),
    Field(Lane.NORMAL, "violation_low_utilization_seconds", 78, "ullVal", NANO),
    Field(Lane.NORMAL, "violation_reliability_seconds", 79, "ullVal", NANO),
    Field(Lane.NORMAL, "recovery_action", 230),
    Field(Lane.NORMAL, "nvlink_crc_flit_count", 38, "ullVal"),
    Field(Lane.NORMAL, "nvlink_crc_data_count", 45, "ullVal"),
    Field(Lane.NORMAL, "nvlink_replay_count", 52, "ullVal"),
    Field(Lane.NORMAL, "nvlink_recovery_count", 59, "ullVal"),
    Field(Lane.NORMAL, "nvlink_tx_bytes", 138, "ullVal", KIBI, _ALL_LINKS),
    Field(Lane.NORMAL, "nvlink_rx_bytes", 139, "ullVal", KIBI, _ALL_LINKS),
    Field(Lane.NORMAL, "nvlink_tx_bytes", 202, "ullVal", 1, _ALL_LINKS),  # NVLink 5 counts bytes, in these fields
    Field(Lane.NORMAL, "nvlink_rx_bytes", 204, "ullVal", 1, _ALL_LINKS),
)

_LINKS = range(pynvml.NVML_NVLINK_MAX_LINKS)


def _scoped(reading: str, id_: int, member: str = "ullVal", scale: float = 1) -> LinkField:
    """Return the row of a field that takes the link for a scope."""
    return LinkField(Lane.SLOW, reading, tuple((id_, link) for link in _LINKS), member, scale)


def _numbered(reading: str, first_six: int, next_six: int) -> LinkField:
    """Return the row of fields that are numbered by link, in two runs of six."""
    ids = (*range(first_six, first_six + 6), *range(next_six, next_six + 6))
    return LinkField(Lane.SLOW, reading, tuple((id_, 0) for id_ in ids))


LINK_FIELDS: tuple[LinkField, ...] = (
    _scoped("nvlink_up", pynvml.NVML_FI_DEV_NVLINK_GET_STATE, "uiVal"),  # since Hopper; before it a call per link
    _scoped("nvlink_link_tx_bytes", 138, scale=KIBI),
    _scoped("nvlink_link_rx_bytes", 139, scale=KIBI),
    _scoped("nvlink_link_tx_bytes", 202),  # NVLink 5
    _scoped("nvlink_link_rx_bytes", 204),
    _scoped("nvlink_replay_errors", pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY),  # these three: Hopper alone
    _scoped("nvlink_recovery_errors", pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY),
    _scoped("nvlink_crc_errors", pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_CRC),
    _numbered("nvlink_replay_errors", 46, 108),  # these four: Volta to Hopper
    _numbered("nvlink_recovery_errors", 53, 114),
    _numbered("nvlink_crc_flit_errors", 32, 96),
    _numbered("nvlink_crc_data_errors", 39, 102),
    _scoped("nvlink_recovery_errors", pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS),  # NVLink 5
    _scoped("nvlink_recovery_failed_errors", pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS),
    _scoped("nvlink_symbol_errors", pynvml.NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS),
    _scoped("nvlink_effective_errors", pynvml.NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS),
    _scoped("nvlink_receive_errors", pynvml.NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS),
    _scoped("nvlink_discard_errors", pynvml.NVML_FI_DEV_NVLINK_COUNT_XMIT_DISCARDS),
    _scoped("nvlink_overrun_errors", pynvml.NVML_FI_DEV_NVLINK_COUNT_BUFFER_OVERRUN_ERRORS),
    _scoped("nvlink_integrity_errors", pynvml.NVML_FI_DEV_NVLINK_COUNT_LOCAL_LINK_INTEGRITY_ERRORS),
)
"""The links' own counters. Malformed, stomped and misrouted packets are in `receive` already. Source: nvml.h 13.5."""

BATCHED: tuple[Field | LinkField, ...] = (*FIELDS, *LINK_FIELDS)

TAKES_A_CHOICE = frozenset(
    _D + name
    for name in (
        "TemperatureV",
        "Temperature",
        "MarginTemperature",
        "TemperatureThreshold",
        "ClockInfo",
        "MaxClockInfo",
        "MaxCustomerBoostClock",
        "MemoryInfo_v2",
        "TotalEccErrors",
        "MemoryErrorCounter",
        "SramEccErrorStatus",
        "RetiredPages",
        "RetiredPages_v2",
        "RepairStatus",
        "UnrepairableMemoryFlag_v1",
        "PcieThroughput",
        "ApplicationsClock",
        "FanSpeed_v2",
        "FanSpeedRPM",
        "NvLinkState",
        "GpuFabricInfoV",
    )
)
"""Functions given a sensor, domain, link or structure version beside the handle, which an older driver may not know."""

VECTORS: tuple[Vector, ...] = (
    Vector(
        Lane.NORMAL,
        "fan_speed_ratio",
        _D + "FanSpeed_v2",
        getters.fans,
        lambda handle, fan: pynvml.nvmlDeviceGetFanSpeed_v2(handle, fan) * PERCENT,
    ),
    Vector(Lane.NORMAL, "fan_speed_rpm", _D + "FanSpeedRPM", getters.fans, getters.fan_rpm),
    Vector(
        Lane.SLOW,
        "nvlink_up",
        _D + "NvLinkState",
        lambda _: pynvml.NVML_NVLINK_MAX_LINKS,
        lambda handle, link: int(pynvml.nvmlDeviceGetNvLinkState(handle, link)),
    ),
)

WHOLES: tuple[Whole, ...] = (Whole(Lane.SLOW, "row_remap_banks", _D + "RowRemapperHistogram", getters.histogram),)
