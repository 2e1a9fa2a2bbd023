"""A node told step by step: what a test says happens, the engine takes as observations."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gpuwarden.engine import advance, initial
from gpuwarden.model.finding import Event
from gpuwarden.model.gpu import READINGS, GpuIdentity, GpuReading, Lane, Missing
from gpuwarden.model.kernel_log import parse_line
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.observation import (
    AnyObservation,
    GpuBlocked,
    GpuFailed,
    GpuOpened,
    GpuProcesses,
    GpuSampled,
    KernelLogged,
    NvmlEvent,
    OwnersSeen,
    PciDevice,
    PciScanned,
    SessionOpened,
    Stamp,
    Tick,
    WorkerChanged,
    WorkerState,
)
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.step import Command
from gpuwarden.model.workload import GpuProcess, Owned, Owner
from gpuwarden.policy.gpus import put

BOOT = "0f1c6a52-8d3e-4a77-9f3e-0d6c1b2a3948"
COOL = {
    "core_celsius": 50.0,
    "limit_slowdown_celsius": 90.0,
    "power_watts": 200.0,
    "gpu_utilization_ratio": 0.0,
    "performance_state": 0,
}


def bdf(number: int) -> str:
    """Return the address of the GPU in one slot."""
    return f"0000:{0x10 + number:02x}:00.0"


def uuid(number: int) -> str:
    """Return the name of the GPU in one slot."""
    return f"GPU-{number:08x}"


class Story:
    """Time moves only with `wait`; every other method is one observation at the present time."""

    def __init__(self, settings: Settings | None = None, boot: str = BOOT, at: float = 1000.0) -> None:
        self.boot, self.boottime = boot, at
        self.node: NodeState = initial(self.at, settings or Settings(kinds=default_settings()))
        self.events: list[Event] = []
        self.commands: list[Command] = []

    @property
    def at(self) -> Stamp:
        return Stamp(self.boot, self.boottime, 1_790_000_000.0 + self.boottime)

    def take(self, observation: AnyObservation) -> None:
        step = advance(self.node, observation)
        self.node = step.state
        self.events += step.events
        self.commands += step.commands

    def wait(self, seconds: float) -> None:
        """Let time pass in ticks of a second."""
        for _ in range(round(seconds)):
            self.boottime += 1.0
            self.take(Tick(at=self.at))

    def running(self, seconds: float, *numbers: int, lane: Lane = Lane.FAST, **values: Any) -> None:
        """Let time pass while these GPUs are sampled once a second."""
        for _ in range(round(seconds)):
            self.boottime += 1.0
            for number in numbers:
                self.sample(number, lane, **values)
            self.take(Tick(at=self.at))

    def session(self, count: int, driver: str = "") -> None:
        """Open a session; its driver is the loaded module's where none is given."""
        driver = driver or self.node.module_version or "580.1"
        self.take(WorkerChanged(at=self.at, state=WorkerState.UP, since=self.boottime))
        self.take(SessionOpened(at=self.at, driver=driver, nvml="13.580.1", cuda="13.0", count=count))

    def opened(self, number: int, index: int | None = None) -> None:
        identity = GpuIdentity(uuid=uuid(number), bdf=bdf(number), name="NVIDIA H100", serial=f"S{number}")
        self.take(GpuOpened(at=self.at, index=number if index is None else index, identity=identity))
        # a card that has nothing but what the test says it has
        readings = GpuReading(**dict.fromkeys(READINGS, Missing.NOT_SUPPORTED))
        self.node = put(self.node, replace(self.gpu(number), readings=readings))

    def sample(self, number: int, lane: Lane = Lane.FAST, **values: Any) -> None:
        taken = (COOL if lane is Lane.FAST else {}) | values
        self.take(GpuSampled(at=self.at, index=number, bdf=bdf(number), lane=lane, values=taken))

    def processes(self, number: int, *processes: GpuProcess, absent: Missing | None = None) -> None:
        self.take(
            GpuProcesses(
                at=self.at,
                index=number,
                bdf=bdf(number),
                processes=processes,
                total=len(processes),
                absent=absent,
            )
        )

    def owners(self, number: int, owners: dict[int, Owner] | None = None, absent: Missing | None = None) -> None:
        rows = tuple(Owned(pid=pid, owner=owner) for pid, owner in (owners or {}).items())
        self.take(OwnersSeen(at=self.at, index=number, bdf=bdf(number), owners=rows, absent=absent))

    def failed(self, number: int, code: int, *, named: bool = True) -> None:
        address = bdf(number) if named else ""
        self.take(GpuFailed(at=self.at, index=number, bdf=address, code=code, where="handle"))

    def blocked(self, number: int, call: str = "nvmlDeviceGetTemperature") -> None:
        self.take(GpuBlocked(at=self.at, index=number, bdf=bdf(number), call=call, since=self.boottime - 5.0))

    def pci(self, *numbers: int, version: str = "580.1", driver: str = "nvidia") -> None:
        devices = tuple(PciDevice(bdf=bdf(number), driver=driver, slot=f"slot{number}") for number in numbers)
        self.take(PciScanned(at=self.at, readable=True, devices=devices, module_version=version))

    def line(self, text: str, *, from_kernel: bool = True, history: bool = False, count: int = 1) -> None:
        """Say a line in the kernel log; `{n}` in it stands for the address of GPU n without its function."""
        parsed = parse_line(text)
        assert parsed is not None, text
        self.take(
            KernelLogged(
                at=self.at,
                kind=parsed.kind,
                code=parsed.code,
                bdf=parsed.bdf,
                pid=parsed.pid,
                text=parsed.text,
                from_kernel=from_kernel,
                sequence=1,
                history=history,
                count=count,
                fields=parsed.fields,
            )
        )

    def xid(self, number: int, code: int, rest: str = "pid=1, name=x, whatever", **how: Any) -> None:
        self.line(f"NVRM: Xid (PCI:{bdf(number).partition('.')[0]}): {code}, {rest}", **how)

    def nvml_xid(self, number: int, code: int, **instance: int) -> None:
        """Deliver an NVML event; `gi` and `ci` where it is about a MIG instance."""
        self.take(NvmlEvent(at=self.at, bdf=bdf(number), kind="xid", code=code, **instance))

    def started(self, count: int) -> Story:
        """Bring up a session with this many answering GPUs, all on the bus."""
        self.pci(*range(count))
        self.session(count)
        for number in range(count):
            self.opened(number)
            self.sample(number)
        self.wait(1)
        return self

    def gpu(self, number: int) -> GpuState:
        return self.node.gpus[uuid(number)]

    def open(self) -> set[tuple[str, str]]:
        """Return the open incidents as (kind, uuid or "")."""
        return set(self.node.incidents)

    def about(self, kind: str) -> list[Event]:
        """Return the events of one kind: incident, case, action, finding, request."""
        return [event for event in self.events if event.kind == kind]

    def told(self, state: str) -> list[str]:
        """Return the names of incident events of one kind: opened, cleared, changed, repeated."""
        return [event.name for event in self.events if event.kind == "incident" and event.state == state]
