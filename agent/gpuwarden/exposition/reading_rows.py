"""Metric rows about readings: a metric on a reading that exists is one row here.

Label values are the contract's; a reading that is absent for whatever reason leaves its series out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gpuwarden.exposition.rows import Labelled, ReadingRow
from gpuwarden.model.gpu import (
    CLOCKS_EVENT_REASONS,
    FABRIC_FAULTS,
    FABRIC_STATES,
    NVLINK_ERRORS,
    ON_CHIP_MEMORIES,
    RECOVERY_ACTIONS,
    UNKNOWN_FABRIC_STATE,
    UNKNOWN_RECOVERY_ACTION,
    GpuReading,
    Missing,
    Value,
    fabric_faults,
)


def one(field: str) -> Callable[[GpuReading], Iterable[Labelled]]:
    """Return a source of one series without labels of its own."""
    return lambda reading: (((), reading.value(field)),)


def each(**fields: str) -> Callable[[GpuReading], Iterable[Labelled]]:
    """Return a source of one series per keyword: label value = reading name."""
    pairs = tuple(((label,), field) for label, field in fields.items())
    return lambda reading: [(labels, getattr(reading, field)) for labels, field in pairs]


def vector(field: str) -> Callable[[GpuReading], Iterable[Labelled]]:
    """Return a source of one series per element, labelled by its index."""

    def values(reading: GpuReading) -> Iterable[Labelled]:
        found = reading.value(field)
        return [((str(i),), item) for i, item in enumerate(found)] if isinstance(found, tuple) else ()

    return values


def _banks(reading: GpuReading) -> Iterable[Labelled]:
    found = reading.row_remap_banks
    names = ("max", "high", "partial", "low", "none")
    return () if isinstance(found, Missing) else [((name,), item) for name, item in zip(names, found, strict=False)]


def _clocks_event_reasons(reading: GpuReading) -> Iterable[Labelled]:
    mask = reading.clocks_event_reasons
    if isinstance(mask, Missing):
        return
    bits = int(mask)
    for bit, name in CLOCKS_EVENT_REASONS.items():
        yield (name,), int(bool(bits & bit))
    yield ("unknown",), int(bool(bits & ~_KNOWN_REASONS))


_KNOWN_REASONS = sum(CLOCKS_EVENT_REASONS)


def _recovery_actions(reading: GpuReading) -> Iterable[Labelled]:
    action = reading.recovery_action
    if isinstance(action, Missing):
        return
    active = RECOVERY_ACTIONS.get(int(action), UNKNOWN_RECOVERY_ACTION)
    for name in (*RECOVERY_ACTIONS.values(), UNKNOWN_RECOVERY_ACTION):
        yield (name,), int(name == active)


def _fabric_states(reading: GpuReading) -> Iterable[Labelled]:
    state = reading.fabric_state
    if isinstance(state, Missing):
        return
    active = FABRIC_STATES.get(int(state), UNKNOWN_FABRIC_STATE)
    for name in (*FABRIC_STATES.values(), UNKNOWN_FABRIC_STATE):
        yield (name,), int(name == active)


def _fabric_faults(reading: GpuReading) -> Iterable[Labelled]:
    mask = reading.fabric_health_mask
    if isinstance(mask, Missing):
        return
    active = fabric_faults(int(mask))
    for name, *_ in FABRIC_FAULTS:
        yield (name,), int(name in active)


def _nvlink_errors(reading: GpuReading) -> Iterable[Labelled]:
    split = isinstance(reading.nvlink_crc_flit_errors, tuple) and isinstance(reading.nvlink_crc_data_errors, tuple)
    for kind, field in NVLINK_ERRORS.items():
        counts = reading.value(field)
        if isinstance(counts, Missing | int | float) or (split and kind == "crc"):
            continue
        for link, count in enumerate(counts):
            yield (str(link), kind), count


def ecc(span: str) -> Callable[[GpuReading], Iterable[Labelled]]:
    """Return ECC errors by type and memory so that the sum over the labels is the number of errors, once.

    Both locations known: they are the sum. A board that counts its on-chip memories one by one has their sum as SRAM.
    Otherwise the driver's own total stands as "unspecified", because one location alone would hide the other's
    errors; without a total the one known location is all there is.
    """
    fields = tuple((kind, f"ecc_{kind}_{span}") for kind in ("corrected", "uncorrected"))

    def values(reading: GpuReading) -> Iterable[Labelled]:
        for kind, total in fields:
            dram, sram = reading.value(f"{total}_dram"), _sram(reading, total)
            split = not isinstance(dram, Missing) and not isinstance(sram, Missing)
            if split or isinstance(reading.value(total), Missing):
                yield (kind, "dram"), dram
                yield (kind, "sram"), sram
            else:
                yield (kind, "unspecified"), reading.value(total)

    return values


def _sram(reading: GpuReading, total: str) -> Value:
    """Return the errors of on-chip memory, as the board's own sum or that of the memories it counts one by one."""
    own = reading.value(f"{total}_sram")
    if own is not Missing.NOT_SUPPORTED:
        return own
    parts = [reading.value(f"{total}_{name}") for name in ON_CHIP_MEMORIES]
    known = [part for part in parts if isinstance(part, int | float)]
    absent = [part for part in parts if isinstance(part, Missing) and part is not Missing.NOT_SUPPORTED]
    return absent[0] if absent else sum(known) if known else own


