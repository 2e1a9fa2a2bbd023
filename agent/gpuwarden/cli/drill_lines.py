"""Kernel-log lines for drills: what the driver would have written, and the way into /dev/kmsg.

A line written there by a process carries facility user, never kernel: gpuwarden takes it for a drill.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gpuwarden.cli.client import Daemon
from gpuwarden.errors import DaemonUnreachableError, InputError
from gpuwarden.model.kernel_log import parse_line

KMSG = Path("/dev/kmsg")
_DEFAULT_CODES = {"xid": 79, "sxid": 20_034}
LINES: dict[str, str] = {  # fault -> its line; `bdf` has no function
    "xid": "NVRM: Xid (PCI:{bdf}): {code}, pid='<unknown>', name=<unknown>, gpuwarden drill",
    "sxid": "nvidia-nvswitch0: SXid (PCI:{bdf}): {code}, Non-fatal, Link 00 gpuwarden drill",
    "fallen_off_bus": "NVRM: GPU {bdf}.0: GPU has fallen off the bus.",
    "init_failed": "NVRM: GPU {bdf}.0: RmInitAdapter failed! (0x22:0x56:894)",
    "aer": "nvidia {bdf}.0: AER: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer",
    "hung_task": "INFO: task gpuwarden-drill:1 blocked for more than 120 seconds.",
}


def line_of(name: str, bdf: str, options: dict[str, Any]) -> str:
    """Return the line of a fault. Raises: InputError for options that make no line the kernel could write."""
    code = options.get("code", _DEFAULT_CODES.get(name))
    if set(options) - {"code"} or (name not in _DEFAULT_CODES and options):
        known = "one option: code" if name in _DEFAULT_CODES else "no options"
        raise InputError(f"in the kernel log, {name} has {known}")
    line = LINES[name].format(bdf=bdf, code=code)
    if parse_line(line) is None:
        raise InputError(f"no kernel would write this: {line}")
    return line


def address_of(daemon: Daemon, gpu: int | None, pci: str | None) -> str:
    """Return the address the line names, without function: as given, of the daemon's GPU, or of the n-th on the bus.

    Raises: InputError where none of them says.
    """
    if pci is not None:
        return _without_function(pci)
    if gpu is None:
        raise InputError("which GPU? Give --gpu N, or an address with --pci 0000:3b:00.0.")
    try:
        known = {each["gpu"]: each["pci_bus_id"] for each in daemon.get("status")["gpus"]}
    except DaemonUnreachableError:
        from gpuwarden.collectors.pci import scan

        known = dict(enumerate(device.bdf for device in scan(Path("/sys")).devices))
    if gpu not in known:
        there = ", ".join(f"{index} ({bdf})" for index, bdf in sorted(known.items())) or "none"
        raise InputError(f"no GPU {gpu} on this host; there is: {there}\nAn address can be given with --pci BDF.")
    return _without_function(known[gpu])


def _without_function(bdf: str) -> str:
    head, dot, _ = bdf.lower().rpartition(".")
    return head if dot else bdf.lower()


def write(line: str, path: Path = KMSG) -> None:
    """Write one line as a warning of facility user. Raises: InputError where the log does not take it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"<4>{line}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        hint = "; try sudo" if isinstance(error, PermissionError) else ""
        raise InputError(f"cannot write {path}: {error.strerror or error}{hint}") from error
