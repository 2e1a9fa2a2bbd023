"""Everything the engine can be told. One tagged union: an edge puts these into the inbox, nothing else.

Times are those of `Stamp`: `boottime` for holds and deadlines, `wall` for history and budgets.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from gpuwarden.model.case import Fleet, Memory, Outcome, Remedy, Surroundings
from gpuwarden.model.gpu import GpuIdentity, Lane, Missing, Value
from gpuwarden.model.heat import Lease, Refusal
from gpuwarden.model.host import IbPort, ServiceUnit
from gpuwarden.model.mig import MigInstance
from gpuwarden.model.settings import Settings
from gpuwarden.model.speed import Sketch
from gpuwarden.model.stamp import Stamp as Stamp  # noqa: PLC0414 - a part of every observation: given on under its name
from gpuwarden.model.workload import GpuProcess, Owned, PodDevices


class KmsgCursor(msgspec.Struct, frozen=True):
    """The last kernel-log record that was taken: a record of the same boot at or before it is never new.

    `log` says whose numbers these are: "" for the kernel's own ring, else the path of the file or FIFO read instead.
    """

    boot_id: str
    sequence: int
    log: str = ""


class Observation(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    """Base of all observations."""

    at: Stamp


class Tick(Observation, frozen=True, kw_only=True):
    """Time passed. Sent once a second; holds, expiry and latches advance on it."""


class WorkerState(enum.Enum):
    """The NVML worker as the parent sees it."""

    STARTING = "starting"
    UP = "up"
    NO_DRIVER = "no_driver"
    """nvmlInit answered LIBRARY_NOT_FOUND or DRIVER_NOT_LOADED; the worker keeps retrying."""
    LIBRARY_MISMATCH = "library_mismatch"
    ACCESS_LOST = "access_lost"
    """nvmlInit answered UNKNOWN, NO_PERMISSION or OPERATING_SYSTEM."""
    BLOCKED = "blocked"
    """nvmlInit is late, or every thread is silent."""
    CRASHED = "crashed"
    ABANDONED = "abandoned"
    """In state D and deaf to SIGKILL; no further worker is started while it lives."""
    RELEASED = "released"
    """Closed on request."""


class WorkerChanged(Observation, frozen=True, kw_only=True):
    """The worker's state changed. `restart_reason` is set when this change starts a replacement."""

    state: WorkerState
    since: float  # boottime at which this state began
    code: int | None = None  # NVML return code where one explains the state
    detail: str = ""
    restart_reason: str | None = None  # crashed, blocked, gpu_reset, driver_reload, topology, request
    pid: int | None = None


class SessionOpened(Observation, frozen=True, kw_only=True):
    """nvmlInit succeeded in a fresh worker: everything known per GPU from the session before is void."""

    driver: str
    nvml: str
    cuda: str
    count: int


class GpuOpened(Observation, frozen=True, kw_only=True):
    """A handle was obtained and the GPU said who it is."""

    index: int
    identity: GpuIdentity


class GpuFailed(Observation, frozen=True, kw_only=True):
    """NVML answered for a whole GPU with an error that makes further calls pointless for now.

    `where` is "handle" (creation) or the reading or call that answered so; `code` is the NVML return code.
    `bdf` is "" where handle creation failed and NVML never named the device.
    """

    index: int
    bdf: str
    code: int
    where: str


class GpuSampled(Observation, frozen=True, kw_only=True):
    """One lane of one GPU was read. `values` holds only this lane's readings, by GpuReading field name."""

    index: int
    bdf: str
    lane: Lane
    values: dict[str, Value]
    rejected: tuple[str, ...] = ()  # readings whose value was outside physics (also IMPLAUSIBLE in `values`)
    duration_seconds: float = 0.0


class MigSeen(Observation, frozen=True, kw_only=True):
    """The MIG instances of one GPU were read: these are all that can be read now, whatever there was before."""

    index: int
    bdf: str
    instances: tuple[MigInstance, ...]


class GpuProcesses(Observation, frozen=True, kw_only=True):
    """The processes NVML lists on one GPU, read with the slow lane. `total` counts also those that did not fit.

    With `absent` there is no list, and why; an empty list says that no process holds the GPU.
    """

    index: int
    bdf: str
    processes: tuple[GpuProcess, ...]
    total: int
    absent: Missing | None = None


class OwnersSeen(Observation, frozen=True, kw_only=True):
    """Whose the processes of one GPU's last list are. A process that ended meanwhile has no row.

    With `absent` nobody could look: TIMED_OUT, or NO_PERMISSION where this host's processes are not shown to us.
    """

    index: int
    bdf: str
    owners: tuple[Owned, ...]
    absent: Missing | None = None


class PodsSeen(Observation, frozen=True, kw_only=True):
    """What the kubelet gave to which container, of what NVIDIA device plugins offer; told on change and each minute."""

    readable: bool
    detail: str
    pods: tuple[PodDevices, ...]


