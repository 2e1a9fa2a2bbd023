"""From what is known about a node to one verdict: ok, warning, critical or unknown, with the reasons for it. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import msgspec

_NOT_WATCHED = "bound_elsewhere"  # a GPU that was given to another driver on purpose

_NVML_SAID = {
    "no_driver": "no NVIDIA driver answers",
    "library_mismatch": "the NVML library and the loaded driver are of different versions",
    "access_lost": "the driver refuses this user",
    "starting": "NVML has not answered yet",
    "crashed": "the process that talks to the driver crashed",
}

_NVML_REMEDY = {
    "no_driver": "Install or load the NVIDIA driver; in a container, start it with the GPUs (--gpus all).",
    "library_mismatch": "Reload the driver or reboot, so that the new version runs.",
    "access_lost": "Add this user to the group of /dev/nvidia*; in a container, start it anew with the GPUs.",
}


class Verdict(enum.IntEnum):
    """The verdict; the numbers are exit codes and part of the contract."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why the verdict is not ok, or what is worth knowing (`severity` info). `gpu` None: the host."""

    severity: str  # critical, unknown, warning, info
    kind: str
    gpu: int | None = None
    uuid: str | None = None
    text: str = ""
    evidence: dict[str, Any] = {}
    drill: bool = False


_OF_SEVERITY = {"critical": Verdict.CRITICAL, "unknown": Verdict.UNKNOWN, "warning": Verdict.WARNING}
_WORST_FIRST = ("critical", "unknown", "warning", "info")


def verdict_of(reasons: tuple[Reason, ...]) -> Verdict:
    """Return the verdict: what is known to be critical counts most, then what is not known.

    A drill counts like the real thing: it is there to show who is told what.
    """
    found = {_OF_SEVERITY.get(each.severity, Verdict.OK) for each in reasons}
    order = (Verdict.CRITICAL, Verdict.UNKNOWN, Verdict.WARNING)
    return next((each for each in order if each in found), Verdict.OK)


def reasons_of(status: dict[str, Any], expected_gpus: int | None = None, late: str = "") -> tuple[Reason, ...]:
    """Return what speaks against ok in an answer of /api/v1/status, the worst first.

    `expected_gpus` is how many have to answer; `late` says what was not read in time.
    """
    found = [*_findings(status), *_expected(status, expected_gpus), *_unknown(status)]
    if late:
        found.append(Reason(severity="unknown", kind="timed_out", text=late))
    return tuple(sorted(found, key=lambda each: _WORST_FIRST.index(each.severity)))


def _findings(status: dict[str, Any]) -> Iterator[Reason]:
    """Yield every open finding."""
    for each in [*status["findings"], *(found for gpu in status["gpus"] for found in gpu["findings"])]:
        yield Reason(
            severity=each["severity"],
            kind=each["kind"],
            gpu=each["gpu"],
            uuid=each["uuid"],
            evidence=each["evidence"],
            drill=each["drill"],
        )


def _expected(status: dict[str, Any], expected_gpus: int | None) -> Iterator[Reason]:
    """Yield one reason where fewer GPUs answer than were asked for."""
    answering = sum(gpu["presence"] == "answering" for gpu in status["gpus"])
    if expected_gpus is not None and answering < expected_gpus:
        yield Reason(
            severity="critical",
            kind="expected_gpus",
            text=f"{expected_gpus} GPUs are expected, {answering} answer",
            evidence={"expected_gpus": expected_gpus, "answering_gpus": answering},
        )


def _unknown(status: dict[str, Any]) -> Iterator[Reason]:
    """Yield what is not known: no NVML session, a GPU without a verdict of its own."""
    nvml = status["nvml"]
    if nvml["state"] != "up" and not any(each["severity"] == "critical" for each in status["findings"]):
        detail = f" ({nvml['detail']})" if nvml["detail"] else ""
        said = _NVML_SAID.get(nvml["state"], f"NVML is {nvml['state'].replace('_', ' ')}")
        yield Reason(severity="unknown", kind="nvml", text=f"{said}{detail}")
    elif nvml["state"] == "up" and not status["gpus"]:
        yield Reason(severity="unknown", kind="no_gpus", text="NVML answers and shows no GPU")
    for gpu in status["gpus"]:
        if gpu["health"] == "unknown" and gpu["presence"] != _NOT_WATCHED:
            yield Reason(
                severity="unknown",
                kind="health_unknown",
                gpu=gpu["gpu"],
                uuid=gpu["uuid"],
                text=f"its health is not known: it is {gpu['presence'].replace('_', ' ')}",
            )


def nvml_blind(status: dict[str, Any]) -> tuple[str, ...]:
    """Return a line about a driver that gives no readings, and what allows them."""
    remedy = _NVML_REMEDY.get(status["nvml"]["state"])
    return (f"No GPU readings: {_NVML_SAID[status['nvml']['state']]}. {remedy}",) if remedy else ()


def refused_readings(status: dict[str, Any]) -> tuple[str, ...]:
    """Return the readings that the driver refuses this user, on any GPU."""
    refused = {
        name
        for gpu in status["gpus"]
        for name, reading in gpu["readings"].items()
        if reading["status"] == "no_permission"
    }
    return tuple(sorted(refused))
