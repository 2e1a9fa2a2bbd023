"""The ladder: what is done about each finding kind, how soon, and what comes when that did not help.

One row per kind; a kind without rungs is shown and paged, and left to people. Xid kinds without a row of their own
follow NVIDIA's immediate action for the code. Rows can be overridden in the configuration.
Sources: the Xid catalogue and its buckets, the driver's recovery action, NVIDIA's GPU memory error management.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from gpuwarden.model.case import ActionKind, Rung, Treatment, Urgency
from gpuwarden.model.finding import Incident
from gpuwarden.model.kinds import KINDS
from gpuwarden.model.severity import EventClass
from gpuwarden.model.xid import XIDS, Advice, xid_findings

_HOUR = 3600.0

RUNGS: dict[str, Rung] = {
    "mitigate": Rung(action=ActionKind.MITIGATE, proof_seconds=600.0, soak_seconds=0.0),
    "stop_workload": Rung(action=ActionKind.STOP_WORKLOAD, wait_seconds=600.0, deadline_seconds=120.0),
    "reset": Rung(action=ActionKind.RESET, wait_seconds=600.0, proof_seconds=180.0, deadline_seconds=300.0),
    "reboot": Rung(
        action=ActionKind.REBOOT, wait_seconds=_HOUR, proof_seconds=900.0, soak_seconds=300.0, deadline_seconds=1800.0
    ),
    "hold": Rung(action=None),
}
"""What a rung of that name is; `command:<name>` is made by `rung_of`."""


def rung_of(name: str) -> Rung:
    """Return the rung of a name as configuration writes it. Raises: KeyError for a name that is none."""
    kind, _, command = name.partition(":")
    if kind == "command" and command:
        return Rung(
            action=ActionKind.COMMAND, command=command, wait_seconds=_HOUR, proof_seconds=900.0, deadline_seconds=600.0
        )
    return RUNGS[name]


def treatment(urgency: Urgency, *names: str, patience: float = 0.0) -> Treatment:
    """Return a treatment of these rungs. One that does something ends with a person: `hold` is added where it lacks."""
    if names and names[-1] != "hold":
        names = (*names, "hold")
    return Treatment(urgency=urgency, rungs=tuple(rung_of(name) for name in names), patience_seconds=patience)


_NOTHING = Treatment()
_RESET_NOW = treatment(Urgency.NOW, "reset", "reboot")
_RESET_LATER = treatment(Urgency.JOB_END, "reset", "reboot")
_REBOOT_NOW = treatment(Urgency.NOW, "reboot")
_REBOOT_LATER = treatment(Urgency.JOB_END, "reboot")
_HOLD_NOW = treatment(Urgency.NOW, "hold")
_HOLD_LATER = treatment(Urgency.JOB_END, "hold")

_ROWS: dict[str, Treatment] = {
    "presence.gpu_lost": _REBOOT_NOW,
    "presence.gpu_missing": treatment(Urgency.NOW, "reboot", patience=60.0),
    "presence.gpu_needs_reset": _RESET_NOW,
    "presence.nvml_blocked": treatment(Urgency.NOW, "reboot", patience=300.0),  # most calls return after all
    "presence.recovery_action": _RESET_NOW,  # unless its value says otherwise: `treatment_of`
    "presence.init_failed": _REBOOT_NOW,
    "presence.library_mismatch": _REBOOT_LATER,
    "presence.irq_trouble": _REBOOT_NOW,
    "presence.insufficient_power": _HOLD_NOW,
    "presence.inforom_corrupt": _HOLD_LATER,
    "memory.ecc_uncorrected": _RESET_LATER,
    "memory.row_remap_pending": _RESET_LATER,
    "memory.retired_pages_pending": _RESET_LATER,
    "memory.row_remap_failed": _HOLD_LATER,
    "memory.retired_pages_limit": _HOLD_LATER,
    "memory.sram_threshold": _HOLD_LATER,
    "links.pcie_width": treatment(Urgency.JOB_END, "reset", "reboot", patience=600.0),
    "links.nvlink_down": treatment(Urgency.JOB_END, "reset", "reboot", patience=120.0),
    "xid.xid_54": _HOLD_NOW,  # a power cable
    "xid.xid_63": _RESET_LATER,
    "xid.xid_64": _RESET_LATER,
    "xid.xid_94": _RESET_LATER,
    "xid.xid_48": _RESET_NOW,
    "xid.xid_74": _RESET_LATER,
    "xid.xid_79": _REBOOT_NOW,
    "xid.xid_140": _RESET_NOW,
    "xid.xid_154": _NOTHING,  # presence.recovery_action says by value what is asked for
    "xid.xid_157": _HOLD_LATER,
    "xid.xid_161": _HOLD_LATER,
    "xid.sxid_fatal": _REBOOT_LATER,
}

_BY_ADVICE: dict[Advice, Treatment] = {
    Advice.RESET_GPU: _RESET_NOW,
    Advice.REBOOT_NODE: _REBOOT_NOW,
    Advice.WORKFLOW: _HOLD_LATER,
    Advice.CONTACT_SUPPORT: _HOLD_LATER,
    Advice.RESTART_APP: _NOTHING,
    Advice.IGNORE: _NOTHING,
}

RECOVERY: dict[int, Treatment] = {  # by NVML's recovery action; source: nvml.h, nvmlGpuRecoveryAction
    1: _RESET_NOW,
    2: _REBOOT_NOW,
    3: _HOLD_LATER,  # drain peer-to-peer: the driver looks again once that is done
    4: _RESET_LATER,
    5: _HOLD_LATER,  # the IMEX domain's owner acts
    6: _RESET_NOW,
    7: _REBOOT_NOW,
}


@cache
def ladder() -> Mapping[str, Treatment]:
    """Return the default treatment of every finding kind of the catalogue."""
    by_code = {
        found.kind: _BY_ADVICE[XIDS[found.code].action]
        for found in xid_findings()
        if found.code is not None and found.event_class is EventClass.RESET
    }
    return {name: _ROWS.get(name, by_code.get(name, _NOTHING)) for name in KINDS}


def treatment_of(incident: Incident, overrides: Mapping[str, Iterable[str]]) -> Treatment:
    """Return what is done about one incident: the operator's rungs for its kind, else the default row.

    Rungs for a kind that by default has none end nobody's work: they wait for it.
    `presence.recovery_action` follows the value the driver gives; one that this release does not know is not guessed
    at: a person decides.
    """
    default = ladder().get(incident.kind, _NOTHING)
    if incident.kind in overrides:
        urgency = default.urgency if default.rungs else Urgency.JOB_END
        return treatment(urgency, *overrides[incident.kind], patience=default.patience_seconds)
    if incident.kind != "presence.recovery_action":
        return default
    value = incident.evidence.get("value")
    return RECOVERY.get(value, _HOLD_NOW) if isinstance(value, int) else _HOLD_NOW


_URGENCIES = tuple(Urgency)
_STRICTNESS = (
    ActionKind.MITIGATE,
    ActionKind.STOP_WORKLOAD,
    ActionKind.COMMAND,
    ActionKind.RESET,
    ActionKind.REBOOT,
    None,
)


def strictness(found: Treatment) -> tuple[int, int]:
    """Return a key by which the stricter of two treatments is the greater: the more urgent, then the heavier."""
    if not found.rungs:
        return (-1, -1)
    return (-_URGENCIES.index(found.urgency) + len(_URGENCIES), _STRICTNESS.index(found.rungs[0].action))


def climbed(found: Treatment, made: Iterable[str]) -> int:
    """Return the rung to begin at when these actions were begun on this GPU lately: the one above the highest of them.

    `made` are rung names. What was tried and came back is not tried again from the bottom.
    """
    names = [rung.name for rung in found.rungs]
    tried = [names.index(name) for name in made if name in names]
    return min(max(tried) + 1, len(names) - 1) if tried else 0
