"""Who holds each GPU's device open, from /proc: the processes that a reset would be refused for or would end.

Not counted as work: our own NVML worker, the driver's persistence daemon, and what runs in `[actuator] pause_units`,
which are stopped for a reset. Kernel clients (display, peer memory) do not show here.
"""

from __future__ import annotations

import contextlib
import enum
import pwd
import re
from pathlib import Path
from typing import NamedTuple

from gpuwarden.actuators.eyes import minors, text_of
from gpuwarden.actuators.site import Site

WORKER_MODULE = "gpuwarden.nvml.worker"
_PERSISTENCE = "nvidia-persiste"  # the kernel keeps 15 letters of nvidia-persistenced
_SCHEDULERS = (("slurm", re.compile(r"slurm")), ("kubernetes", re.compile(r"kubepods")))


class Role(enum.Enum):
    """Why a process holds a GPU."""

    WORK = "work"
    OUR_WORKER = "our worker"
    PERSISTENCE = "persistence daemon"
    PAUSED_UNIT = "a unit that is paused for a reset"


class Holder(NamedTuple):
    """A process that has the device of a GPU open. `start_ticks` tells it from a later one of its number."""

    pid: int
    start_ticks: int
    comm: str
    uid: int
    role: Role
    scheduler: str  # that owns it, "" for none

    def __str__(self) -> str:
        """Return it as people look for it."""
        return f"{self.comm}[{self.pid}]"


class Holdings(NamedTuple):
    """Holders by a GPU's address. `complete` False: there may be others, which could not be looked at."""

    by_bdf: dict[str, list[Holder]]
    complete: bool

    def working(self, bdf: str) -> list[Holder]:
        """Return those of a GPU that are work."""
        return [holder for holder in self.by_bdf.get(bdf, []) if holder.role is Role.WORK]


def holdings(site: Site) -> Holdings:
    """Return who holds which GPU. A process that ends meanwhile holds nothing."""
    numbers = {f"{site.place.dev}/nvidia{minor}": bdf for bdf, minor in minors(site.place).items()}
    found: dict[str, list[Holder]] = {bdf: [] for bdf in numbers.values()}
    ours = service_uids(site)
    complete = True
    for folder in Path(site.place.proc).iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            open_ones = {numbers[target] for target in _targets(folder) if target in numbers}
        except PermissionError:
            complete = complete and folder.name == "1"  # init is nobody's work, and may be closed to us in a sandbox
            continue
        if open_ones and (holder := _holder(site, folder, ours)) is not None:
            for bdf in sorted(open_ones):
                found[bdf].append(holder)
    for each in found.values():
        each.sort(key=lambda holder: holder.pid)
    return Holdings(found, complete)


def service_uids(site: Site) -> frozenset[int]:
    """Return the users whose NVML worker is ours: root, and the service's own."""
    try:
        return frozenset({0, site.place.owner_uid, pwd.getpwnam(site.config.actuator.user).pw_uid})
    except KeyError:
        return frozenset({0, site.place.owner_uid})


def start_ticks(proc: Path) -> int | None:
    """Return when a process began, in clock ticks since boot: with its number, what it is. None when it is gone."""
    _, _, rest = text_of(proc / "stat").rpartition(")")
    fields = rest.split()
    return int(fields[19]) if len(fields) > 19 else None


def _targets(folder: Path) -> list[str]:
    """Return what a process has open. Raises: PermissionError where it may not be looked at."""
    found: list[str] = []
    try:
        for link in (folder / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(link.readlink()))
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return found
    return found


def _holder(site: Site, folder: Path, ours: frozenset[int]) -> Holder | None:
    ticks = start_ticks(folder)
    try:
        uid = folder.stat().st_uid
    except OSError:
        return None
    if ticks is None:
        return None
    comm, group = text_of(folder / "comm"), text_of(folder / "cgroup")
    scheduler = next((name for name, mark in _SCHEDULERS if mark.search(group)), "")
    if uid in ours and f"\0{WORKER_MODULE}\0" in text_of(folder / "cmdline") + "\0":
        role = Role.OUR_WORKER
    else:
        role = _role(site, comm, group)
    return Holder(int(folder.name), ticks, comm, uid, role, scheduler)


def _role(site: Site, comm: str, group: str) -> Role:
    if comm == _PERSISTENCE and f"/{_PERSISTENCE}nced.service" in group:
        return Role.PERSISTENCE
    paused = any(part in site.config.actuator.pause_units for part in re.split(r"[/\n]", group))
    return Role.PAUSED_UNIT if paused else Role.WORK
