"""The node as the engine knows it: the one record that checks read and exposition renders. Replaced, never mutated."""

from __future__ import annotations

import enum

import msgspec

from gpuwarden.model.case import Around, Remedy
from gpuwarden.model.finding import Health, Incident
from gpuwarden.model.gpu import GpuIdentity, GpuReading, Lane, Missing, Value
from gpuwarden.model.heat import Heat
from gpuwarden.model.host import IbPort, ServiceUnit
from gpuwarden.model.mig import MigInstance
from gpuwarden.model.observation import HeatHandsSeen, PciDevice, Stamp, WorkerState
from gpuwarden.model.settings import Settings
from gpuwarden.model.speed import Speed, Work
from gpuwarden.model.tally import Tally
from gpuwarden.model.warmth import Warmth
from gpuwarden.model.workload import GpuProcess, Holder, Owner, PodDevices


class Presence(enum.Enum):
    """Where one inventory GPU stands with driver and bus."""

    ANSWERING = "answering"
    LOST = "lost"  # NVML: GPU_IS_LOST, or UNKNOWN / GPU_NOT_FOUND at handle creation while PCI confirms or cannot tell
    NEEDS_RESET = "needs_reset"
    FAULTY = "faulty"  # INSUFFICIENT_POWER, IRQ_ISSUE, CORRUPTED_INFOROM: `fault_code` says which
    ACCESS_LOST = "access_lost"  # we may not talk to it, though PCI says it is fine
    BLOCKED = "blocked"  # sits in one call past its deadline
    PAUSED = "paused"
    ASLEEP = "asleep"  # suspended by the kernel, and not woken for a look
    BOUND_ELSEWHERE = "bound_elsewhere"
    MISSING = "missing"  # neither NVML nor PCI shows it
    UNSEEN = "unseen"  # no session yet, or the worker is not up: nothing is known


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Growth of a cumulative counter over a sliding window, from two aggregates (no sample lists).

    `rate` is growth per second over `span_seconds` of boot time actually covered; None until two samples exist.
    A counter that fell restarts the window (`restarted` true for that one sample).
    """

    last: float
    last_at: float
    base: float
    base_at: float
    previous_base: float
    previous_base_at: float
    grown: float = 0.0  # since `previous_base_at`
    span_seconds: float = 0.0
    restarted: bool = False

    @property
    def rate(self) -> float | None:
        """Growth per second over the covered window; None when nothing was covered yet."""
        return self.grown / self.span_seconds if self.span_seconds > 0 else None


class LinkWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Growth of one counter on each of several links over a sliding window: as `Window`, an element per link.

    A link whose counter cannot be read keeps its last value, None where it never could.
    """

    last: tuple[float | None, ...]
    last_at: float
    base: tuple[float | None, ...]
    base_at: float
    previous_base: tuple[float | None, ...]
    previous_base_at: float

    @property
    def grown(self) -> tuple[float, ...]:
        """Growth by link over the covered window."""
        pairs = zip(self.last, self.previous_base, strict=True)
        return tuple(0.0 if last is None or base is None else last - base for last, base in pairs)

    @property
    def span_seconds(self) -> float:
        """Boot time that the window covers."""
        return self.last_at - self.previous_base_at


class XidCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often one Xid was seen on one GPU in the present boot."""

    xid: int
    source: str  # "driver" (kernel facility 0 or NVML) or "user"
    total: int
    last: float  # wall, 0 when never


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """The Xids of one minute on one GPU. `processes`: (code, pid) told within the last seconds -> boottime."""

    began: float = 0.0  # boottime
    number: int = 0
    processes: dict[tuple[int, int], float] = {}


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds one GPU. `absent` says why NVML gives no list of processes, `owners_absent` why nobody can say whose.

    `holders` has the one that uses most first, and is cut off at some number; `workloads` is how many there are, None
    where that is unknown. `unowned_since` is the boottime since which more memory than the driver's own is in use
    while lists of processes were empty.
    """

    processes: tuple[GpuProcess, ...] = ()
    total: int = 0
    absent: Missing | None = Missing.UNKNOWN
    at: float | None = None  # boottime of the last list
    owners: dict[int, Owner] = {}  # by pid
    owners_absent: Missing | None = Missing.UNKNOWN
    holders: tuple[Holder, ...] = ()
    workloads: int | None = None
    unowned_since: float | None = None


