"""What a process's cgroup says about whose it is: Slurm job, Kubernetes pod, container, systemd unit. Raises nothing.

Sources: Slurm's cgroup plug-ins (v1 `/slurm[_node]/uid_N/job_N`, v2 `[node_]slurmstepd.scope/job_N`), the kubelet's two
cgroup drivers, containerd, CRI-O, Docker and Podman as they name their groups, systemd.special(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpuwarden.model.workload import Owner, Source

_SHORT_ID = 12
_SLURM = (
    re.compile(r"/(?:[^/]+_)?slurmstepd\.scope/job_(?P<job>[0-9]+)(?:/|$)"),
    re.compile(r"/slurm(?:_[^/]+)?/uid_[0-9]+/job_(?P<job>[0-9]+)(?:/|$)"),
)
_POD = re.compile(
    r"kubepods(?=[./-])[^:]*?[/-]pod"
    r"(?P<uid>[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    r"(?:\.slice)?(?=[/:]|$)"
)
_CONTAINER = re.compile(r"(?:^|[/:-])(?P<id>[0-9a-f]{64})(?:\.scope)?(?=/|$)")
_UNIT = re.compile(r"/(?P<unit>[^/]+\.(?:service|scope))(?=/|$)")
_NO_WORKLOAD = re.compile(r"user@[0-9]+\.service|session-[^/]+\.scope|init\.scope")


def owner_of(cgroup: str, command: str, user: str) -> Owner:
    """Return whose a process is, from the text of its `/proc/<pid>/cgroup`, its command name and its user's name.

    The innermost scheduler wins: a Slurm job inside a pod is a Slurm job. A container that no scheduler started is
    named by its command, with the container beside it.
    """
    paths = tuple(_paths(cgroup))
    container = _container(paths)[:_SHORT_ID]
    for pattern in _SLURM:
        job = _first(pattern, paths, "job")
        if job:
            return Owner(source=Source.SLURM, workload=job, job=job, container=container, user=user, command=command)
    uid = _first(_POD, paths, "uid").replace("_", "-")
    if uid:
        return Owner(source=Source.KUBERNETES, workload=uid, container=container, user=user, command=command)
    unit = "" if container else _unit(paths)
    if unit:
        return Owner(source=Source.SYSTEMD, workload=unit, user=user, command=command)
    return Owner(source=Source.PROCESS, workload=command, container=container, user=user, command=command)


def _paths(cgroup: str) -> Iterator[str]:
    """Yield the paths of a cgroup file, each once: one line in version 2, one per hierarchy in version 1."""
    seen: dict[str, None] = {}
    for line in cgroup.splitlines():
        path = line.partition(":")[2].partition(":")[2]
        if path not in ("", "/"):
            seen[path] = None
    yield from seen


def _first(pattern: re.Pattern[str], paths: tuple[str, ...], group: str) -> str:
    return next((found[group] for path in paths if (found := pattern.search(path))), "")


def _container(paths: tuple[str, ...]) -> str:
    """Return the id of the innermost container: a node may be one itself."""
    return next((found[-1] for path in paths if (found := _CONTAINER.findall(path))), "")


def _unit(paths: tuple[str, ...]) -> str:
    """Return the innermost unit that is work: login sessions and user managers are only where people start things."""
    for path in paths:
        for unit in reversed(_UNIT.findall(path)):
            if not _NO_WORKLOAD.fullmatch(unit):
                return str(unit)
    return ""
