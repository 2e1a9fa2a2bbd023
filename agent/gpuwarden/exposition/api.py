"""The node's state as JSON-able data: what `/api/v1/status` answers, the page shows and `gpuwarden status` prints."""

from __future__ import annotations

from typing import Any

from gpuwarden.exposition.cases import cases, remedy
from gpuwarden.exposition.gpu_rows import SHOWN, reading_status
from gpuwarden.exposition.native import Extras, finite
from gpuwarden.model.finding import Incident
from gpuwarden.model.gpu import (
    CLOCKS_EVENT_REASONS,
    READINGS,
    RECOVERY_ACTIONS,
    UNKNOWN_RECOVERY_ACTION,
    Missing,
    Value,
)
from gpuwarden.model.mig import MIG_READINGS, MigInstance
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.workload import Holder

JsonObject = dict[str, Any]

_UNITS = ("celsius", "watts", "joules", "hertz", "ratio", "rpm", "bytes", "lanes", "seconds")


def unit_of(field: str) -> str:
    """Return the unit a reading's name carries; "" for counts, modes and states."""
    if field.endswith("_bytes_per_second"):
        return "bytes_per_second"
    return next((unit for unit in _UNITS if field.endswith(f"_{unit}")), "")


def status(node: NodeState, extras: Extras) -> JsonObject:
    """Return everything known about the node. Times are Unix seconds; an absent value is null, with its reason."""
    return {
        "host": {
            "name": extras.hostname,
            "labels": extras.labels,
            "boot_id": node.now.boot_id,
            "version": extras.version,
            "started": node.started.wall,
            "time": node.now.wall,
        },
        "mode": extras.mode,
        "health": node.health.value,
        "drill": node.drill,
        "nvml": {
            "state": node.nvml.state.value,
            "since": node.now.wall - max(0.0, node.now.boottime - node.nvml.since),
            "detail": node.nvml.detail,
            "driver": node.nvml.driver,
            "nvml": node.nvml.nvml,
            "cuda": node.nvml.cuda,
            "gpus": node.nvml.count,
            "worker_restarts": dict(sorted(node.nvml.restarts.items())),
        },
        "kmsg": {
            "up": node.kmsg_up,
            "detail": node.kmsg_detail,
            "records": node.kmsg_records,
            "records_lost": node.kmsg_lost,
        },
        "journal": {
            "writable": node.journal_writable,
            "detail": node.journal_detail,
            "bytes": node.journal_bytes,
            "write_errors": node.journal_write_errors,
        },
        "findings": [finding(node, each) for each in node.incidents.values() if each.uuid is None],
        "cases": cases(node),
        "remedy": remedy(node),
        "gpus": [gpu_status(node, gpu) for gpu in node.gpus.values()],
    }


def gpu_status(node: NodeState, gpu: GpuState) -> JsonObject:
    """Return one GPU: identity, presence, readings and findings."""
    known = gpu.identity
    return {
        "gpu": gpu.index,
        "uuid": known.uuid,
        "name": known.name,
        "health": gpu.health.value,
        "presence": gpu.presence.value,
        "pci_bus_id": known.bdf,
        "serial": known.serial,
        "vbios": known.vbios,
        "minor": known.minor,
        "board": known.board,
        "slot": known.slot or (gpu.pci.slot if gpu.pci else ""),
        "first_seen": gpu.first_seen,
        "last_seen": gpu.last_seen,
        "last_sample": gpu.last_sample,
        "blocked_call": gpu.blocked_call,
        "blocked_seconds": None if gpu.blocked_since is None else max(0.0, node.now.boottime - gpu.blocked_since),
        "readings": {field: _reading(gpu, field) for field in READINGS},
        "mig": [_instance(each) for each in gpu.mig] if gpu.presence in SHOWN else [],
        "clocks_event_reasons": _reasons(gpu),
        "recovery_action": _recovery_action(gpu),
        "workloads": None if gpu.held.workloads is None else [_holder(holder) for holder in gpu.held.holders],
        "xids": [
            {"xid": each.xid, "source": each.source, "total": each.total, "last": each.last or None}
            for each in gpu.xids
        ],
        "findings": [finding(node, each) for each in node.incidents.values() if each.uuid == known.uuid],
    }


def _instance(instance: MigInstance) -> JsonObject:
    return {
        "gi": instance.gi,
        "ci": instance.ci,
        "uuid": instance.uuid,
        "profile": instance.profile,
        "placement": instance.placement,
        "readings": {
            field: {
                "value": _plain(value := instance.readings.value(field)),
                "unit": unit_of(field),
                "status": value.value if isinstance(value, Missing) else "ok",
            }
            for field in MIG_READINGS
        },
    }


def _holder(holder: Holder) -> JsonObject:
    owner = holder.owner
    return {
        "source": owner.source.value,
        "workload": owner.workload,
        "namespace": owner.namespace,
        "pod": owner.pod,
        "container": owner.container,
        "job": owner.job,
        "user": owner.user,
        "processes": holder.processes,
        "used_bytes": holder.used_bytes,
    }


def _plain(value: Value) -> float | list[float | None] | None:
    return [finite(item) for item in value] if isinstance(value, tuple) else finite(value)


def _reading(gpu: GpuState, field: str) -> JsonObject:
    value: Value = getattr(gpu.readings, field)
    shown = gpu.presence in SHOWN
    why = reading_status(gpu, field)
    if value is Missing.NOT_SUPPORTED:
        why = Missing.NOT_SUPPORTED
    elif why is None and not shown:
        why = Missing.UNKNOWN
    return {
        "value": _plain(value) if shown else None,
        "unit": unit_of(field),
        "status": "ok" if why is None else why.value,
    }


def _reasons(gpu: GpuState) -> list[str] | None:
    mask = gpu.readings.clocks_event_reasons
    if isinstance(mask, Missing) or gpu.presence not in SHOWN:
        return None
    return [name for bit, name in CLOCKS_EVENT_REASONS.items() if int(mask) & bit]


def _recovery_action(gpu: GpuState) -> str | None:
    action = gpu.readings.recovery_action
    if isinstance(action, Missing) or gpu.presence not in SHOWN:
        return None
    return RECOVERY_ACTIONS.get(int(action), UNKNOWN_RECOVERY_ACTION)


def finding(node: NodeState, incident: Incident) -> JsonObject:
    """Return one open incident."""
    gpu = node.gpus.get(incident.uuid or "")
    return {
        "id": incident.id,
        "kind": incident.kind,
        "severity": incident.severity.value,
        "gpu": gpu.index if gpu else None,
        "uuid": incident.uuid,
        "opened": incident.opened.wall,
        "last_seen": incident.last_seen.wall,
        "count": incident.count,
        "latched": incident.latched,
        "drill": incident.drill,
        "evidence": incident.evidence,
    }