class GpuBlocked(Observation, frozen=True, kw_only=True):
    """A GPU's thread sits in one NVML call past its deadline. Repeated while it lasts; a GpuSampled ends it."""

    index: int
    bdf: str  # "" when the handle call itself hangs on a device never named
    call: str
    since: float  # boottime at which the call began


class GpuAsleep(Observation, frozen=True, kw_only=True):
    """The kernel has suspended a GPU that nobody uses: it is left alone, since a handle would wake it.

    Told when it is found so in place of an opening; a GpuOpened ends it.
    """

    index: int
    bdf: str


class PausedGpu(Observation, frozen=True, kw_only=True):
    """Calls to one GPU are paused (quiet period after Xid 79, 119, 120; release; reset) until `until`."""

    index: int
    bdf: str
    until: float  # boottime
    reason: str


class NvmlEvent(Observation, frozen=True, kw_only=True):
    """An event NVML delivered. `code` is the Xid for kind "xid", else 0."""

    bdf: str
    kind: str  # xid, ecc_single, ecc_double, recovery_action, unavailable, other
    code: int
    gi: int | None = None
    ci: int | None = None


class LineKind(enum.Enum):
    """What a kernel-log line is about; values are part of `gpuwarden kmsg`'s contract."""

    XID = "xid"
    SXID = "sxid"
    FALLEN_OFF_BUS = "fallen_off_bus"
    INIT_FAILED = "init_failed"
    AER = "aer"
    HUNG_TASK = "hung_task"
    OTHER_NVRM = "other_nvrm"


class KernelLogged(Observation, frozen=True, kw_only=True):
    """A recognised kernel-log record.

    `bdf` is `0000:3b:00` (no function: the log often has none) or None. `from_kernel` is true only for facility 0
    of `/dev/kmsg`. `history` marks records older than the cursor rules allow to act on. `count` folds repeats;
    `sequence` is then the last one's, the rest the first one's. `age_seconds` is how long before `at` the kernel wrote
    it, where the log is its own ring, else 0.
    """

    kind: LineKind
    code: int | None
    bdf: str | None
    pid: int | None
    text: str
    from_kernel: bool
    sequence: int
    history: bool = False
    count: int = 1
    drill: bool = False
    age_seconds: float = 0.0
    fields: dict[str, str] = {}  # decoded extras: gi, ci, recovery_to, severity, caused_by, rpc, link ...


class KernelLogChanged(Observation, frozen=True, kw_only=True):
    """The state of the kernel-log reader. Totals are of this process; `lost` counts records overrun in the ring."""

    up: bool
    detail: str
    records: int
    lost: int
    sequence: int  # last record read, recognised or not