class GpuState(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of the inventory: identity, presence, what it last said, and what was derived from that."""

    identity: GpuIdentity
    index: int
    first_seen: float  # wall
    last_seen: float  # wall
    presence: Presence = Presence.UNSEEN
    presence_since: float = 0.0  # boottime
    fault_code: int | None = None  # NVML code behind LOST, NEEDS_RESET, FAULTY, ACCESS_LOST
    blocked_call: str = ""
    blocked_since: float | None = None  # boottime
    readings: GpuReading = GpuReading()
    mig: tuple[MigInstance, ...] = ()  # as of the last look; goes with the readings of its lane
    lane_times: dict[Lane, float] = {}  # boottime of the last sample of each lane
    lane_fields: dict[Lane, tuple[str, ...]] = {}  # the readings each lane brought last
    static: dict[str, Value] = {}  # what the static lane brought: shown again when a silent GPU is back
    last_sample: float | None = None  # wall, any lane
    rejected: dict[str, int] = {}  # implausible readings, by reading
    windows: dict[str, Window] = {}  # growth of cumulative readings, by reading
    link_windows: dict[str, LinkWindow] = {}  # growth of NVLink counters, by reading
    links_seen_up: tuple[int, ...] = ()  # NVLinks that were active at any time while we looked
    loaded_since: float | None = None  # boottime since which utilisation has been at the load gate without a break
    settled_since: float | None = None  # boottime of the last performance-state change
    restarted: float | None = None  # boottime at which its counters were last seen to start over (reset, reload)
    xid_burst: Burst = Burst()
    pci: PciDevice | None = None
    held: Held = Held()
    xids: tuple[XidCount, ...] = ()
    speed: Speed = Speed()
    xid_tallies: dict[tuple[int, int], Tally] = {}  # (GPU instance or NO_INSTANCE, xid), newest last; this run's
    clock_events: dict[int, Tally] = {}  # samples with this clocks event reason, by NVML bit
    clock_event_edges: dict[int, int] = {}  # how often a reason came up, by NVML bit
    work: dict[str, Work] = {}  # by metric of the operator's throughput endpoint
    warmth: Warmth = Warmth()
    event_seconds: dict[str, float] = {}  # time under a clocks event reason that the driver does not count itself
    health: Health = Health.UNKNOWN


class PortState(msgspec.Struct, frozen=True, kw_only=True):
    """One InfiniBand port as it is, and what it was since we looked."""

    port: IbPort
    seen_up: bool = False
    best_rate: float = 0.0  # bits per second, while up
    drops: tuple[float, int] = (0.0, 0)  # boottime at which the present window of drops began, and their number


def driver_share_bytes(gpu: GpuState, settings: Settings) -> float:
    """Return how much memory may be in use with no process behind it: what the driver keeps for itself, and room."""
    apart = not isinstance(gpu.readings.memory_reserved_bytes, Missing)
    thresholds = settings.kinds["host.orphan_memory"].thresholds
    return thresholds["driver_share_bytes" if apart else "driver_share_with_reserve_bytes"]


class NvmlState(msgspec.Struct, frozen=True, kw_only=True):
    """The NVML session as a whole."""

    state: WorkerState = WorkerState.STARTING
    since: float = 0.0  # boottime
    code: int | None = None
    detail: str = ""
    driver: str = ""
    nvml: str = ""
    cuda: str = ""
    count: int | None = None
    session: int = 0  # counts SessionOpened
    session_at: float = 0.0  # boottime of the last SessionOpened
    failed: dict[int, tuple[int, float]] = {}  # NVML index without a usable handle -> (return code, boottime since)
    crashed_at: float | None = None  # boottime of the last crash
    restarts: dict[str, int] = {}  # by reason


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about this host. Pure data; under 1 MiB for 16 GPUs."""

    now: Stamp
    started: Stamp
    settings: Settings
    nvml: NvmlState = NvmlState()
    gpus: dict[str, GpuState] = {}  # by uuid, in index order
    by_index: dict[int, str] = {}  # NVML index of the present session -> uuid
    pci_readable: bool | None = None  # None: never scanned
    pci: tuple[PciDevice, ...] = ()
    module_version: str = ""
    aer: dict[tuple[str, str], Window] = {}  # (bdf of a GPU or a port above one, severity) -> growth of its counter
    aer_lines: dict[str, tuple[float, int]] = {}  # address -> (boottime, number) of uncorrected errors in the log
    services_readable: bool | None = None  # None: never asked
    services: dict[str, ServiceUnit] = {}  # by unit name
    ports_readable: bool | None = None  # None: never looked
    ports: dict[str, PortState] = {}  # InfiniBand, by `device:port`
    module_since: float = 0.0  # boottime at which this version was first seen; 0 where it was there from the start
    bound: tuple[str, ...] | None = None  # BDFs with our driver that the present session was opened with
    pods: tuple[PodDevices, ...] = ()
    pods_readable: bool | None = None  # None: the kubelet was never asked
    kmsg_up: bool | None = None
    kmsg_detail: str = ""
    kmsg_records: int = 0
    kmsg_lost: int = 0
    journal_writable: bool = True
    journal_detail: str = ""
    journal_bytes: int = 0
    journal_write_errors: int = 0
    inbox_dropped: int = 0
    throughput_up: bool | None = None  # the operator's throughput endpoint; None: not asked yet
    throughput_at: float = 0.0  # boottime of its last usable answer
    kept_at: float = 0.0  # boottime at which baselines were last due to be written down
    sxids: dict[tuple[int, str], int] = {}  # (sxid, "yes" | "no") -> total
    polls: dict[tuple[str, str], int] = {}  # (lane, "ok" | "failed") -> total
    poll_seconds: dict[str, tuple[float, tuple[int, ...]]] = {}  # lane -> (sum, counts per POLL_BUCKETS and +Inf)
    pending: dict[tuple[str, str], float] = {}  # (kind, uuid or "") -> boottime since which the finding holds
    incidents: dict[tuple[str, str], Incident] = {}  # (kind, uuid or "")
    incident_totals: dict[tuple[str, str], int] = {}  # (kind, severity)
    unsure: frozenset[tuple[str, str]] = frozenset()
    clearing: dict[tuple[str, str], float] = {}  # open incident -> boottime since which its finding is gone
    recent: dict[tuple[str, int, str], tuple[float, int]] = {}  # (bdf, xid, witness) -> (boottime, told only by it)
    unclaimed_xids: dict[str, tuple[XidCount, ...]] = {}  # by bdf without function, until a GPU of that address answers
    incident_counter: int = 0
    engine_errors: int = 0
    config_ok: bool = True
    config_loaded: float = 0.0  # wall
    drill: bool = False
    remedy: Remedy = Remedy()
    around: Around = Around()
    heat: dict[str, Heat] = {}  # by uuid, while the heat governor is on
    hands: HeatHandsSeen | None = None  # the last word of whoever holds its leases
    health: Health = Health.UNKNOWN


POLL_BUCKETS: tuple[float, ...] = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds in seconds of the poll-duration histogram."""
