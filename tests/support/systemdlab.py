"""A real systemd in namespaces of its own, with the product installed as README says, for tests of the unit.

Needs root, unshare, a cgroup2 mount and systemd. The host sees one more process tree; `stop` takes all of it away.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from support.daemonproc import wait_for

CHECKOUT = Path(__file__).parents[2]
BOOT = Path(__file__).parent / "boot-systemd.sh"
VENV = "/opt/gpuwarden"
_UP = ("running", "degraded")


class SystemdLab:
    """One boot. `directory` holds its overlay and `share`, which is /mnt/share inside."""

    def __init__(self, directory: Path) -> None:
        self.share = directory / "share"
        self._directory = directory
        self._outer: subprocess.Popen[bytes] | None = None
        self._init = 0

    def start(self) -> SystemdLab:
        """Boot, and wait until systemd says that it is up."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "console.log").open("wb") as console:
            boot = [BOOT, self._directory]
            self._outer = subprocess.Popen(boot, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        self._init = wait_for(self._pid_of_init, 10, f"systemd as PID 1: {self._directory}/console.log")
        wait_for(lambda: self.out("systemctl", "is-system-running") in _UP, 20, "a running system")
        return self

    def _pid_of_init(self) -> int:
        assert self._outer is not None
        assert self._outer.poll() is None, (self._directory / "console.log").read_text()
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        with contextlib.suppress(IndexError, OSError):
            if Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
                return int(children[0])
        return 0

    def run(self, *command: str, within: float = 30.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root."""
        inside = ["nsenter", "--target", str(self._init), "--all", "--root", "--wd", "--", *command]
        return subprocess.run(inside, capture_output=True, text=True, timeout=within, check=check, cwd="/")

    def out(self, *command: str) -> str:
        """Return what a command inside says, also where it fails."""
        return self.run(*command, check=False).stdout.strip()

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command inside and leave it running; its stdout is a pipe."""
        inside = ["nsenter", "--target", str(self._init), "--all", "--root", "--wd", "--", *command]
        return subprocess.Popen(inside, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd="/")

    def write(self, path: str, text: str) -> None:
        """Write a file inside."""
        inside = ["nsenter", "--target", str(self._init), "--all", "--root", "--wd", "--", "tee", path]
        subprocess.run(inside, input=text.encode(), stdout=subprocess.DEVNULL, check=True, timeout=10, cwd="/")

    def property(self, name: str, unit: str = "gpuwarden") -> str:
        """Return one property of a unit."""
        return self.out("systemctl", "show", "--property", name, "--value", unit)

    def log(self, unit: str = "gpuwarden") -> str:
        """Return what a unit, and systemd about it, said in this boot."""
        return self.out("journalctl", "--quiet", "--output", "cat", "--unit", unit)

    def stop(self) -> None:
        """End the boot and everything in it."""
        if self._outer is None:
            return
        for pid in (self._init, self._outer.pid):
            if pid:
                subprocess.run(["kill", "-KILL", str(pid)], check=False, stderr=subprocess.DEVNULL)
        self._outer.wait(10)
        group = Path((self._directory / "cgroup").read_text().strip())
        deadline = time.monotonic() + 5
        while group.is_dir() and time.monotonic() < deadline:
            for below in sorted(group.rglob("*"), reverse=True):
                if below.is_dir():
                    with contextlib.suppress(OSError):
                        below.rmdir()
            with contextlib.suppress(OSError):
                group.rmdir()
            time.sleep(0.02)  # the kernel empties the group as its processes end

    # ---- the product

    def install(self) -> None:
        """Install wheel and unit from the checkout: for every user, with nothing but its run-time dependencies."""
        site = f"{VENV}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        _lay_out(self.share / "site")
        self.run(str(Path(sys.executable).resolve()), "-m", "venv", "--without-pip", VENV)
        self.run("cp", "-r", "/mnt/share/site/.", site)
        self.write(f"{VENV}/bin/gpuwarden", f"#!{VENV}/bin/python\nfrom gpuwarden.cli import main\n\nmain()\n")
        self.run("chmod", "0755", f"{VENV}/bin/gpuwarden")
        self.run("ln", "-s", f"{VENV}/bin/gpuwarden", "/usr/bin/gpuwarden")
        for name, target in (
            ("gpuwarden.service", "/etc/systemd/system/gpuwarden.service"),
            ("gpuwarden-actuator.service", "/etc/systemd/system/gpuwarden-actuator.service"),
            ("gpuwarden-actuator.socket", "/etc/systemd/system/gpuwarden-actuator.socket"),
            ("gpuwarden.sysusers", "/usr/lib/sysusers.d/gpuwarden.conf"),
            ("gpuwarden.tmpfiles", "/usr/lib/tmpfiles.d/gpuwarden.conf"),
        ):
            self.write(target, (CHECKOUT / "systemd" / name).read_text(encoding="utf-8"))
        self.run("systemd-sysusers")
        self.run("systemd-tmpfiles", "--create", "gpuwarden.conf")
        self.run("systemctl", "daemon-reload")


def _lay_out(site: Path) -> None:
    """Put a freshly built wheel and its run-time dependencies into a directory."""
    wheels = site.parent / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True, timeout=60)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    for name in sorted(_needed("gpuwarden") - {"gpuwarden"}):
        for file in importlib.metadata.distribution(name).files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), target)
    subprocess.run(["chmod", "-R", "a+rX", site], check=True)


def _needed(name: str) -> set[str]:
    """Return the names of a distribution and of all it needs to run, without extras."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        at = ahead.pop()
        if at in found:
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # for another Python or platform
            required = importlib.metadata.requires(at) or []
            found.add(at)
            ahead += [re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in required if "extra ==" not in line]
    return found