ACTIVITY_UNITS: dict[str, str] = {  # label value -> reading
    "graphics": "graphics_activity_ratio",
    "sm": "sm_activity_ratio",
    "sm_occupancy": "sm_occupancy_ratio",
    "integer": "integer_activity_ratio",
    "tensor": "tensor_activity_ratio",
    "tensor_dfma": "tensor_dfma_activity_ratio",
    "tensor_hmma": "tensor_hmma_activity_ratio",
    "tensor_dmma": "tensor_dmma_activity_ratio",
    "tensor_imma": "tensor_imma_activity_ratio",
    "dram": "dram_activity_ratio",
    "fp64": "fp64_activity_ratio",
    "fp32": "fp32_activity_ratio",
    "fp16": "fp16_activity_ratio",
}

READING_ROWS: tuple[ReadingRow, ...] = (
    ReadingRow(
        "gpu_temperature_celsius",
        "Temperature by sensor.",
        ("sensor",),
        each(core="core_celsius", memory="memory_celsius"),
    ),
    ReadingRow(
        "gpu_temperature_limit_celsius",
        "Absolute temperature limits, where the driver gives absolute ones.",
        ("threshold",),
        each(
            shutdown="limit_shutdown_celsius",
            slowdown="limit_slowdown_celsius",
            memory_max="limit_memory_max_celsius",
            gpu_max="limit_gpu_max_celsius",
            target="limit_target_celsius",
        ),
    ),
    ReadingRow(
        "gpu_temperature_margin_celsius",
        "Degrees left until the card slows down; negative beyond it.",
        (),
        one("margin_celsius"),
    ),
    ReadingRow(
        "gpu_temperature_margin_limit_celsius",
        "Limits as temperature margins: reached when the margin is at or below.",
        ("threshold",),
        each(
            shutdown="margin_limit_shutdown_celsius",
            slowdown="margin_limit_slowdown_celsius",
            max_operating="margin_limit_max_operating_celsius",
        ),
    ),
    ReadingRow(
        "gpu_fan_speed_ratio",
        "Requested fan speed, 1 = full: what the fan was told, not what it does.",
        ("fan",),
        vector("fan_speed_ratio"),
    ),
    ReadingRow("gpu_fan_speed_rpm", "Fan speed in revolutions per minute.", ("fan",), vector("fan_speed_rpm")),
    ReadingRow("gpu_power_watts", "Power drawn by the board.", (), one("power_watts")),
    ReadingRow(
        "gpu_power_limit_watts",
        "Power limits: in force, default, and the settable range.",
        ("bound",),
        each(
            enforced="power_limit_enforced_watts",
            default="power_limit_default_watts",
            min="power_limit_min_watts",
            max="power_limit_max_watts",
        ),
    ),
    ReadingRow("gpu_energy_joules_total", "Energy since the driver loaded.", (), one("energy_joules")),
    ReadingRow(
        "gpu_clock_hertz",
        "Current clock by domain.",
        ("domain",),
        each(
            graphics="graphics_clock_hertz",
            sm="sm_clock_hertz",
            memory="memory_clock_hertz",
            video="video_clock_hertz",
        ),
    ),
    ReadingRow(
        "gpu_clock_max_hertz",
        "Highest clock of the product by domain.",
        ("domain",),
        each(
            graphics="graphics_clock_max_hertz",
            sm="sm_clock_max_hertz",
            memory="memory_clock_max_hertz",
            video="video_clock_max_hertz",
        ),
    ),
    ReadingRow(
        "gpu_clock_boost_hertz",
        "Boost clock that NVIDIA promises for the board, by domain; data-centre boards only.",
        ("domain",),
        each(graphics="graphics_clock_boost_hertz"),
    ),
    ReadingRow("gpu_performance_state", "Performance state: 0 fastest, 15 slowest.", (), one("performance_state")),
    ReadingRow(
        "gpu_clocks_event_active",
        "Whether this clocks event reason holds the clocks down now.",
        ("reason",),
        _clocks_event_reasons,
    ),
    ReadingRow(
        "gpu_clocks_event_seconds_total",
        "Time the clocks were held down since the driver loaded, by clocks event reason.",
        ("reason",),
        each(
            sw_power_cap="event_sw_power_cap_seconds",
            sync_boost="event_sync_boost_seconds",
            sw_thermal_slowdown="event_sw_thermal_seconds",
            hw_thermal_slowdown="event_hw_thermal_seconds",
            hw_power_brake_slowdown="event_power_brake_seconds",
        ),
    ),
    ReadingRow(
        "gpu_utilization_ratio",
        "Share of time the engine was busy, 1 = always.",
        ("engine",),
        each(
            gpu="gpu_utilization_ratio",
            memory="memory_utilization_ratio",
            encoder="encoder_utilization_ratio",
            decoder="decoder_utilization_ratio",
            jpeg="jpeg_utilization_ratio",
            ofa="ofa_utilization_ratio",
        ),
    ),
    ReadingRow(
        "gpu_activity_ratio",
        "How busy a part of the GPU was, by GPM: the average between two looks; 1 = all of it all the time.",
        ("unit",),
        each(**ACTIVITY_UNITS),
    ),
    ReadingRow(
        "gpu_memory_bytes",
        "Frame buffer by state.",
        ("state",),
        each(used="memory_used_bytes", free="memory_free_bytes", reserved="memory_reserved_bytes"),
    ),
    ReadingRow("gpu_memory_size_bytes", "Size of the frame buffer.", (), one("memory_size_bytes")),
    ReadingRow("gpu_bar1_used_bytes", "Mapped part of the BAR1 aperture.", (), one("bar1_used_bytes")),
    ReadingRow("gpu_bar1_size_bytes", "Size of the BAR1 aperture.", (), one("bar1_size_bytes")),
    ReadingRow("gpu_processes", "Processes that hold a context on the GPU.", (), one("processes")),
    ReadingRow("gpu_ecc_mode", "Whether ECC is on.", (), one("ecc_mode")),
    ReadingRow("gpu_ecc_errors_total", "ECC errors since the driver loaded.", ("type", "memory"), ecc("volatile")),
    ReadingRow("gpu_ecc_errors_lifetime", "ECC errors in the life of the board.", ("type", "memory"), ecc("lifetime")),
    ReadingRow(
        "gpu_sram_ecc_threshold_exceeded",
        "Whether uncorrectable SRAM errors passed the driver's threshold.",
        (),
        one("sram_threshold_exceeded"),
    ),
    ReadingRow(
        "gpu_row_remaps_total",
        "Memory rows remapped in the life of the board, by the error that caused it.",
        ("cause",),
        each(corrected="remapped_rows_corrected", uncorrected="remapped_rows_uncorrected"),
    ),
    ReadingRow("gpu_row_remap_pending", "Whether a row remap waits for a GPU reset.", (), one("row_remap_pending")),
    ReadingRow("gpu_row_remap_failed", "Whether a row remap failed.", (), one("row_remap_failed")),
    ReadingRow(
        "gpu_repair_pending",
        "Whether the next GPU reset repairs a memory channel or a TPC.",
        ("part",),
        each(channel="channel_repair_pending", tpc="tpc_repair_pending"),
    ),
    ReadingRow(
        "gpu_memory_unrepairable", "Whether the driver calls memory beyond repair.", (), one("unrepairable_memory")
    ),
    ReadingRow("gpu_row_remap_banks", "Memory banks by spare rows left.", ("spare",), _banks),
    ReadingRow(
        "gpu_retired_pages",
        "Retired memory pages, by the ECC errors that caused it.",
        ("cause",),
        each(single_bit="retired_pages_sbe", double_bit="retired_pages_dbe"),
    ),
    ReadingRow(
        "gpu_retired_pages_pending",
        "Whether page retirement waits for a driver reload.",
        (),
        one("retired_pages_pending"),
    ),
    ReadingRow(
        "gpu_retired_page_last_timestamp_seconds",
        "When the last memory page was retired for double-bit ECC errors, as Unix time.",
        (),
        one("retired_pages_dbe_timestamp_seconds"),
    ),
    ReadingRow("gpu_persistence_mode", "Whether persistence mode is on.", (), one("persistence_mode")),
    ReadingRow("gpu_mig_mode", "Whether MIG mode is on.", (), one("mig_mode")),
    ReadingRow("gpu_mig_instances", "MIG instances of the GPU.", (), one("mig_instances")),
    ReadingRow("gpu_display_active", "Whether a display is driven by the GPU.", (), one("display_active")),
    ReadingRow(
        "gpu_pcie_link_generation",
        "PCIe link generation; the current one falls at idle by design.",
        ("bound",),
        each(current="pcie_generation", max="pcie_generation_max"),
    ),
    ReadingRow(
        "gpu_pcie_link_width_lanes",
        "PCIe link width.",
        ("bound",),
        each(current="pcie_width_lanes", max="pcie_width_max_lanes"),
    ),
    ReadingRow("gpu_pcie_replays_total", "PCIe replays since the driver loaded.", (), one("pcie_replays")),
    ReadingRow(
        "gpu_pcie_throughput_bytes_per_second",
        "PCIe traffic seen from the GPU: the average between two looks by GPM, where there is none a sample of 20 ms.",
        ("direction",),
        each(tx="pcie_tx_bytes_per_second", rx="pcie_rx_bytes_per_second"),
    ),
    ReadingRow(
        "gpu_nvlink_bytes_total",
        "NVLink payload of all links since the driver loaded, seen from the GPU.",
        ("direction",),
        each(tx="nvlink_tx_bytes", rx="nvlink_rx_bytes"),
    ),
    ReadingRow(
        "gpu_nvlink_throughput_bytes_per_second",
        "NVLink traffic of all links seen from the GPU: the average between two looks by GPM.",
        ("direction",),
        each(tx="nvlink_tx_bytes_per_second", rx="nvlink_rx_bytes_per_second"),
    ),
    ReadingRow("gpu_nvlink_up", "Whether the NVLink is active.", ("link",), vector("nvlink_up")),
    ReadingRow(
        "gpu_nvlink_errors_total",
        "NVLink errors since the driver loaded; crc stands where flits and data are not told apart.",
        ("link", "type"),
        _nvlink_errors,
    ),
    ReadingRow(
        "gpu_fabric_state",
        "How far the GPU has come in joining its NVLink fabric.",
        ("state",),
        _fabric_states,
    ),
    ReadingRow(
        "gpu_fabric_status",
        "NVML return code of joining the fabric: 0 is success. It counts once the state is completed.",
        (),
        one("fabric_status"),
    ),
    ReadingRow(
        "gpu_fabric_fault_active",
        "What the driver finds wrong with the GPU's part of the fabric.",
        ("fault",),
        _fabric_faults,
    ),
    ReadingRow("gpu_recovery_action", "What the driver says this GPU needs.", ("action",), _recovery_actions),
)
