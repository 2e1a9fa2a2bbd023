"""Who is there: the inventory, and where each of its GPUs stands with driver and bus.

Three witnesses: the NVML session (by index), the PCI bus (by BDF) and the inventory (by uuid). A GPU is called missing
only when the session has answered for every index and the bus does not show it; an error for one index is put on
one GPU only when index, BDF or elimination prove which.
"""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.model.gpu import GpuIdentity, Missing
from gpuwarden.model.observation import (
    GpuAsleep,
    GpuBlocked,
    GpuFailed,
    GpuOpened,
    PausedGpu,
    PciDevice,
    PciScanned,
    SessionOpened,
    WorkerChanged,
    WorkerState,
)
from gpuwarden.model.snapshot import GpuState, NodeState, Presence
from gpuwarden.policy.gpus import at_bdf, put, update, voided
from gpuwarden.policy.inventory import claim

TIMED_OUT = 10  # NVML_ERROR_TIMEOUT: stands for a handle call that does not return
OPERATING_SYSTEM = 17  # NVML_ERROR_OPERATING_SYSTEM
UNKNOWN = 999  # NVML_ERROR_UNKNOWN
_DEATHS = ("xid.xid_79", "presence.init_failed")
_DRIVER = "nvidia"
_PATIENCE_SECONDS = 3.0  # how long a nameless error waits for the other handles before its index alone counts

# Source: nvml.h, nvmlReturn_t. Codes that are not here say nothing certain about one GPU.
_PRESENCE_OF = {
    4: Presence.ACCESS_LOST,  # NO_PERMISSION
    8: Presence.FAULTY,  # INSUFFICIENT_POWER
    TIMED_OUT: Presence.BLOCKED,
    11: Presence.FAULTY,  # IRQ_ISSUE
    14: Presence.FAULTY,  # CORRUPTED_INFOROM
    15: Presence.LOST,  # GPU_IS_LOST
    16: Presence.NEEDS_RESET,  # RESET_REQUIRED
    28: Presence.LOST,  # GPU_NOT_FOUND
}
_WHY_GONE = {
    Presence.LOST: Missing.GPU_LOST,
    Presence.MISSING: Missing.GPU_LOST,
    Presence.NEEDS_RESET: Missing.UNKNOWN,
    Presence.FAULTY: Missing.UNKNOWN,
    Presence.ACCESS_LOST: Missing.NO_PERMISSION,
    Presence.BOUND_ELSEWHERE: Missing.UNKNOWN,
    Presence.UNSEEN: Missing.UNKNOWN,
    Presence.ASLEEP: Missing.PAUSED,
    Presence.PAUSED: Missing.PAUSED,
}
_NO_SESSION = frozenset({WorkerState.NO_DRIVER, WorkerState.LIBRARY_MISMATCH, WorkerState.ACCESS_LOST})


def stand(node: NodeState, uuid: str, presence: Presence, code: int | None = None) -> NodeState:
    """Return the node with a GPU's presence changed; its readings go with it unless it answers or is only blocked."""
    gpu = node.gpus[uuid]
    if gpu.presence is presence and gpu.fault_code == code:
        return node
    why = _WHY_GONE.get(presence)
    return put(
        node,
        replace(
            gpu,
            presence=presence,
            presence_since=node.now.boottime if gpu.presence is not presence else gpu.presence_since,
            fault_code=code,
            blocked_call=gpu.blocked_call if presence is Presence.BLOCKED else "",
            blocked_since=gpu.blocked_since if presence is Presence.BLOCKED else None,
            readings=gpu.readings if why is None else voided(gpu.readings, why),
            mig=gpu.mig if why is None else (),
            lane_times=gpu.lane_times if why is None else {},
        ),
    )


