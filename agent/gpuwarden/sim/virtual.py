"""A scenario on virtual time: the observations the daemon would make, through the real driver table, at once.

What the worker's threads and the link do on a clock is done here second by second, in one thread and always the same
way: the same scenario gives the same observations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gpuwarden.model.case import Intent, Memory
from gpuwarden.model.cgroup import owner_of
from gpuwarden.model.gpu import GpuIdentity, Lane, Missing
from gpuwarden.model.kernel_log import may_matter, parse_record
from gpuwarden.model.kernel_message import parse_message
from gpuwarden.model.observation import (
    ActionEnded,
    AnyObservation,
    GpuAsleep,
    GpuBlocked,
    GpuFailed,
    GpuOpened,
    GpuProcesses,
    GpuSampled,
    InventoryRow,
    KernelLogChanged,
    KernelLogged,
    MemoryJudged,
    MigSeen,
    NvmlEvent,
    OwnersSeen,
    PausedGpu,
    PciDevice,
    PciPort,
    PciScanned,
    PortsSeen,
    Restored,
    ServicesSeen,
    SessionOpened,
    Stamp,
    StopRead,
    SurroundingsSeen,
    Tick,
    WorkerChanged,
    WorkerState,
)
from gpuwarden.model.settings import Settings
from gpuwarden.model.workload import Owned
from gpuwarden.nvml.codes import SUCCESS, UNKNOWN, state_of
from gpuwarden.nvml.driver import GpuMemory, LaneResult, identify, read_lane
from gpuwarden.nvml.gpm import free
from gpuwarden.nvml.processes import read_processes
from gpuwarden.nvml.session import close_session, handle_of, open_session, use_library
from gpuwarden.sim import host
from gpuwarden.sim.card import Card
from gpuwarden.sim.fault import EVENT_CORRECTED, EVENT_UNCORRECTED, EVENT_XID, NOT_MIG
from gpuwarden.sim.hands import SECONDS, Hands
from gpuwarden.sim.inprocess import CallCrashed, CallHung, InProcess
from gpuwarden.sim.nvml import SimLibrary
from gpuwarden.sim.recollection import remembered, throughput
from gpuwarden.sim.scenario import Scenario, Timeline, world_of
from gpuwarden.sim.sheet_links import link_generation, link_width
from gpuwarden.sim.work import USER, processes_of
from gpuwarden.sim.world import World

_BOOT_IDS = "5ca1ab1e-0000-4000-8000-{:012d}"  # counted from 1, one per boot
_BOOTTIME = 7 * 86_400.0  # the node has been up for a week
_BOOT_SECONDS = 20.0  # from the kernel's first moment to the daemon's
_LOOK_SECONDS = 5.0
_PCI_SECONDS = 10.0
_SERVICES_SECONDS = 30.0
_RETRY_SECONDS = 5.0
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 10.0
_PROBE_SECONDS = 60.0
_ALL_BLOCKED_SECONDS = 10.0
_SESSION_IS_DEAD = frozenset({1, 9, 18})
_EVENT_NAMES = {EVENT_XID: "xid", EVENT_CORRECTED: "ecc_single", EVENT_UNCORRECTED: "ecc_double"}

LIBRARY = SimLibrary(InProcess(world_of(Scenario(version=1, product="t4"))))
"""What pynvml calls on virtual time. One for the process: the binding remembers the functions it has looked up."""


class _RestartError(Exception):
    """The worker has to be replaced; `reason` is a label of the restart counter, `crashed` whether it died."""

    def __init__(self, reason: str, *, crashed: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.crashed = crashed


class _Gpu:
    """What the worker's thread of one GPU does, a second at a time."""

    def __init__(self, index: int, settings: Settings, card: Card) -> None:
        self.index = index
        self.bdf = ""
        self._card = card
        self._told_asleep = False
        self.since: float | None = None  # when the call began that it sits in
        self.quiet_until = 0.0
        self._partitioned = False  # whether instances were told last
        self._settings = settings
        self._handle: Any = None
        self._memory = GpuMemory(pause=lambda _: None)  # virtual time passes between looks, not within
        self._periods = {
            Lane.STATIC: float("inf"),
            Lane.FAST: settings.fast_seconds,
            Lane.NORMAL: settings.normal_seconds,
            Lane.SLOW: settings.slow_seconds,
            Lane.PCIE: settings.pcie_seconds,
        }
        self._due: dict[Lane, float] = {}
        self._retry_at = 0.0
        self._pause = _FIRST_RETRY_SECONDS

    def live(self, at: Stamp) -> Iterator[AnyObservation]:
        """Yield what this GPU's thread tells at this moment. Raises: _RestartError."""
        now = at.boottime
        try:
            if self._handle is None:
                if now >= self._retry_at:
                    yield from self._open(at)
            else:
                yield from self._read_due(at)
            self.since = None
        except CallHung as hung:
            self.since = now if self.since is None else self.since
            if now - self.since > self._settings.deadline_seconds:
                yield GpuBlocked(at=at, index=self.index, bdf=self.bdf, call=hung.function, since=self.since)

    def _open(self, at: Stamp) -> Iterator[AnyObservation]:
        free(self._memory)
        if self._card.knobs.asleep:
            if not self._told_asleep:
                self._told_asleep = True
                yield GpuAsleep(at=at, index=self.index, bdf=self._card.identity.bdf)
            return
        self._told_asleep = False
        handle, code = handle_of(self.index)
        if code != SUCCESS:
            yield self._failed(at, LaneResult(fault=code, where="handle"))
            return
        identity = identify(handle, self._memory)
        if isinstance(identity, LaneResult):
            yield self._failed(at, identity)
            return
        self._handle, self.bdf, self._pause = handle, identity.bdf, _FIRST_RETRY_SECONDS
        self._memory.unsupported.clear()
        self._memory.pcie_from_gpm = False
        self._due = dict.fromkeys(self._periods, at.boottime)
        yield GpuOpened(at=at, index=self.index, identity=identity)
        yield from self._read_due(at)

    def _read_due(self, at: Stamp) -> Iterator[AnyObservation]:
        now = at.boottime
        quiet = now < self.quiet_until
        for lane, period in self._periods.items():
            if self._due[lane] > now or (quiet and lane is not Lane.FAST):
                continue
            if lane is Lane.PCIE and self._memory.pcie_from_gpm:
                continue
            try:
                result = read_lane(self._handle, lane, self._memory)
            except CallHung:
                if lane is Lane.PCIE:  # a thread of its own: it keeps nobody else
                    continue
                raise
            if result.fault is not None:
                yield self._failed(at, result)
                return
            self._due[lane] = now + (_PROBE_SECONDS if quiet else period)
            yield GpuSampled(
                at=at,
                index=self.index,
                bdf=self.bdf,
                lane=lane,
                values=result.values,
                rejected=result.rejected,
            )
            if result.instances is not None and (result.instances or self._partitioned):
                self._partitioned = bool(result.instances)
                yield MigSeen(at=at, index=self.index, bdf=self.bdf, instances=result.instances)
            if lane is Lane.SLOW:
                found = read_processes(self._handle, self._memory)
                yield GpuProcesses(
                    at=at,
                    index=self.index,
                    bdf=self.bdf,
                    processes=found.processes,
                    total=found.total,
                    absent=found.absent,
                )
            if quiet:
                yield PausedGpu(at=at, index=self.index, bdf=self.bdf, until=self.quiet_until, reason="quiet")

    def _failed(self, at: Stamp, result: LaneResult) -> GpuFailed:
        """Return what a faulty GPU tells; the next try comes after a growing pause. Raises: _RestartError."""
        code = result.fault or UNKNOWN
        if code in _SESSION_IS_DEAD:
            raise _RestartError("driver_reload")
        self._handle = None
        self._retry_at = at.boottime + (_PROBE_SECONDS if at.boottime < self.quiet_until else self._pause)
        self._pause = min(2 * self._pause, _LONGEST_RETRY_SECONDS)
        return GpuFailed(at=at, index=self.index, bdf=self.bdf, code=code, where=result.where)

    def close(self) -> None:
        """Give back what is held of the session."""
        free(self._memory)

    @property
    def is_open(self) -> bool:
        """Whether it has a handle: only then its events arrive."""
        return self._handle is not None


