"""Who holds a GPU: the processes NVML lists, who they belong to, and what a scheduler gave to whom."""

from __future__ import annotations

import enum

import msgspec


class ProcessKind(enum.Enum):
    """In which of NVML's lists a process stands."""

    COMPUTE = "compute"
    GRAPHICS = "graphics"
    MPS = "mps"


class Source(enum.Enum):
    """Who started the work; values are labels of `gpuwarden_workload_info`."""

    SLURM = "slurm"
    KUBERNETES = "kubernetes"
    SYSTEMD = "systemd"
    PROCESS = "process"


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One process with memory or a context on a GPU. `used_bytes` None: the driver does not say."""

    pid: int
    kind: ProcessKind
    used_bytes: int | None = None
    gi: int | None = None
    ci: int | None = None


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose work something is. "" where the host does not say.

    `workload` is the name its source knows it by: job id, pod name (or uid where only that is known), unit, command.
    `container` is the name in the pod where the kubelet says it, else the first twelve digits of the container's id.
    """

    source: Source
    workload: str
    namespace: str = ""
    pod: str = ""
    container: str = ""
    job: str = ""
    user: str = ""
    command: str = ""


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """A process that was found on this host, and whose it is."""

    pid: int
    owner: Owner


class PodDevices(msgspec.Struct, frozen=True, kw_only=True):
    """What the kubelet gave to one container: device ids as its device plugin names them."""

    namespace: str
    pod: str
    container: str
    device_ids: tuple[str, ...]


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """One workload on one GPU. With no `processes` it was given the GPU and has not used it yet, as far as is seen.

    `used_bytes` is the memory of its processes; None where nobody can tell which are its, or how much they use.
    """

    owner: Owner
    processes: int = 0
    used_bytes: int | None = None
