"""What /proc says about single processes: whether it is one and the same, its command, its user, its cgroup.

Reads only files that answer without taking a lock of the process: a task that hangs in the driver hangs nobody here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO. Source: linux/proc_ns.h, part of the kernel's ABI
_LONGEST_FILE_BYTES = 65536
_START_FIELD = 19  # of those behind the command: field 22 of proc_pid_stat(5)


class ProcessFacts(NamedTuple):
    """One process as /proc shows it. `started_seconds` is boot time, `uid` the effective user."""

    pid: int
    started_seconds: float
    command: str
    uid: int
    cgroup: str


def why_blind(proc: Path) -> str:
    """Return why the host's processes are not all shown to us, "" where they are.

    NVML names processes by the host's pids: in another pid namespace the same numbers are other processes.
    """
    try:
        namespace = os.readlink(proc / "self" / "ns" / "pid")  # noqa: PTH115 - no Path of it is wanted
    except OSError as error:
        return f"{proc}/self/ns/pid: {error.strerror}"
    if namespace != _INITIAL_PID_NAMESPACE:
        return "this is not the host's pid namespace"
    if not (proc / "1" / "stat").exists():
        return f"{proc} hides the processes of others (hidepid)"
    return ""


def process(proc: Path, pid: int) -> ProcessFacts | None:
    """Return one process, None where there is none, or where its number changed hands while it was looked at."""
    folder = proc / str(pid)
    before = _stat(folder)
    if before is None:
        return None
    uid, cgroup = _uid(folder), _text(folder / "cgroup")
    if uid is None or cgroup is None or _stat(folder) != before:
        return None
    command, started = before
    return ProcessFacts(pid, started, command, uid, cgroup)


def _stat(folder: Path) -> tuple[str, float] | None:
    """Return (command, boot time of its start). The command may hold blanks and brackets; it ends at the last one."""
    text = _text(folder / "stat")
    if text is None:
        return None
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    try:
        return head.partition("(")[2], int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (IndexError, ValueError):
        return None


def _uid(folder: Path) -> int | None:
    for line in (_text(folder / "status") or "").splitlines():
        if line.startswith("Uid:"):
            numbers = line.split()[1:]
            return int(numbers[1]) if len(numbers) > 1 and numbers[1].isdecimal() else None
    return None


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_FILE_BYTES).decode("utf-8", "replace")
    except OSError:  # ended, or ESRCH while it was read
        return None
