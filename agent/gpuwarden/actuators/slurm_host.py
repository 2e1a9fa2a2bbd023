"""Whether a node of Slurm's is this host: by its host name and by when it booted, both read anew each time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gpuwarden.actuators.site import Site
from gpuwarden.actuators.slurm_words import SlurmNode

BOOT_TOLERANCE_SECONDS = 120.0


class Doubt(NamedTuple):
    """Whether the node is this host, and why not. None: it cannot be told now, and may be later."""

    identity: bool | None
    why: str = ""


class ThisHost:
    """This host, as the kernel tells it, and the name under which Slurm should know it."""

    def __init__(self, site: Site) -> None:
        self._proc = Path(site.place.proc)
        self._configured = site.config.isolation.node_name

    def node_name(self) -> str:
        """Return the name of this host's node: as configured, or the host's own without its domain."""
        return self._hostname().partition(".")[0] if self._configured == "auto" else self._configured

    def doubt(self, node: SlurmNode) -> Doubt:
        """Return whether a node is this host. Source: scontrol(1), NodeHostName and BootTime."""
        ours = self._hostname()
        if not _same_host(node.hostname, ours):
            return Doubt(False, f"node {node.name} is on {node.hostname or 'no host'}, this is {ours}")
        if node.boot_time is None:
            return Doubt(None, f"Slurm does not know when node {node.name} booted")
        apart = abs(node.boot_time - self._boot_time())
        if apart > BOOT_TOLERANCE_SECONDS:
            return Doubt(False, f"node {node.name} booted {apart:.0f} s apart from this host")
        return Doubt(True)

    def gpus_by_minor(self) -> tuple[str, ...]:
        """Return the BDFs of this host's GPUs in the order of /dev/nvidia<minor>; none where a minor is not known."""
        minors: dict[int, str] = {}
        for path in self._proc.glob("driver/nvidia/gpus/*/information"):
            lines = path.read_text("utf-8", "replace").splitlines()
            told = next((line.partition(":")[2].strip() for line in lines if line.startswith("Device Minor")), "")
            if not told.isdecimal():
                return ()
            minors[int(told)] = path.parent.name.lower()
        return tuple(minors[minor] for minor in sorted(minors))

    def _hostname(self) -> str:
        return (self._proc / "sys/kernel/hostname").read_text("utf-8").strip()

    def _boot_time(self) -> float:
        """Return when this host booted, as Unix time. Source: proc_stat(5), btime."""
        lines = (self._proc / "stat").read_text("utf-8").splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("btime ")))


def _same_host(one: str, other: str) -> bool:
    """Return whether two host names are of one host: equal, or equal but for the domain that one of them lacks."""
    one, other = one.lower(), other.lower()
    if not one or not other:
        return False
    short = "." not in one or "." not in other
    return one == other or (short and one.partition(".")[0] == other.partition(".")[0])
