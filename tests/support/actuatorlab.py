"""A host laid out for the actuator: GPUs in sysfs and under /proc/driver, programs on its PATH, actions.d, a socket.

Programs are shell scripts that write down how they were called. Processes are real ones: they hold a file that stands
for a GPU's device node.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from gpuwarden.actuators.remote import Remote
from gpuwarden.actuators.site import Place, Site
from gpuwarden.config import Actions, Config
from gpuwarden.model.case import ActionKind, Intent
from gpuwarden.timebase import Clock
from support.daemonproc import wait_for

ALL_ENFORCED = Actions(**dict.fromkeys(Actions.__struct_fields__, "enforce"))

MARK = "gpuwarden c1 xid.xid_79 gpu0"


def bdf(number: int) -> str:
    return f"0000:{number + 1:02x}:00.0"


def uuid(number: int) -> str:
    return f"GPU-0000000{number}-0000-0000-0000-000000000000"


class Lab:
    """One host. `calls` is what its programs were called with, in order."""

    def __init__(self, root: Path, *, gpus: int = 2) -> None:
        self.root = root
        self.bin, self.actions = root / "bin", root / "actions.d"
        for folder in (self.bin, self.actions, root / "dev", root / "state", root / "sys" / "bus/pci/devices"):
            folder.mkdir(parents=True)
        (root / "state").chmod(0o700)
        self.actions.chmod(0o755)
        config = Config()
        self.config = replace(
            config,
            mode="enforce",
            actions=ALL_ENFORCED,
            guards=replace(config.guards, stop_paths=(str(root / "stop"),), min_uptime_before_reboot_seconds=0.0),
            budget=replace(config.budget, per_gpu_actions_per_day=50, per_host_reboots_per_day=50),
            actuator=replace(config.actuator, socket=str(root / "a.sock"), path=f"{self.bin}:/usr/bin:/bin"),
        )
        for number in range(gpus):
            self.gpu(number)

    @property
    def site(self) -> Site:
        root = str(self.root)
        place = Place(
            sysfs=f"{root}/sys", driver=f"{root}/driver", dev=f"{root}/dev", state_dir=f"{root}/state",
            actions_dir=str(self.actions), owner_uid=os.geteuid(),
        )  # fmt: skip
        return Site(config=self.config, place=place)

    def gpu(self, number: int, *, vendor: str = "0x10de", driver: str = "nvidia") -> Path:
        """Lay out a GPU and return its folder in sysfs."""
        folder = self.root / "sys/bus/pci/devices" / bdf(number)
        folder.mkdir()
        for name, text in (("vendor", vendor), ("class", "0x030200"), ("config", "\xde\x10\x84\x26")):
            (folder / name).write_text(text, encoding="latin-1")
        if driver:
            (folder / "driver").symlink_to(f"../../drivers/{driver}")
        says = self.root / "driver/nvidia/gpus" / bdf(number) / "information"
        says.parent.mkdir(parents=True)
        says.write_text(f"Model: \t\t NVIDIA A100\nGPU UUID: \t {uuid(number)}\nDevice Minor: \t {number}\n")
        (self.root / "dev" / f"nvidia{number}").touch()
        return folder

    def program(self, name: str, body: str = "", *, folder: Path | None = None) -> None:
        """Put a program on the PATH (or into `folder`) that writes down its call and then runs `body`."""
        path = (folder or self.bin) / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {self.root}/calls\n{body}\n')
        path.chmod(0o755)

    def action(self, name: str, body: str = "") -> None:
        """Put an executable into actions.d."""
        self.program(name, body, folder=self.actions)

    def calls(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.root / "calls").read_text().splitlines()
        return []

    @contextlib.contextmanager
    def holder(self, number: int, *, trap: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """Have a process hold a GPU's device until the end of the block, or its own."""
        device = self.root / "dev" / f"nvidia{number}"
        script = f"exec 9<{device}; trap '{trap}' TERM; echo; " if trap else f"exec 9<{device}; echo; "
        body = "while :; do read -t 60 <> <(:); done" if trap else "exec sleep 60"
        process = subprocess.Popen(
            ["/bin/bash", "-c", script + body], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait(5)

    def intent(self, action: ActionKind, number: int | None = 0, **changes: object) -> Intent:
        """Return an intent made now, about a GPU or the host."""
        gpu = {} if number is None else {"uuid": uuid(number), "bdf": bdf(number)}
        fields = (
            {"id": f"c1/0.0.0/{action.value}", "case": "c1", "mark": "gpuwarden c1 xid.xid_79 gpu0"} | gpu | changes
        )
        return Intent(action=action, made=Clock(None)(), **{"deadline_seconds": 10.0, **fields})


class Actuator:
    """The actuator of a lab as a process, and a client of it."""

    def __init__(self, lab: Lab, *, idle_seconds: float | None = None) -> None:
        self.lab = lab
        self._idle = () if idle_seconds is None else (str(idle_seconds),)
        self.remote = Remote(Path(lab.config.actuator.socket))
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Write down what the process needs to know, and return how it is started."""
        site = self.lab.root / "site"
        site.write_bytes(msgspec.msgpack.encode(self.lab.site))
        return [sys.executable, str(Path(__file__).parent / "actuatorproc.py"), str(site), *self._idle]

    def start(self) -> Actuator:
        with (self.lab.root / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stderr=log, start_new_session=True)
        wait_for(self._up, 10, "an actuator that listens")
        return self

    def _up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with socket.socket(socket.AF_UNIX) as door, contextlib.suppress(OSError):
            door.connect(self.lab.config.actuator.socket)
            return True
        return False

    def log(self) -> str:
        return (self.lab.root / "log").read_text()

    def kill(self) -> None:
        """End it at once, with its children, as systemd or the end of power does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(5)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