class PciPort(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge or root port above a GPU, and what the kernel counted of its own errors; None where it keeps none."""

    bdf: str
    aer_correctable: int | None = None
    aer_nonfatal: int | None = None
    aer_fatal: int | None = None


class PciDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One NVIDIA display or 3D function as sysfs shows it. Absent attributes are None. Source: /sys/bus/pci/devices."""

    bdf: str
    driver: str  # "nvidia", "vfio-pci", "nouveau", "" when unbound
    slot: str = ""
    device_id: int = 0  # PCI device id, vendor left out: 0x2684 is an RTX 4090
    subsystem_id: int = 0  # subsystem device id in the upper 16 bits, its vendor in the lower, as NVML has it
    runtime_suspended: bool = False
    config_readable: bool = True  # False: config space answers all ones
    link_generation: int | None = None
    link_generation_max: int | None = None
    link_width_lanes: int | None = None
    link_width_max_lanes: int | None = None
    aer_correctable: int | None = None
    aer_nonfatal: int | None = None
    aer_fatal: int | None = None
    upstream: tuple[PciPort, ...] = ()  # the ports between the root complex and the GPU, the root port first


class PciScanned(Observation, frozen=True, kw_only=True):
    """All NVIDIA GPUs on the PCI bus now, sorted by BDF; `readable` is False when sysfs could not be read at all."""

    readable: bool
    devices: tuple[PciDevice, ...]
    module_version: str = ""  # /sys/module/nvidia/version, "" when the module is not loaded


class ServicesSeen(Observation, frozen=True, kw_only=True):
    """The service units that GPUs depend on, as the service manager tells; not readable: nobody to ask, and why."""

    readable: bool
    units: tuple[ServiceUnit, ...] = ()
    detail: str = ""


class PortsSeen(Observation, frozen=True, kw_only=True):
    """All InfiniBand ports now, by device and number; not readable: they could not be looked at."""

    readable: bool
    ports: tuple[IbPort, ...] = ()


class JournalChanged(Observation, frozen=True, kw_only=True):
    """The journal's health, told on change and about once a minute."""

    writable: bool
    detail: str
    size_bytes: int
    write_errors: int


class InboxDropped(Observation, frozen=True, kw_only=True):
    """Readings that were overtaken by newer ones before the engine took them (events are never dropped)."""

    total: int


class Restored(Observation, frozen=True, kw_only=True):
    """What the journal remembered; the first observation after start, once."""

    inventory: tuple[InventoryRow, ...]
    latches: tuple[LatchRow, ...]
    counters: tuple[CounterRow, ...]  # of the present boot only
    remedy: Remedy = Remedy()
    baselines: tuple[BaselineRow, ...] = ()


class InventoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU this host has had."""

    identity: GpuIdentity
    index: int
    first_seen: float  # wall
    last_seen: float  # wall
    boot_id: str = ""  # boot in which it was last seen


class LatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """An open incident as it stood when last journalled."""

    kind: str
    severity: str
    uuid: str | None
    opened: Stamp
    last_seen: Stamp
    count: int
    latched: bool
    drill: bool
    event_class: str = ""  # of a latched one, where its line set it apart from its kind
    evidence: dict[str, msgspec.Raw] = {}


class CounterRow(msgspec.Struct, frozen=True, kw_only=True):
    """An event counter: family is "xid", "sxid" or "incident"."""

    family: str
    uuid: str  # "" for the host
    name: str
    label: str  # source for xid, fatal for sxid, severity for incident
    total: int
    last: float  # wall, 0 when unknown


class BaselineRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one GPU usually reaches at work. `figure` is "sm_clock_hertz", or "workload:" and the metric's name."""

    uuid: str
    figure: str
    history: Sketch


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU's throughput in the operator's own measure, per second.

    `gpu` is what the source calls the GPU: a uuid, an index, a device node, a PCI address; "" where it names none.
    """

    gpu: str
    metric: str
    value: float


class ThroughputSeen(Observation, frozen=True, kw_only=True):
    """The operator's throughput endpoint was asked. `up` is False where it is away or its answer cannot be used."""

    up: bool
    detail: str = ""
    figures: tuple[Figure, ...] = ()


class ForgetGpu(Observation, frozen=True, kw_only=True):
    """An operator says a GPU left for good: drop it from the inventory."""

    uuid: str


class Injected(Observation, frozen=True, kw_only=True):
    """A drill switched on or off; while `active`, `gpuwarden_drill_active` is 1."""

    active: bool
    detail: str


class Reloaded(Observation, frozen=True, kw_only=True):
    """The configuration was read again; `settings` is None where it was refused and the old one stays in force."""

    ok: bool
    detail: str = ""
    settings: Settings | None = None


class ActionEnded(Observation, frozen=True, kw_only=True):
    """An intent has an outcome. Told once or more: what is known already changes nothing."""

    intent: str
    outcome: Outcome
    detail: str = ""


class SurroundingsSeen(Observation, frozen=True, kw_only=True):
    """What the actuator and its back ends see around the node."""

    surroundings: Surroundings


class StopRead(Observation, frozen=True, kw_only=True):
    """The stop switch as the main process reads it; None: it could not be read, which counts as stopped."""

    stopped: bool | None
    detail: str = ""


class FleetAsked(Observation, frozen=True, kw_only=True):
    """What the query of the fleet said; None: no answer."""

    fleet: Fleet | None


class MemoryJudged(Observation, frozen=True, kw_only=True):
    """How far the journal can be trusted to remember; told at the start."""

    memory: Memory


class OperatorVerb(enum.Enum):
    """What an operator may ask of remediation."""

    HOLD = "hold"
    RELEASE = "release"
    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    CANCEL = "cancel"


class OperatorAsked(Observation, frozen=True, kw_only=True):
    """An operator's request, authorised where it came in. `uuid` "" is the host; `until` is wall time."""

    verb: OperatorVerb
    uuid: str | None = None
    case: str = ""
    until: float | None = None
    why: str = ""
    by: str = ""


class HeatHandsSeen(Observation, frozen=True, kw_only=True):
    """What whoever holds the leases of the heat governor says: what is on loan, and what a card does not let us have.

    Told on change and every few seconds while it answers; not `up`: nobody answers, and `leases` are the last known.
    """

    up: bool
    leases: tuple[Lease, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    detail: str = ""


class SourceFailed(Observation, frozen=True, kw_only=True):
    """A supervised source raised and is being restarted."""

    source: str
    detail: str


AnyObservation: TypeAlias = (
    Tick
    | WorkerChanged
    | SessionOpened
    | GpuOpened
    | GpuFailed
    | GpuSampled
    | MigSeen
    | GpuProcesses
    | OwnersSeen
    | PodsSeen
    | GpuBlocked
    | GpuAsleep
    | PausedGpu
    | NvmlEvent
    | KernelLogged
    | KernelLogChanged
    | PciScanned
    | ServicesSeen
    | PortsSeen
    | JournalChanged
    | InboxDropped
    | Restored
    | ThroughputSeen
    | ForgetGpu
    | Injected
    | Reloaded
    | ActionEnded
    | SurroundingsSeen
    | StopRead
    | FleetAsked
    | MemoryJudged
    | OperatorAsked
    | HeatHandsSeen
    | SourceFailed
)
