"""The worker's threads: one per GPU that reads its lanes on time, one per GPU for PCIe throughput.

A thread that hangs in the driver harms nobody else: it owns its GPU's memory, shares nothing, and is never joined.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuwarden.model.gpu import GpuIdentity, Lane, Missing
from gpuwarden.nvml.codes import SUCCESS
from gpuwarden.nvml.driver import GpuMemory, LaneResult, identify, read_lane
from gpuwarden.nvml.gpm import free
from gpuwarden.nvml.processes import read_processes
from gpuwarden.nvml.session import handle_of
from gpuwarden.nvml.sleepers import SYSFS, is_asleep
from gpuwarden.nvml.wire import Asleep, Busy, Fault, FromWorker, Gpu, Mig, Processes, Quieted, Sample, Start

HANDLE_CALL = "nvmlDeviceGetHandleByIndex_v2"
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 10.0
_PROBE_SECONDS = 60.0
_SLEEPER_SECONDS = 2.0
_DELAYS_ALLOWED = 3
SESSION_IS_DEAD = frozenset({1, 9, 18})
"""Codes after which no handle of this session works any more: UNINITIALIZED, DRIVER_NOT_LOADED, VERSION_MISMATCH."""


def boottime() -> float:
    """Return CLOCK_BOOTTIME in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class GpuThread(threading.Thread):
    """Reads one GPU for as long as the process lives."""

    def __init__(
        self,
        index: int,
        start: Start,
        tell: Callable[[FromWorker], None],
        opened: Callable[[str, Any], None],
        session_dead: Callable[[int], None],
        *,
        address: str = "",
        sysfs: Path = SYSFS,
    ) -> None:
        super().__init__(name=f"gpu-{index}", daemon=True)
        self.index = index
        self._address = address  # by which to open it, where a sibling may sleep
        self._sysfs = sysfs
        self.bdf = ""
        self.memory = GpuMemory()
        self._tell = tell
        self._opened = opened
        self._session_dead = session_dead
        self._periods = {Lane.FAST: start.fast, Lane.NORMAL: start.normal, Lane.SLOW: start.slow}
        self._pcie_period = start.pcie
        self._pcie: PcieThread | None = None
        self._partitioned = False  # whether instances were told last
        self._quiet_until = 0.0
        self._woken = threading.Event()

    def busy(self) -> Busy:
        """Return what this thread is in now."""
        return Busy(index=self.index, bdf=self.bdf, call=self.memory.call, since=self.memory.since)

    def quiet(self, seconds: float) -> None:
        """Probe once now, then leave the GPU alone for so long."""
        self._quiet_until = boottime() + seconds
        self._woken.set()

    def run(self) -> None:
        """Get a handle, read until the GPU as a whole answers badly, begin again with a growing pause."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            begun = boottime()
            code = self._serve()
            if code in SESSION_IS_DEAD:
                self._session_dead(code)
            if boottime() - begun > _LONGEST_RETRY_SECONDS:
                pause = _FIRST_RETRY_SECONDS
            self._rest(_PROBE_SECONDS if self.is_quiet() else pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    def _serve(self) -> int:
        """Read this GPU until it faults; return the code."""
        free(self.memory)
        self._let_sleep()
        self.memory.begin(HANDLE_CALL)
        handle, code = handle_of(self.index, self._address)
        self.memory.end()
        if code != SUCCESS:
            return self._fault(LaneResult(fault=code, where="handle"))
        self.memory.unsupported.clear()
        self.memory.pcie_from_gpm = False
        identity = identify(handle, self.memory)
        if isinstance(identity, LaneResult):
            return self._fault(identity)
        self._announce(identity, handle)
        due = dict.fromkeys(self._periods, boottime())
        fault = self._read(handle, Lane.STATIC)
        while fault is None:
            fault = self._probe(handle) if self.is_quiet() else self._read_due(handle, due)
        return self._fault(fault)

    def _let_sleep(self) -> None:
        """Return once the GPU is awake; somebody else woke it."""
        if not (self._address and is_asleep(self._sysfs, self._address)):
            return
        self._tell(Asleep(index=self.index, bdf=self._address))
        while is_asleep(self._sysfs, self._address):
            self._rest(_SLEEPER_SECONDS)

    def _announce(self, identity: GpuIdentity, handle: Any) -> None:
        self.bdf = identity.bdf
        self._tell(Gpu(index=self.index, identity=identity))
        self._opened(identity.bdf, handle)
        if self._pcie is not None:
            self._pcie.retire()
        self._pcie = PcieThread(self, handle, period=self._pcie_period, tell=self._tell)
        self._pcie.start()

    def _read_due(self, handle: Any, due: dict[Lane, float]) -> LaneResult | None:
        """Read the lanes whose time has come, then wait for the next; a missed beat is skipped, not made up."""
        for lane, period in self._periods.items():
            if due[lane] > boottime():
                continue
            fault = self._read(handle, lane)
            if fault is not None:
                return fault
            due[lane] += period * max(1.0, -(-(boottime() - due[lane]) // period))
        self._rest(max(0.0, min(due.values()) - boottime()))
        return None

    def _read(self, handle: Any, lane: Lane) -> LaneResult | None:
        """Read one lane and tell it; return the result where it is a fault."""
        begun = boottime()
        result = read_lane(handle, lane, self.memory)
        took = boottime() - begun
        if result.fault is not None:
            return result
        if lane is Lane.FAST and self._pcie is not None:
            self._pcie.fast_lane_took(took, self._periods[Lane.FAST])
        self._tell(
            Sample(
                index=self.index,
                bdf=self.bdf,
                lane=lane,
                values=result.values,
                rejected=result.rejected,
                duration_seconds=took,
            )
        )
        if result.instances is not None and (result.instances or self._partitioned):
            self._partitioned = bool(result.instances)
            self._tell(Mig(index=self.index, bdf=self.bdf, instances=result.instances))
        return self._list_processes(handle) if lane is Lane.SLOW else None

    def _list_processes(self, handle: Any) -> LaneResult | None:
        """Tell who holds the GPU; return the result where it is a fault."""
        found = read_processes(handle, self.memory)
        if found.fault is not None:
            return LaneResult(fault=found.fault, where=found.where)
        self._tell(
            Processes(index=self.index, bdf=self.bdf, processes=found.processes, total=found.total, absent=found.absent)
        )
        return None

    def _probe(self, handle: Any) -> LaneResult | None:
        fault = self._read(handle, Lane.FAST)
        if fault is None:
            self._tell(Quieted(index=self.index, bdf=self.bdf, until=self._quiet_until))
            self._rest(min(_PROBE_SECONDS, max(0.0, self._quiet_until - boottime())))
        return fault

    def _fault(self, result: LaneResult) -> int:
        code = result.fault or SUCCESS
        self._tell(Fault(index=self.index, bdf=self.bdf, code=code, where=result.where))
        return code

    def is_quiet(self) -> bool:
        """Return whether the GPU is in a quiet period."""
        return boottime() < self._quiet_until

    def _rest(self, seconds: float) -> None:
        self._woken.wait(seconds)
        self._woken.clear()


class PcieThread(threading.Thread):
    """Samples PCIe throughput: 20 ms and more per direction inside the driver, so it may hold up the fast lane.

    It gives up by itself when it does: three fast lanes that took more than half their period while it was sampling.
    """

    def __init__(self, gpu: GpuThread, handle: Any, *, period: float, tell: Callable[[FromWorker], None]) -> None:
        super().__init__(name=f"pcie-{gpu.index}", daemon=True)
        self._gpu = gpu
        self._bdf = gpu.bdf
        self._handle = handle
        self._period = period
        self._tell = tell
        self._memory = GpuMemory()
        self._over = threading.Event()
        self._delays = 0

    def retire(self) -> None:
        """Have the thread end after the call it is in."""
        self._over.set()

    def fast_lane_took(self, seconds: float, period: float) -> None:
        """Hear how long a fast lane took; told by the GPU's own thread."""
        if self._memory.call and seconds > period / 2:
            self._delays += 1
            if self._delays >= _DELAYS_ALLOWED:
                self.retire()

    def run(self) -> None:
        """Sample every period until retired; then say that there is nothing to expect."""
        while not self._over.wait(self._period):
            if self._gpu.is_quiet() or self._gpu.memory.pcie_from_gpm:
                continue
            begun = boottime()
            result = read_lane(self._handle, Lane.PCIE, self._memory)
            if result.fault is not None:
                return
            self._say(result.values, result.rejected, boottime() - begun)
            if all(value is Missing.NOT_SUPPORTED for value in result.values.values()):
                return
        if self._delays >= _DELAYS_ALLOWED:
            names = ("pcie_tx_bytes_per_second", "pcie_rx_bytes_per_second")
            self._say(dict.fromkeys(names, Missing.PAUSED), (), 0.0)

    def _say(self, values: dict[str, Any], rejected: tuple[str, ...], took: float) -> None:
        self._tell(
            Sample(
                index=self._gpu.index,
                bdf=self._bdf,
                lane=Lane.PCIE,
                values=values,
                rejected=rejected,
                duration_seconds=took,
            )
        )