def worker_changed(node: NodeState, seen: WorkerChanged) -> NodeState:
    """Return the node after the NVML worker changed. What a dead or deaf worker last said expires by its age."""
    nvml = node.nvml
    restarts = nvml.restarts
    if seen.restart_reason is not None:
        restarts = restarts | {seen.restart_reason: restarts.get(seen.restart_reason, 0) + 1}
    crashed = node.now.boottime if seen.state is WorkerState.CRASHED else nvml.crashed_at
    node = replace(
        node,
        nvml=replace(
            nvml,
            state=seen.state,
            since=seen.since,
            code=seen.code,
            detail=seen.detail,
            restarts=restarts,
            crashed_at=crashed,
        ),
    )
    if seen.state in _NO_SESSION:
        node = _nobody_seen(replace(node, nvml=replace(node.nvml, driver="", nvml="", cuda="", count=None)))
    if seen.state is WorkerState.RELEASED:
        for uuid, gpu in node.gpus.items():
            if gpu.presence in (Presence.ANSWERING, Presence.UNSEEN):
                node = stand(node, uuid, Presence.PAUSED)
    return reckon(node)


def _nobody_seen(node: NodeState) -> NodeState:
    for uuid, gpu in node.gpus.items():
        if gpu.presence is not Presence.BOUND_ELSEWHERE:
            node = stand(node, uuid, Presence.UNSEEN)
    return replace(node, by_index={}, nvml=replace(node.nvml, failed={}))


def session_opened(node: NodeState, seen: SessionOpened) -> NodeState:
    """Return the node at the start of a new NVML session: nothing that was read before it counts any more."""
    node = _nobody_seen(node)
    return replace(
        node,
        bound=bound_to_driver(node.pci) if node.pci_readable else None,
        nvml=replace(
            node.nvml,
            state=WorkerState.UP,
            code=None,
            detail="",
            driver=seen.driver,
            nvml=seen.nvml,
            cuda=seen.cuda,
            count=seen.count,
            session=node.nvml.session + 1,
            session_at=node.now.boottime,
        ),
    )


def gpu_opened(node: NodeState, seen: GpuOpened) -> NodeState:
    """Return the node with one GPU answering under its name."""
    node = claim(node, seen.identity, seen.index)
    uuid = seen.identity.uuid
    failed = {index: what for index, what in node.nvml.failed.items() if index != seen.index}
    node = replace(node, by_index=node.by_index | {seen.index: uuid}, nvml=replace(node.nvml, failed=failed))
    node = stand(node, uuid, Presence.ANSWERING)
    return reckon(update(node, uuid, last_seen=node.now.wall))


def gpu_failed(node: NodeState, seen: GpuFailed) -> NodeState:
    """Return the node after NVML gave up on one GPU, named by its BDF or only by its index."""
    return reckon(_failed(node, seen.index, seen.bdf, seen.code, node.now.boottime))


def gpu_asleep(node: NodeState, seen: GpuAsleep) -> NodeState:
    """Return the node with one GPU suspended: accounted for in this session, under its name where that is known."""
    failed = {index: what for index, what in node.nvml.failed.items() if index != seen.index}
    node = replace(node, nvml=replace(node.nvml, failed=failed))
    if at_bdf(node, seen.bdf) is None:
        node = claim(node, GpuIdentity(uuid=f"PCI-{seen.bdf}", bdf=seen.bdf), seen.index)
    gpu = at_bdf(node, seen.bdf)
    assert gpu is not None
    uuid = gpu.identity.uuid
    node = replace(node, by_index=node.by_index | {seen.index: uuid})
    return reckon(stand(node, uuid, Presence.ASLEEP))


def gpu_blocked(node: NodeState, seen: GpuBlocked) -> NodeState:
    """Return the node while one GPU's thread sits in a call past its deadline."""
    known = node.by_index.get(seen.index)
    gpu = at_bdf(node, seen.bdf) if seen.bdf else node.gpus.get(known or "")
    if gpu is None:
        node = _failed(node, seen.index, seen.bdf, TIMED_OUT, seen.since)
        gpu = node.gpus.get(node.by_index.get(seen.index, ""))
    if gpu is not None:
        uuid = gpu.identity.uuid
        node = stand(node, uuid, Presence.BLOCKED)
        node = update(node, uuid, blocked_call=seen.call, blocked_since=seen.since)
    return reckon(node)


