"""The native metrics: one row per family, evaluated on the node's state.

A row says where its numbers come from; everything that is true of all rows (labels of a GPU, absence, base units,
readings that go with their GPU) is decided once, in the functions at the end. Names are the contract of the
documentation: renaming one is a breaking change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from gpuwarden.model.finding import Health, Incident
from gpuwarden.model.gpu import (
    CLOCKS_EVENT_REASONS,
    READINGS,
    RECOVERY_ACTIONS,
    UNKNOWN_RECOVERY_ACTION,
    GpuReading,
    Lane,
    Missing,
    Scalar,
    Value,
)
from gpuwarden.model.observation import WorkerState
from gpuwarden.model.snapshot import POLL_BUCKETS, GpuState, NodeState, Presence

PREFIX = "gpuwarden_"


class ProcessStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one of our processes costs; None where it could not be read."""

    cpu_seconds: float | None = None
    resident_bytes: int | None = None
    open_fds: int | None = None
    start_time: float | None = None  # wall


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """What the exposition shows beside the node's state. `processes` is keyed by "main" and "nvml-worker"."""

    version: str
    python: str
    nvml_binding: str
    mode: str = "shadow"
    hostname: str = ""
    labels: dict[str, str] = {}
    processes: dict[str, ProcessStats] = {}


Labelled: TypeAlias = tuple[tuple[str, ...], Value | None]
"""Label values in the row's order, and the number; None or Missing leaves the series out."""


class Row(NamedTuple):
    """One family about the host."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[NodeState, Extras], Iterable[Labelled]]


class GpuRow(NamedTuple):
    """One family about each GPU of the inventory, whether it answers or not."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[NodeState, GpuState], Iterable[Labelled]]


class ReadingRow(NamedTuple):
    """One family of readings: shown only while the GPU answers."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[GpuReading], Iterable[Labelled]]


class IncidentRow(NamedTuple):
    """One family about open incidents: with the GPU's labels where the incident is about one."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[Incident], Labelled]


# ---- where a reading row takes its numbers from


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


def ecc(span: str) -> Callable[[GpuReading], Iterable[Labelled]]:
    """Return ECC errors by type and memory so that the sum over the labels is the number of errors, once.

    Both locations known: they are the sum. Otherwise the driver's own total stands as "unspecified", because one
    location alone would hide the other's errors; without a total the one known location is all there is.
    """
    fields = tuple((kind, f"ecc_{kind}_{span}") for kind in ("corrected", "uncorrected"))

    def values(reading: GpuReading) -> Iterable[Labelled]:
        for kind, total in fields:
            dram, sram = reading.value(f"{total}_dram"), reading.value(f"{total}_sram")
            split = not isinstance(dram, Missing) and not isinstance(sram, Missing)
            if split or isinstance(reading.value(total), Missing):
                yield (kind, "dram"), dram
                yield (kind, "sram"), sram
            else:
                yield (kind, "unspecified"), reading.value(total)

    return values


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
        "gpu_performance_state", "Performance state: 0 fastest, 15 slowest.", (), one("performance_state")
    ),
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
    ReadingRow(
        "gpu_ecc_errors_total", "ECC errors since the driver loaded.", ("type", "memory"), ecc("volatile")
    ),
    ReadingRow(
        "gpu_ecc_errors_lifetime", "ECC errors in the life of the board.", ("type", "memory"), ecc("lifetime")
    ),
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
    ReadingRow(
        "gpu_row_remap_pending", "Whether a row remap waits for a GPU reset.", (), one("row_remap_pending")
    ),
    ReadingRow("gpu_row_remap_failed", "Whether a row remap failed.", (), one("row_remap_failed")),
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
    ReadingRow("gpu_persistence_mode", "Whether persistence mode is on.", (), one("persistence_mode")),
    ReadingRow("gpu_mig_mode", "Whether MIG mode is on.", (), one("mig_mode")),
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
        "PCIe traffic sampled over some 20 ms, seen from the GPU.",
        ("direction",),
        each(tx="pcie_tx_bytes_per_second", rx="pcie_rx_bytes_per_second"),
    ),
    ReadingRow(
        "gpu_nvlink_bytes_total",
        "NVLink payload of all links since the driver loaded, seen from the GPU.",
        ("direction",),
        each(tx="nvlink_tx_bytes", rx="nvlink_rx_bytes"),
    ),
    ReadingRow("gpu_nvlink_up", "Whether the NVLink is active.", ("link",), vector("nvlink_up")),
    ReadingRow(
        "gpu_recovery_action", "What the driver says this GPU needs.", ("action",), _recovery_actions
    ),
)


