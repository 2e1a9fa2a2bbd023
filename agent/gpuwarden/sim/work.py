"""Whose work the simulated cards do: the processes behind it, and what /proc says of each."""

from __future__ import annotations

import os
from typing import NamedTuple

from gpuwarden.sim.card import Card

_UID = 65534  # `nobody` everywhere
USER = "nobody"
_FIRST_PID, _PIDS_PER_CARD, _FIRST_JOB = 20000, 10, 4200
_STARTED_SECONDS = 1.0
_CONTAINER = "c0ffee{slot:02x}" * 8
_POD = "5eed0000-0000-4000-8000-0000000000{slot:02x}"
_CGROUPS = {  # the forms that schedulers give the groups of their processes
    "slurm": "/system.slice/slurmstepd.scope/job_{job}/step_0/user/task_0",
    "kubernetes": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod}.slice"
    "/cri-containerd-{container}.scope",
    "systemd": "/system.slice/rig@{slot}.service",
    "docker": "/system.slice/docker-{container}.scope",
    "process": "/user.slice/user-1000.slice/session-3.scope",
}
OWNERS = tuple(_CGROUPS)


class Process(NamedTuple):
    """One process on a card."""

    pid: int
    used_bytes: int
    graphics: bool
    command: str
    cgroup: str


def used_bytes(card: Card) -> int:
    """Return the memory in use on a card, whoever holds it."""
    if card.knobs.left_bytes:
        return card.knobs.left_bytes
    return 0 if card.knobs.ghost else round(card.share("memory_used_bytes"))


def processes_of(card: Card) -> tuple[Process, ...]:
    """Return the processes that the driver lists on a card: one while it has work, else its desktop if any."""
    knobs, pid = card.knobs, _FIRST_PID + _PIDS_PER_CARD * card.slot
    if knobs.ghost or (knobs.left_bytes and not knobs.left_listed):
        return ()
    if not knobs.left_bytes and (used_bytes(card) <= 0 or card.point is card.product.points["idle"]):
        desktop = Process(pid, used_bytes(card), True, "Xorg", _CGROUPS["process"])
        return (desktop,) if card.product.desktop else ()
    owner = knobs.owner or ("slurm" if card.product.serials else "systemd")
    slot = card.slot
    cgroup = _CGROUPS[owner].format(
        slot=slot,
        job=_FIRST_JOB + slot,
        pod=_POD.format(slot=slot).replace("-", "_"),
        container=_CONTAINER.format(slot=slot),
    )
    return (Process(pid, used_bytes(card), knobs.left_listed, "train" if owner == "slurm" else "worker", cgroup),)


def proc_files(process: Process) -> dict[str, str]:
    """Return the files of one process by name, in the form of proc(5)."""
    started = round(_STARTED_SECONDS * os.sysconf("SC_CLK_TCK"))
    between = " ".join(["0"] * 18)
    return {
        "stat": f"{process.pid} ({process.command}) S {between} {started} 0\n",
        "status": f"Name:\t{process.command}\nUid:\t{_UID}\t{_UID}\t{_UID}\t{_UID}\n",
        "cgroup": f"0::{process.cgroup}\n",
    }