def _failed(node: NodeState, index: int, bdf: str, code: int, since: float) -> NodeState:
    earlier = node.nvml.failed.get(index)
    since = earlier[1] if earlier is not None and earlier[0] == code else since
    node = replace(node, nvml=replace(node.nvml, failed=node.nvml.failed | {index: (code, since)}))
    gpu = at_bdf(node, bdf)
    if gpu is None and bdf:
        node = claim(node, GpuIdentity(uuid=f"PCI-{bdf}", bdf=bdf), index)
        gpu = at_bdf(node, bdf)
    if gpu is None:
        return node
    return replace(node, by_index=node.by_index | {index: gpu.identity.uuid})


def gpu_paused(node: NodeState, seen: PausedGpu) -> NodeState:
    """Return the node with calls to one GPU paused: news for a GPU that answered, none about one that did not."""
    gpu = at_bdf(node, seen.bdf)
    if gpu is None or gpu.presence not in (Presence.ANSWERING, Presence.UNSEEN):
        return node
    return stand(node, gpu.identity.uuid, Presence.PAUSED)


def pci_scanned(node: NodeState, seen: PciScanned) -> NodeState:
    """Return the node after a look at the PCI bus."""
    devices = {device.bdf: device for device in seen.devices}
    gpus = {}
    for uuid, gpu in node.gpus.items():
        device = devices.get(gpu.identity.bdf)
        slot = node.settings.slots.get(gpu.identity.bdf) or (device.slot if device else "") or gpu.identity.slot
        gpus[uuid] = replace(gpu, pci=device, identity=replace(gpu.identity, slot=slot))
    exchanged = node.pci_readable is not None and seen.module_version != node.module_version
    node = replace(
        node,
        gpus=gpus,
        pci_readable=seen.readable,
        pci=seen.devices,
        module_version=seen.module_version,
        module_since=node.now.boottime if exchanged else node.module_since,
        bound=bound_to_driver(seen.devices) if node.bound is None and seen.readable else node.bound,
    )
    return reckon(node)


def bound_to_driver(devices: tuple[PciDevice, ...]) -> tuple[str, ...]:
    """Return the addresses of the devices that the NVIDIA driver holds."""
    return tuple(device.bdf for device in devices if device.driver == _DRIVER)


def is_regrouped(node: NodeState, scan: PciScanned) -> bool:
    """Return whether other GPUs are the driver's than those the session was opened with.

    Two looks must agree: a driver takes its time to bind. Without the module there is nothing to count.
    """
    if not scan.readable or not scan.module_version or node.bound is None or node.nvml.state is not WorkerState.UP:
        return False
    return node.bound != bound_to_driver(scan.devices) == bound_to_driver(node.pci)


def reckon(node: NodeState) -> NodeState:
    """Return the node with every GPU that the session did not name placed as far as the witnesses allow."""
    for index in sorted(node.nvml.failed):
        node = _place_failure(node, index)
    if not can_tell(node):
        return node
    for uuid, gpu in node.gpus.items():
        if uuid not in node.by_index.values():
            presence = _without_session(node, gpu)
            if presence is not None:
                node = stand(node, uuid, presence)
    return _strangers(node)


def is_complete(node: NodeState) -> bool:
    """Return whether the present session has answered for each index it counted, well or badly."""
    nvml = node.nvml
    return (
        nvml.state is WorkerState.UP
        and nvml.count is not None
        and len(node.by_index.keys() | nvml.failed.keys()) >= nvml.count
    )


def can_tell(node: NodeState) -> bool:
    """Return whether absence from the session means anything: it is complete, or there certainly is none."""
    unplaced = node.nvml.failed.keys() - node.by_index.keys()
    return (is_complete(node) and not unplaced) or node.nvml.state is WorkerState.NO_DRIVER


def pci_witness(node: NodeState) -> bool:
    """Return whether the bus may testify: it shows NVIDIA devices at all (containers often see none)."""
    return bool(node.pci_readable) and bool(node.pci)