# ---- rows about a GPU that outlive its readings

COUNTED_XIDS = (48, 62, 64, 74, 79, 95, 119, 120, 140)
"""Xids whose counter exists before the first one occurs, because `increase()` does not see a series being born."""


def _info(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    known = gpu.identity
    minor = "" if known.minor is None else str(known.minor)
    slot = known.slot or (gpu.pci.slot if gpu.pci else "")
    yield (known.name, known.bdf, known.serial, known.vbios, minor, known.board, slot), 1


def _gpu_blocked(node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    yield (), 0.0 if gpu.blocked_since is None else max(0.0, node.now.boottime - gpu.blocked_since)


def _gpu_health(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    return [((health.value,), int(gpu.health is health)) for health in Health]


def _xids(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    totals = dict.fromkeys(((xid, "driver") for xid in COUNTED_XIDS), 0)
    totals.update({(count.xid, count.source): count.total for count in gpu.xids})
    return [((str(xid), source), total) for (xid, source), total in sorted(totals.items())]


def _xid_times(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    return [((str(count.xid),), count.last) for count in gpu.xids if count.source == "driver" and count.last > 0]


def _aer(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    if gpu.pci is not None:
        yield ("correctable",), gpu.pci.aer_correctable
        yield ("nonfatal",), gpu.pci.aer_nonfatal
        yield ("fatal",), gpu.pci.aer_fatal


SHOWN = frozenset({Presence.ANSWERING, Presence.FAULTY})
"""Presences in which readings are shown: the GPU answers, perhaps badly."""

HIDDEN_AS: dict[Presence, Missing] = {
    Presence.LOST: Missing.GPU_LOST,
    Presence.MISSING: Missing.GPU_LOST,
    Presence.NEEDS_RESET: Missing.UNKNOWN,
    Presence.ACCESS_LOST: Missing.NO_PERMISSION,
    Presence.BLOCKED: Missing.TIMED_OUT,
    Presence.PAUSED: Missing.PAUSED,
}
"""Why a reading is not shown that was still good when its GPU stopped answering. Not listed: nothing was asked."""


def _status(value: Value) -> Missing | None:
    """Return why a reading, or any element of a vector, is absent in a way worth telling."""
    items: tuple[Scalar, ...] = value if isinstance(value, tuple) else (value,)
    for item in items:
        if isinstance(item, Missing) and item is not Missing.NOT_SUPPORTED:
            return item
    return None


def reading_status(gpu: GpuState, field: str) -> Missing | None:
    """Return why this reading cannot be had now, where that is worth telling; None for one that is unsupported.

    A GPU that stopped answering takes its readings with it, also those that were good a moment ago.
    """
    value: Value = getattr(gpu.readings, field)
    status = _status(value)
    hidden_as = HIDDEN_AS.get(gpu.presence)
    if hidden_as is not None and value is not Missing.NOT_SUPPORTED and status in (None, Missing.UNKNOWN):
        return hidden_as
    return status


def _reading_statuses(_node: NodeState, gpu: GpuState) -> Iterable[Labelled]:
    if gpu.presence not in SHOWN and gpu.presence not in HIDDEN_AS:
        return
    for field in READINGS:
        status = reading_status(gpu, field)
        if status is not None:
            yield (field, status.value), 1


GPU_ROWS: tuple[GpuRow, ...] = (
    GpuRow(
        "gpu_info",
        "Who the GPU is; join on uuid.",
        ("name", "pci_bus_id", "serial", "vbios", "minor", "board", "slot"),
        _info,
    ),
    GpuRow(
        "gpu_last_sample_timestamp_seconds",
        "When the GPU last answered, as Unix time.",
        (),
        lambda _node, gpu: (((), gpu.last_sample),),
    ),
    GpuRow(
        "gpu_blocked_seconds",
        "For how long one call to the GPU has not returned; 0 when none is late.",
        (),
        _gpu_blocked,
    ),
    GpuRow(
        "gpu_reading_status",
        "Readings that are neither there nor unsupported, and why.",
        ("reading", "status"),
        _reading_statuses,
    ),
    GpuRow(
        "gpu_readings_rejected_total",
        "Readings dropped because they were outside physics.",
        ("reading",),
        lambda _node, gpu: [((reading,), total) for reading, total in sorted(gpu.rejected.items())],
    ),
    GpuRow(
        "gpu_pcie_aer_errors_total",
        "PCIe errors the kernel counted for the GPU, by severity.",
        ("severity",),
        _aer,
    ),
    GpuRow(
        "gpu_xid_errors_total",
        "Xid errors in this boot; source is user where not the kernel but somebody else wrote the line.",
        ("xid", "source"),
        _xids,
    ),
    GpuRow(
        "gpu_xid_last_timestamp_seconds",
        "When the driver last reported this Xid, as Unix time.",
        ("xid",),
        _xid_times,
    ),
    GpuRow("gpu_health", "The verdict on the GPU.", ("state",), _gpu_health),
)


# ---- rows about the host

RESTART_REASONS = ("blocked", "crashed", "driver_reload", "gpu_reset", "request", "topology")
POLL_RESULTS = ("ok", "failed")
BLOCKED_STATES = frozenset({WorkerState.BLOCKED, WorkerState.ABANDONED})


def _flag(value: bool | None) -> tuple[Labelled]:
    return (((), None if value is None else int(value)),)


def _number(value: float | None) -> tuple[Labelled]:
    return (((), value),)


def _driver(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    if node.nvml.driver:
        yield (node.nvml.driver, node.nvml.nvml, node.nvml.cuda), 1


def _nvml_blocked(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    blocked = node.nvml.state in BLOCKED_STATES
    yield (), max(0.0, node.now.boottime - node.nvml.since) if blocked else 0.0


def _gpus(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    yield ("nvml",), node.nvml.count if node.nvml.state is WorkerState.UP else None
    yield ("pci",), len(node.pci) if node.pci_readable else None
    yield ("inventory",), len(node.gpus)
    yield ("expected",), node.settings.expected_gpus or len(node.gpus)


def _incident_totals(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    totals = {(kind, settings.severity.value): 0 for kind, settings in node.settings.kinds.items()}
    totals.update(node.incident_totals)
    return sorted(totals.items())


def _polls(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    totals = {(lane.value, result): 0 for lane in Lane for result in POLL_RESULTS}
    totals.update(node.polls)
    return sorted(totals.items())


def _restarts(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    totals = dict.fromkeys(RESTART_REASONS, 0) | node.nvml.restarts
    return [((reason,), total) for reason, total in sorted(totals.items())]


def _of_processes(field: str) -> Callable[[NodeState, Extras], Iterable[Labelled]]:
    return lambda _node, extras: [((name,), getattr(stats, field)) for name, stats in extras.processes.items()]


HOST_ROWS: tuple[Row, ...] = (
    Row(
        "build_info",
        "What runs.",
        ("version", "python", "nvml_binding"),
        lambda _node, extras: (((extras.version, extras.python, extras.nvml_binding), 1),),
    ),
    Row("driver_info", "The NVIDIA driver, as its library told.", ("driver", "nvml", "cuda"), _driver),
    Row(
        "nvml_up",
        "Whether an NVML session is open.",
        (),
        lambda node, _extras: _flag(node.nvml.state is WorkerState.UP),
    ),
    Row("nvml_blocked_seconds", "For how long the whole NVML worker has been silent.", (), _nvml_blocked),
    Row(
        "nvml_worker_restarts_total",
        "Replacements of the NVML worker, by reason.",
        ("reason",),
        _restarts,
    ),
    Row("kmsg_up", "Whether the kernel log can be read.", (), lambda node, _extras: _flag(node.kmsg_up)),
    Row(
        "kmsg_records_total",
        "Kernel-log records read by this process.",
        (),
        lambda node, _extras: _number(node.kmsg_records),
    ),
    Row(
        "kmsg_records_lost_total",
        "Kernel-log records overwritten before they were read.",
        (),
        lambda node, _extras: _number(node.kmsg_lost),
    ),
    Row("gpus", "GPUs by who counts them.", ("source",), _gpus),
    Row(
        "mode",
        "The mode of operation.",
        ("mode",),
        lambda _node, extras: [((mode,), int(mode == extras.mode)) for mode in ("shadow", "enforce")],
    ),
    Row(
        "drill_active",
        "Whether an injected fault is at work: what is reported may be a drill.",
        (),
        lambda node, _extras: _flag(node.drill),
    ),
    Row(
        "config_last_reload_successful",
        "Whether the configuration was accepted when it was last read.",
        (),
        lambda node, _extras: _flag(node.config_ok),
    ),
    Row(
        "config_last_reload_success_timestamp_seconds",
        "When a configuration was last accepted, as Unix time.",
        (),
        lambda node, _extras: _number(node.config_loaded or None),
    ),
    Row(
        "inbox_dropped_total",
        "Readings overtaken by newer ones before they were judged.",
        (),
        lambda node, _extras: _number(node.inbox_dropped),
    ),
    Row("journal_bytes", "Size of the journal.", (), lambda node, _extras: _number(node.journal_bytes)),
    Row(
        "journal_write_errors_total",
        "Failed writes to the journal.",
        (),
        lambda node, _extras: _number(node.journal_write_errors),
    ),
    Row("polls_total", "Polls of a GPU, by lane and result.", ("lane", "result"), _polls),
    Row(
        "incidents_total",
        "Incidents opened in this boot.",
        ("kind", "severity"),
        _incident_totals,
    ),
    Row(
        "sxid_errors_total",
        "NVSwitch errors (SXid) in this boot.",
        ("sxid", "fatal"),
        lambda node, _extras: [((str(sxid), fatal), n) for (sxid, fatal), n in sorted(node.sxids.items())],
    ),
)

PROCESS_ROWS: tuple[Row, ...] = (  # standard names, hence no prefix
    Row("process_cpu_seconds_total", "Processor time used.", ("process",), _of_processes("cpu_seconds")),
    Row("process_resident_memory_bytes", "Resident memory.", ("process",), _of_processes("resident_bytes")),
    Row("process_open_fds", "Open file descriptors.", ("process",), _of_processes("open_fds")),
    Row("process_start_time_seconds", "Start time, as Unix time.", ("process",), _of_processes("start_time")),
)

INCIDENT_ROWS: tuple[IncidentRow, ...] = (
    IncidentRow(
        "finding_active",
        "What is wrong now.",
        ("kind", "severity"),
        lambda incident: ((incident.kind, incident.severity.value), 1),
    ),
    IncidentRow(
        "incident_start_timestamp_seconds",
        "Since when it is wrong, as Unix time.",
        ("kind",),
        lambda incident: ((incident.kind,), incident.opened.wall),
    ),
)


def families(node: NodeState, extras: Extras) -> Iterator[Metric]:
    """Yield every family that has something to say, as prometheus_client metrics, in a stable order.

    Both of prometheus_client's renderers take them: counters and info metrics carry the right name in either format.
    """
    gpus = tuple(node.gpus.values())
    for row in HOST_ROWS:
        yield from _filled(_family(PREFIX + row.name, row.help, row.labels), ((), row.values(node, extras)))
    yield from _filled(_polls_duration(node))
    for gpu_row in GPU_ROWS:
        yield from _filled(
            _family(PREFIX + gpu_row.name, gpu_row.help, ("gpu", "uuid", *gpu_row.labels)),
            *((_labels(gpu), gpu_row.values(node, gpu)) for gpu in gpus),
        )
    shown = tuple((_labels(gpu), gpu.readings) for gpu in gpus if gpu.presence in SHOWN)
    for reading_row in READING_ROWS:
        yield from _filled(
            _family(PREFIX + reading_row.name, reading_row.help, ("gpu", "uuid", *reading_row.labels)),
            *((labels, reading_row.values(readings)) for labels, readings in shown),
        )
    for incident_row in INCIDENT_ROWS:
        yield from _filled(_incidents(node, incident_row))
    for row in PROCESS_ROWS:
        yield from _filled(_family(row.name, row.help, row.labels), ((), row.values(node, extras)))


_Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily | InfoMetricFamily
_Series: TypeAlias = tuple[tuple[str, ...], Iterable[Labelled]]


def _family(name: str, help_text: str, labels: tuple[str, ...]) -> _Family:
    """Return an empty family; its type follows from the name, as naming rules demand."""
    if name.endswith("_total"):
        return CounterMetricFamily(name, help_text, labels=labels)
    if name.endswith("_info"):
        return InfoMetricFamily(name.removesuffix("_info"), help_text, labels=labels)
    return GaugeMetricFamily(name, help_text, labels=labels)


def _labels(gpu: GpuState) -> tuple[str, str]:
    return str(gpu.index), gpu.identity.uuid


def _filled(metric: Metric, *series: _Series) -> Iterator[Metric]:
    """Yield the family with these series added, or nothing where it stays empty."""
    for prefix, values in series:
        for labels, value in values:
            number = finite(value)
            if number is None:
                continue
            if isinstance(metric, InfoMetricFamily):
                metric.add_metric((*prefix, *labels), {})
            elif isinstance(metric, GaugeMetricFamily):
                metric.add_metric((*prefix, *labels), number)
            elif isinstance(metric, CounterMetricFamily) and number >= 0:  # a negative count would spoil the scrape
                metric.add_metric((*prefix, *labels), number)
    if metric.samples:
        yield metric


def finite(value: Value | None) -> float | None:
    """Return a number fit to be shown, or None. Adding zero turns a negative zero into zero."""
    if value is None or isinstance(value, Missing | tuple) or not math.isfinite(value):
        return None
    return value + 0.0


def _incidents(node: NodeState, row: IncidentRow) -> Metric:
    """Return one family of which some series carry a GPU's labels and others, about the host, carry none."""
    metric = GaugeMetricFamily(PREFIX + row.name, row.help)
    for incident in node.incidents.values():
        gpu = node.gpus.get(incident.uuid or "")
        values, value = row.values(incident)
        number = finite(value)
        if number is None or (incident.uuid and gpu is None):
            continue  # a forgotten GPU has no index to be shown under
        about = dict(zip(("gpu", "uuid"), _labels(gpu), strict=True)) if gpu else {}
        labels = about | dict(zip(row.labels, values, strict=True))
        metric.samples.append(Sample(metric.name, labels, number))
    return metric


def _polls_duration(node: NodeState) -> Metric:
    """Return the poll-duration histogram; its counts become cumulative here."""
    metric = HistogramMetricFamily(
        PREFIX + "poll_duration_seconds", "How long one lane of one GPU took to read.", labels=("lane",)
    )
    bounds = (*(repr(bound) for bound in POLL_BUCKETS), "+Inf")
    for lane in Lane:
        total, counts = node.poll_seconds.get(lane.value, (0.0, (0,) * len(bounds)))
        running = 0
        buckets = []
        for bound, count in zip(bounds, counts, strict=True):
            running += count
            buckets.append((bound, running))
        metric.add_metric((lane.value,), buckets, total)
    return metric
