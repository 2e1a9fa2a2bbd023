"""Metric rows about the host, its agent, and the incidents open on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gpuwarden.exposition.gpu_rows import code_label
from gpuwarden.exposition.rows import Extras, IncidentRow, Labelled, Row, flag
from gpuwarden.model.gpu import Lane
from gpuwarden.model.heat import SETTINGS
from gpuwarden.model.observation import WorkerState
from gpuwarden.model.snapshot import NodeState

RESTART_REASONS = ("blocked", "crashed", "driver_reload", "gpu_reset", "request", "topology")
POLL_RESULTS = ("ok", "failed")
BLOCKED_STATES = frozenset({WorkerState.BLOCKED, WorkerState.ABANDONED})


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


def _leased(node: NodeState, _extras: Extras) -> Iterable[Labelled]:
    held = [lease.setting for lease in node.hands.leases] if node.hands is not None else []
    return [((setting.value,), held.count(setting)) for setting in SETTINGS]


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
        lambda node, _extras: flag(node.nvml.state is WorkerState.UP),
    ),
    Row("nvml_blocked_seconds", "For how long the whole NVML worker has been silent.", (), _nvml_blocked),
    Row(
        "nvml_worker_restarts_total",
        "Replacements of the NVML worker, by reason.",
        ("reason",),
        _restarts,
    ),
    Row("kmsg_up", "Whether the kernel log can be read.", (), lambda node, _extras: flag(node.kmsg_up)),
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
        lambda node, _extras: flag(node.drill),
    ),
    Row(
        "config_last_reload_successful",
        "Whether the configuration was accepted when it was last read.",
        (),
        lambda node, _extras: flag(node.config_ok),
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
    Row("settings_leased", "Settings of cards on loan to the heat governor.", ("setting",), _leased),
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
        lambda node, _extras: [((code_label(sxid), fatal), n) for (sxid, fatal), n in sorted(node.sxids.items())],
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
