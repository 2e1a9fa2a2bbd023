"""Who holds each GPU: NVML's process lists, their owners from this host, and what the kubelet gave to whom, joined.

Nobody is named on a guess: a process that nobody could find has no owner, and where several pods share a GPU no
process is put on one of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from gpuwarden.model.gpu import Missing
from gpuwarden.model.observation import GpuProcesses, GpuSampled, OwnersSeen, PodsSeen
from gpuwarden.model.snapshot import GpuState, Held, NodeState, Presence, driver_share_bytes
from gpuwarden.model.workload import GpuProcess, Holder, Owner, PodDevices, Source
from gpuwarden.policy.gpus import at_bdf, put

_MOST = 16  # holders kept by name; the count goes on
_MOST_PROCESSES = 64


def listed(node: NodeState, seen: GpuProcesses) -> NodeState:
    """Return the node with one GPU's processes as NVML lists them now; owners already known stay theirs."""
    gpu = at_bdf(node, seen.bdf)
    if gpu is None:
        return node
    here = {process.pid for process in seen.processes}
    held = replace(
        gpu.held,
        processes=seen.processes[:_MOST_PROCESSES],
        total=seen.total,
        absent=seen.absent,
        at=seen.at.boottime,
        owners={pid: owner for pid, owner in gpu.held.owners.items() if pid in here},
        unowned_since=_unowned_since(node, gpu, seen),
    )
    return _joined(node, replace(gpu, held=held))


def owned(node: NodeState, seen: OwnersSeen) -> NodeState:
    """Return the node with the owners of one GPU's processes. An owner is of a process that is still listed."""
    gpu = at_bdf(node, seen.bdf)
    if gpu is None:
        return node
    here = {process.pid for process in gpu.held.processes}
    owners = {each.pid: each.owner for each in seen.owners if each.pid in here}
    return _joined(node, replace(gpu, held=replace(gpu.held, owners=owners, owners_absent=seen.absent)))


def pods_seen(node: NodeState, seen: PodsSeen) -> NodeState:
    """Return the node with what the kubelet gave out. What it said before counts no more once it is silent."""
    node = replace(node, pods=seen.pods, pods_readable=seen.readable)
    for gpu in node.gpus.values():
        node = _joined(node, gpu)
    return node


def sampled(node: NodeState, sample: GpuSampled) -> NodeState:
    """Return the node with memory that somebody gave back no longer counted as nobody's."""
    gpu = at_bdf(node, sample.bdf)
    if gpu is None or gpu.held.unowned_since is None or "memory_used_bytes" not in sample.values:
        return node
    if _beyond_share(node, gpu):
        return node
    return put(node, replace(gpu, held=replace(gpu.held, unowned_since=None)))


def expired(node: NodeState) -> NodeState:
    """Return the node without process lists that are older than two of their periods and the deadline, or whose GPU
    no longer answers."""
    lifetime = 2 * node.settings.slow_seconds + node.settings.deadline_seconds
    for gpu in node.gpus.values():
        at = gpu.held.at
        silent = gpu.presence not in (Presence.ANSWERING, Presence.FAULTY, Presence.BLOCKED)
        if at is not None and (silent or node.now.boottime - at > lifetime):
            why = Missing.UNKNOWN if silent else Missing.TIMED_OUT
            node = _joined(node, replace(gpu, held=Held(absent=why)))
    return node


def _beyond_share(node: NodeState, gpu: GpuState) -> bool:
    used, share = gpu.readings.memory_used_bytes, driver_share_bytes(gpu, node.settings)
    return not isinstance(used, Missing) and used > share


def _unowned_since(node: NodeState, gpu: GpuState, seen: GpuProcesses) -> float | None:
    if seen.total or seen.absent is not None or not _beyond_share(node, gpu):
        return None
    return seen.at.boottime if gpu.held.unowned_since is None else gpu.held.unowned_since


# ---- the join


def _joined(node: NodeState, gpu: GpuState) -> NodeState:
    """Return the node with a GPU's holders made anew, the one that holds most of it first."""
    found = sorted(_holders(node, gpu), key=_rank)
    blind = gpu.held.absent is not None or gpu.held.owners_absent is not None
    count = len(found) or None if blind else len(found)  # blind, the kubelet's word is all there is
    return put(node, replace(gpu, held=replace(gpu.held, holders=tuple(found[:_MOST]), workloads=count)))


def _rank(holder: Holder) -> tuple[float, int, str, str]:
    return (-(holder.used_bytes or 0), -holder.processes, holder.owner.source.value, holder.owner.workload)


def _holders(node: NodeState, gpu: GpuState) -> Iterator[Holder]:
    groups: dict[Owner, list[GpuProcess]] = {}
    for process in gpu.held.processes:
        owner = gpu.held.owners.get(process.pid)
        if owner is not None:
            groups.setdefault(replace(owner, command=""), []).append(process)
    pods = {owner: processes for owner, processes in groups.items() if owner.source is Source.KUBERNETES}
    given = [pod for pod in node.pods if any(is_of(device, gpu) for device in pod.device_ids)]
    for owner, processes in groups.items():
        if not (given and owner in pods):
            yield _holder(owner, processes)
    for pod in given:
        if len(given) == 1 and len(pods) == 1:
            ((owner, processes),) = pods.items()
            yield _holder(_pod_owner(pod, owner.user), processes)
        else:
            yield Holder(owner=_pod_owner(pod, ""))


def _pod_owner(pod: PodDevices, user: str) -> Owner:
    return Owner(
        source=Source.KUBERNETES,
        workload=pod.pod,
        namespace=pod.namespace,
        pod=pod.pod,
        container=pod.container,
        user=user,
    )


def _holder(owner: Owner, processes: list[GpuProcess]) -> Holder:
    used = [process.used_bytes for process in processes]
    return Holder(
        owner=owner,
        processes=len(processes),
        used_bytes=None if None in used else sum(each for each in used if each is not None),
    )


def is_of(device: str, gpu: GpuState) -> bool:
    """Return whether a device id names this GPU or a part of it. A MIG instance's uuid is known once it was listed.

    Forms: `GPU-<uuid>`, `MIG-<uuid>`, `MIG-GPU-<uuid>/gi/ci`, `nvidia0`, GKE's `nvidia0/gi1` and `nvidia0/vgpu2`,
    each perhaps with `::n` behind it where the GPU is shared by time.
    """
    name = device.partition("::")[0]
    if any(name == instance.uuid for instance in gpu.mig):
        return True
    head = name.removeprefix("MIG-").partition("/")[0]
    return head == gpu.identity.uuid or (gpu.identity.minor is not None and head == f"nvidia{gpu.identity.minor}")