class VirtualNode:
    """One scenario's node and what is observed of it. `quiet`, `reopen` and `bring_about` are the engine's commands.

    One at a time per process: the NVML binding knows one library.
    """

    def __init__(self, scenario: Scenario, settings: Settings) -> None:
        self.world: World = world_of(scenario)
        self._scenario = scenario
        self._settings = settings
        self._timeline = Timeline(scenario)
        self._gpus: list[_Gpu] | None = None
        self._init_at = 0.0
        self._init_since: float | None = None
        self._init_code: int | None = None
        self._wanted_restart: str | None = None
        self._pci_at = 0.0
        self._services_at = 0.0
        self._throughput_at = 0.0
        self._look_at = 0.0
        self._hands = Hands(self.world)
        self._asked: list[tuple[float, Intent]] = []  # (simulated seconds at which it is done, what)
        self._told_records = 0
        self._told_events = 0

    @property
    def now(self) -> Stamp:
        """The present moment of the simulated node."""
        world = self.world
        up = _BOOTTIME + world.seconds if not world.boots else _BOOT_SECONDS + world.seconds - world.booted
        return Stamp(_BOOT_IDS.format(world.boots + 1), up, world.wall())

    def quiet(self, bdf: str) -> None:
        """Probe a GPU once, then leave it alone for the quiet period."""
        for gpu in self._gpus or ():
            if gpu.bdf == bdf:
                gpu.quiet_until = self.now.boottime + self._settings.quiet_seconds

    def reopen(self, reason: str) -> None:
        """Have the worker replaced."""
        self._wanted_restart = reason

    def bring_about(self, intent: Intent) -> None:
        """Have an effect brought about; its outcome is observed when its time has passed."""
        if all(intent.id != asked.id for _, asked in self._asked):
            self._asked.append((self.world.seconds + SECONDS[intent.action], intent))

    def rebooted(self) -> bool:
        """Return, once, whether the host went down and came up since the last call: the daemon begins anew."""
        found, self._hands.rebooted = self._hands.rebooted, False
        return found

    def opening(self) -> Iterator[AnyObservation]:
        """Yield what is observed when a daemon begins: what the kernel log holds, and that there is no session yet."""
        yield MemoryJudged(at=self.now, memory=Memory(durable=True, detail=""))
        yield from self._kernel_log(history=True)
        yield KernelLogChanged(
            at=self.now, up=True, detail="", records=self._told_records, lost=0, sequence=self._told_records
        )
        yield WorkerChanged(at=self.now, state=WorkerState.STARTING, since=self.now.boottime)

    def observations(self) -> Iterator[AnyObservation]:
        """Yield everything there is to observe, second by second, until the scenario's end."""
        LIBRARY.answer_from(InProcess(self.world))
        use_library(LIBRARY)
        try:
            if self._scenario.inventory:
                yield self._remembered()
            self._timeline.play(self.world)  # what is so at second 0 was never otherwise
            yield from self.opening()
            if self._scenario.remembered:
                yield remembered(self._scenario, self.world, self.now)
            while True:
                yield from self._second()
                if self.world.seconds >= self._scenario.seconds:
                    return
                for _ in range(10):
                    self.world.advance(0.1)
                    self._timeline.play(self.world)
                    self._hands.pass_time()
        finally:
            self._close()

    def _remembered(self) -> Restored:
        """Return what the journal of an earlier boot holds: every card this node was built with."""
        rows = tuple(
            InventoryRow(
                identity=GpuIdentity(
                    uuid=card.identity.uuid,
                    bdf=card.identity.bdf,
                    name=card.product.name,
                    serial=card.identity.serial,
                    minor=card.identity.minor,
                    slot=card.identity.pci_slot,
                ),
                index=card.slot,
                first_seen=self.now.wall - 86400.0,
                last_seen=self.now.wall - 3600.0,
                boot_id=_BOOT_IDS.format(0),
            )
            for card in self.world.cards
        )
        return Restored(at=self.now, inventory=rows, latches=(), counters=())

    def _second(self) -> Iterator[AnyObservation]:
        yield from self._effects()
        yield from self._kernel_log(history=False)
        if self.now.boottime >= self._pci_at:
            self._pci_at = self.now.boottime + _PCI_SECONDS
            yield self._pci_scan()
            yield PortsSeen(at=self.now, readable=True, ports=host.ports(self.world))
        if self.now.boottime >= self._services_at:
            self._services_at = self.now.boottime + _SERVICES_SECONDS
            yield ServicesSeen(at=self.now, readable=True, units=host.units(self.world))
        try:
            if self._wanted_restart is not None:
                reason, self._wanted_restart = self._wanted_restart, None
                raise _RestartError(reason)
            yield from self._nvml()
        except (_RestartError, CallCrashed) as why:
            yield from self._restart(why if isinstance(why, _RestartError) else _RestartError("crashed", crashed=True))
        if self._scenario.throughput_metric and self.now.boottime >= self._throughput_at:
            self._throughput_at = self.now.boottime + self._settings.normal_seconds
            yield throughput(self._scenario.throughput_metric, self.world, self.now)
        yield Tick(at=self.now)

    def _effects(self) -> Iterator[AnyObservation]:
        """Yield the outcomes whose time has come, and now and then what an actuator sees."""
        due = [intent for at, intent in self._asked if at <= self.world.seconds]
        self._asked = [(at, intent) for at, intent in self._asked if intent not in due]
        for intent in due:
            outcome, detail = self._hands.ask(intent)
            if self._hands.rebooted:
                self._begin_anew()
                return  # whoever would tell the outcome went down with the host
            yield ActionEnded(at=self.now, intent=intent.id, outcome=outcome, detail=detail)
        if due or self.now.boottime >= self._look_at:
            self._look_at = self.now.boottime + _LOOK_SECONDS
            yield StopRead(at=self.now, stopped=False)
            yield SurroundingsSeen(at=self.now, surroundings=self._hands.look())

    def _begin_anew(self) -> None:
        """Forget what a daemon knew that went down with its host."""
        self._close()
        self._gpus, self._init_since, self._init_code, self._wanted_restart = None, None, None, None
        self._init_at = self._pci_at = self._services_at = self._throughput_at = self._look_at = 0.0
        self._asked.clear()

    # ---- the kernel log and the bus

    def _kernel_log(self, *, history: bool) -> Iterator[AnyObservation]:
        new, self._told_records = self.world.records[self._told_records :], len(self.world.records)
        for raw in filter(may_matter, new):
            record = parse_record(raw)
            line = parse_message(record.text)
            if line is not None:
                yield KernelLogged(
                    at=self.now,
                    kind=line.kind,
                    code=line.code,
                    bdf=line.bdf,
                    pid=line.pid,
                    text=line.text,
                    from_kernel=record.facility == 0,
                    sequence=record.sequence or 0,
                    history=history,
                    fields=line.fields,
                )

    def _pci_scan(self) -> PciScanned:
        devices = []
        for card in self.world.cards:
            if card.knobs.gone:
                continue
            answers = not card.knobs.dead
            devices.append(
                PciDevice(
                    bdf=card.identity.bdf,
                    driver=self.world.driver_of(card),
                    slot=card.identity.pci_slot,
                    device_id=card.product.pci_device_id,
                    subsystem_id=card.product.pci_subsystem_id,
                    runtime_suspended=card.knobs.asleep,
                    config_readable=answers,
                    link_generation=link_generation(card) if answers else None,
                    link_generation_max=card.product.pcie_generation_max if answers else None,
                    link_width_lanes=link_width(card) if answers else None,
                    link_width_max_lanes=card.product.pcie_width_lanes if answers else None,
                    aer_correctable=int(card.aer["correctable"]),
                    aer_nonfatal=int(card.aer["nonfatal"]),
                    aer_fatal=int(card.aer["fatal"]),
                    upstream=tuple(
                        PciPort(bdf=bdf, **{f"aer_{name}": n for name, n in self.world.port_aer(bdf).items()})
                        for bdf in card.identity.ports
                    ),
                )
            )
        return PciScanned(
            at=self.now,
            readable=True,
            devices=tuple(sorted(devices, key=lambda device: device.bdf)),
            module_version=self.world.module_version,
        )

    # ---- NVML: what worker and link do

    def _nvml(self) -> Iterator[AnyObservation]:
        yield from self._events()
        if self._gpus is None and self.now.boottime >= self._init_at:
            yield from self._open_session()
        for gpu in self._gpus or ():
            for observation in gpu.live(self.now):
                yield observation
                if isinstance(observation, GpuProcesses):
                    yield self._owners(observation)
        self._all_blocked()

    def _open_session(self) -> Iterator[AnyObservation]:
        now = self.now.boottime
        try:
            session = open_session()
        except CallHung:
            self._init_since = now if self._init_since is None else self._init_since
            if now - self._init_since > self._settings.deadline_seconds:
                yield WorkerChanged(at=self.now, state=WorkerState.BLOCKED, since=self._init_since)
                self._init_since = None
                raise _RestartError("blocked") from None
            return
        self._init_since = None
        if session.code != SUCCESS:
            self._init_at = now + _RETRY_SECONDS
            if session.code != self._init_code:
                self._init_code = session.code
                detail = f"{session.where} answered {session.code}"
                yield WorkerChanged(
                    at=self.now, state=state_of(session.code), since=now, code=session.code, detail=detail
                )
            return
        self._init_code = None
        self._gpus = [_Gpu(index, self._settings, card) for index, card in enumerate(self.world.listed())]
        yield SessionOpened(
            at=self.now, driver=session.driver, nvml=session.nvml, cuda=session.cuda, count=session.count
        )

    def _events(self) -> Iterator[AnyObservation]:
        listening = {gpu.bdf for gpu in self._gpus or () if gpu.is_open}
        for event in self.world.events_after(self._told_events):
            self._told_events = event.sequence
            bdf = self.world.cards[event.slot].identity.bdf
            if bdf in listening:
                yield NvmlEvent(
                    at=self.now,
                    bdf=bdf,
                    kind=_EVENT_NAMES.get(event.kind, "other"),
                    code=event.data,
                    gi=_id(event.gi),
                    ci=_id(event.ci),
                )

    def _owners(self, listed: GpuProcesses) -> OwnersSeen:
        """Return whose the processes of one GPU are, as the reader of /proc would."""
        if self.world.node_knobs.pids_hidden:
            return OwnersSeen(at=self.now, index=listed.index, bdf=listed.bdf, owners=(), absent=Missing.NO_PERMISSION)
        pids = {process.pid for process in listed.processes}
        here = [process for card in self.world.cards for process in processes_of(card) if process.pid in pids]
        owners = tuple(
            Owned(pid=process.pid, owner=owner_of(f"0::{process.cgroup}", process.command, USER)) for process in here
        )
        return OwnersSeen(at=self.now, index=listed.index, bdf=listed.bdf, owners=owners)

    def _all_blocked(self) -> None:
        """Have the worker replaced when nothing in it moves any more. Raises: _RestartError."""
        since = [gpu.since for gpu in self._gpus or ()]
        limit = self._settings.deadline_seconds + _ALL_BLOCKED_SECONDS
        if since and all(at is not None and self.now.boottime - at > limit for at in since):
            raise _RestartError("blocked")

    def _close(self) -> None:
        for gpu in self._gpus or ():
            gpu.close()
        self._gpus = None
        close_session()

    def _restart(self, why: _RestartError) -> Iterator[AnyObservation]:
        self._close()
        self._init_at = self.now.boottime + 1.0
        if why.crashed or why.reason == "blocked":
            state = WorkerState.CRASHED if why.crashed else WorkerState.BLOCKED
            yield WorkerChanged(at=self.now, state=state, since=self.now.boottime)
        yield WorkerChanged(at=self.now, state=WorkerState.STARTING, since=self.now.boottime, restart_reason=why.reason)


def _id(number: int) -> int | None:
    return None if number == NOT_MIG else number


def observations(
    scenario: Scenario, settings: Settings, started: Callable[[VirtualNode], None] | None = None
) -> Iterator[AnyObservation]:
    """Yield what is observed of a scenario's node, second by second. `started` gets the node, for its commands."""
    node = VirtualNode(scenario, settings)
    if started is not None:
        started(node)
    return node.observations()