def _place_failure(node: NodeState, index: int) -> NodeState:
    code, since = node.nvml.failed[index]
    uuid = node.by_index.get(index)
    if uuid is None:
        uuid = _whose_failure(node, index, node.now.boottime - since > _PATIENCE_SECONDS)
        if uuid is None:
            return node
        node = replace(node, by_index=node.by_index | {index: uuid})
    presence = _presence_of(node, uuid, code)
    node = stand(node, uuid, presence, code if presence is not Presence.BLOCKED else None)
    if presence is Presence.BLOCKED and node.gpus[uuid].blocked_since is None:
        node = update(node, uuid, blocked_call="nvmlDeviceGetHandleByIndex_v2", blocked_since=since)
    return node


def _whose_failure(node: NodeState, index: int, waited: bool) -> str | None:
    """Return the uuid of the GPU a nameless failure is about, once the others have answered or had their time."""
    if not (is_complete(node) or waited):
        return None
    silent = [gpu for uuid, gpu in node.gpus.items() if uuid not in node.by_index.values()]
    same_index = [gpu for gpu in silent if gpu.index == index]
    unplaced = node.nvml.failed.keys() - node.by_index.keys()
    if same_index:
        return same_index[0].identity.uuid
    if is_complete(node) and len(unplaced) == 1 and len(silent) == 1:
        return silent[0].identity.uuid
    return None


def _presence_of(node: NodeState, uuid: str, code: int) -> Presence:
    """Return what a code that is about a whole GPU makes of it.

    UNKNOWN and OPERATING_SYSTEM are what a process gets whose device rules were taken away, and what a dead card gives
    too: a bus that does not answer, siblings that do, or a fatal word of the driver tell them apart.
    """
    gpu = node.gpus[uuid]
    if _is_elsewhere(gpu):
        return Presence.BOUND_ELSEWHERE
    if code not in (UNKNOWN, OPERATING_SYSTEM):
        return _PRESENCE_OF.get(code, Presence.UNSEEN)
    if (gpu.pci is not None and not gpu.pci.config_readable) or _is_known_dead(node, uuid):
        return Presence.LOST
    siblings = any(other.presence is Presence.ANSWERING for key, other in node.gpus.items() if key != uuid)
    ambiguous = code == UNKNOWN and (siblings or gpu.pci is None)
    return Presence.LOST if ambiguous else Presence.ACCESS_LOST


def _is_known_dead(node: NodeState, uuid: str) -> bool:
    return any((kind, uuid) in node.incidents for kind in _DEATHS)


def _without_session(node: NodeState, gpu: GpuState) -> Presence | None:
    """Return where a GPU stands that the session does not list, or None when nobody can say."""
    taken = any(
        gpu.identity.bdf == node.gpus[other].identity.bdf for other in node.by_index.values() if other in node.gpus
    )
    if not pci_witness(node):
        return Presence.MISSING if is_complete(node) else None
    if gpu.pci is None or taken:
        return Presence.MISSING
    if _is_elsewhere(gpu):
        return Presence.BOUND_ELSEWHERE
    if _is_new(node, gpu.pci):
        return Presence.UNSEEN
    return Presence.LOST if is_complete(node) else None


def _is_elsewhere(gpu: GpuState) -> bool:
    return gpu.pci is not None and gpu.pci.driver not in (_DRIVER, "")


def _is_new(node: NodeState, device: PciDevice) -> bool:
    """Return whether the driver took a device after the session was opened: only a new one can know it."""
    return device.driver == _DRIVER and node.bound is not None and device.bdf not in node.bound


def _strangers(node: NodeState) -> NodeState:
    """Return the node with devices that are the driver's but were never named by NVML: they never answered."""
    if not is_complete(node) or not pci_witness(node):
        return node
    known = {gpu.identity.bdf for gpu in node.gpus.values()}
    for device in node.pci:
        if device.driver == _DRIVER and device.bdf not in known and not _is_new(node, device):
            uuid = f"PCI-{device.bdf}"
            node = claim(node, GpuIdentity(uuid=uuid, bdf=device.bdf, slot=device.slot), None)
            node = stand(node, uuid, Presence.LOST)
    return node
