"""The parent's end of NVML: keeps one worker running, turns what it says into observations, and its silence too.

One way to start over: a new worker. A GPU whose thread is past its deadline is named, the worker stays; when nothing
in it moves any more it is replaced; one that survives SIGKILL is abandoned, and no other is started while it lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from msgspec.structs import replace

from gpuwarden.config import Poll
from gpuwarden.model import observation as seen
from gpuwarden.model.observation import AnyObservation, Stamp, WorkerState
from gpuwarden.nvml import wire
from gpuwarden.nvml.codes import name_of, state_of
from gpuwarden.nvml.leftovers import (
    Abandoned,
    end_orphan,
    is_alive,
    read_abandoned,
    write_abandoned,
    write_running,
)
from gpuwarden.nvml.process import WorkerProcess
from gpuwarden.nvml.watch import Ending, SilenceWatch
from gpuwarden.nvml.worker import EXIT_SESSION_DEAD

_LOOK_SECONDS = 0.25
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_LONGEST_BLOCKED_PAUSE_SECONDS = 30.0
_HEALTHY_SECONDS = 60.0
_STALLED_SECONDS = 2.0
_ABANDONED_LOOK_SECONDS = 0.5


class NvmlLink:
    """NVML through a worker process. `emit` gets observations in the event loop's thread and never blocks."""

    def __init__(
        self,
        poll: Poll,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        *,
        runtime_dir: Path,
        worker_module: str = "gpuwarden.nvml.worker",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._poll = poll
        self._emit = emit
        self._clock = clock
        self._runtime_dir = runtime_dir
        self._module = worker_module
        self._environ = environ or {}
        self._worker: WorkerProcess | None = None
        self._deaf: Abandoned | None = None
        self._looked_for_orphan = False
        self._opened: wire.Opened | None = None
        self._quiet_until: dict[str, float] = {}
        self._aside: set[str] = set()
        self._ending: Ending | None = None
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._told: seen.WorkerChanged | None = None
        self._log = structlog.get_logger()

    @property
    def worker_pid(self) -> int | None:
        """The running worker's pid; None while there is none."""
        return self._worker.pid if self._worker is not None else None

    async def run(self) -> None:
        """Keep a worker running until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        reason: str | None = None
        while True:
            await self._may_run.wait()
            await self._wait_for_abandoned()
            self._starting(reason)
            begun = self._clock().boottime
            ending = await self._serve_one()
            reason = ending.reason
            if reason == "request" and not self._may_run.is_set():
                reason = None
                continue
            if self._clock().boottime - begun >= _HEALTHY_SECONDS or ending.planned:
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(0.0 if ending.planned else max(pause, ending.pause_seconds))
            longest = _LONGEST_BLOCKED_PAUSE_SECONDS if reason == "blocked" else _LONGEST_PAUSE_SECONDS
            pause = min(2 * pause, longest)

    async def reopen(self, reason: str) -> None:
        """Start over with a new worker; `reason` is a label of the restart counter."""
        self._quiet_until.clear()
        self._ending = Ending(reason=reason, planned=True)

    async def release(self) -> None:
        """Close NVML entirely and stay closed until `resume`; returns when the worker is gone, or proved deaf."""
        self._may_run.clear()
        self._ending = Ending(reason="request", planned=True)
        await self._idle.wait()
        if self._deaf is not None:
            self._abandoned(self._deaf)
        else:
            self._say(WorkerState.RELEASED)

    async def resume(self) -> None:
        """Open NVML again after `release`."""
        self._may_run.set()

    async def set_aside(self, bdf: str) -> bool:
        """Have one GPU let go: this worker is replaced by one that opens only the others, which stay visible.

        Returns whether nobody of ours holds it any more: False where the old worker cannot be ended.
        """
        self._aside.add(bdf)
        await self._start_over()
        return self._deaf is None

    async def take_back(self, bdf: str) -> None:
        """Open a GPU again that was set aside."""
        self._aside.discard(bdf)
        await self._start_over()

    async def _start_over(self) -> None:
        await self.reopen("gpu_reset")
        await self._idle.wait()

    def quiet(self, bdf: str) -> None:
        """Have one GPU probed now and then left alone for the configured quiet period but for a probe a minute."""
        self._quiet_until[bdf] = self._clock().boottime + self._poll.quiet_seconds
        self._send_quiet(bdf)

    async def close(self, seconds: float = 3.0) -> None:
        """End the worker within so many seconds; one in state D is written down and left."""
        self._may_run.clear()
        worker, self._worker = self._worker, None
        if worker is not None and not await worker.end(seconds):
            write_abandoned(self._runtime_dir, worker.pid)

    def _send_quiet(self, bdf: str) -> None:
        seconds = self._quiet_until.get(bdf, 0.0) - self._clock().boottime
        if self._worker is not None and seconds > 0:
            self._worker.send(wire.encode(wire.Quiet(bdf=bdf, seconds=seconds)))

    # ---- one worker's life

    async def _serve_one(self) -> Ending:
        """Start a worker, pass on what it says, and end it; return why it ended."""
        self._ending = None
        self._opened = None
        try:
            worker = await WorkerProcess.spawn(self._module, self._environ)
        except OSError as error:
            self._crashed(f"cannot start: {error}")
            return Ending(reason="crashed")
        self._worker = worker
        self._idle.clear()
        write_running(self._runtime_dir, worker.pid)
        poll = self._poll
        worker.send(
            wire.encode(
                wire.Start(
                    protocol=wire.PROTOCOL,
                    fast=poll.fast_seconds,
                    normal=poll.normal_seconds,
                    slow=poll.slow_seconds,
                    pcie=poll.pcie_throughput_seconds,
                    aside=tuple(sorted(self._aside)),
                )
            )
        )
        ending = await self._listen(worker)  # cancelled in here, the worker is left for `close` to end
        await self._bury(worker, ending)
        self._worker = None
        self._idle.set()
        return ending

    async def _listen(self, worker: WorkerProcess) -> Ending:
        """Pass on frames until the worker ends, falls silent, or is to be replaced."""
        watch = SilenceWatch(self._poll.deadline_seconds, self._clock().boottime)
        reader = asyncio.create_task(self._read(worker, watch), name="nvml-frames")
        try:
            looked = self._clock().boottime
            while not reader.done():
                await asyncio.wait((reader,), timeout=_LOOK_SECONDS)
                now, before = self._clock().boottime, looked
                looked = now
                if now - before > _STALLED_SECONDS:
                    watch.excuse(now)
                ending = self._ending or watch.verdict(now)
                if ending is not None and not reader.done():
                    return ending
            return reader.result()
        finally:
            reader.cancel()

    async def _read(self, worker: WorkerProcess, watch: SilenceWatch) -> Ending:
        try:
            while (message := await wire.read_frame(worker.frames)) is not None:
                watch.heard(message, self._clock().boottime)
                self._tell(message, watch)
        except wire.WireError as error:
            return Ending(reason="crashed", detail=f"not understood: {error}")
        await worker.ended(1.0)
        code = worker.exit_code()
        if code == EXIT_SESSION_DEAD:
            return Ending(reason="driver_reload", pause_seconds=_LONGEST_PAUSE_SECONDS if watch.failed_init else 0.0)
        return Ending(reason="crashed", detail=_death(code))

    async def _bury(self, worker: WorkerProcess, ending: Ending) -> None:
        """End a worker whose service is over, say what that means, and write down one that does not die."""
        if ending.reason == "crashed":
            self._crashed(ending.detail)
        elif ending.reason == "blocked":
            self._say(WorkerState.BLOCKED, detail=ending.detail, since=ending.since)
        if not await worker.end():
            self._deaf = write_abandoned(self._runtime_dir, worker.pid)
            if self._deaf is not None:
                self._log.error("nvml_worker.abandoned", pid=self._deaf.pid, wchan=self._deaf.wchan)

    async def _wait_for_abandoned(self) -> None:
        """Wait for as long as a worker that cannot be killed is alive: ours, or one of a run before."""
        found = self._deaf or read_abandoned(self._runtime_dir)
        if found is None and not self._looked_for_orphan:
            found = await end_orphan(self._runtime_dir)
        self._looked_for_orphan = True
        if found is None:
            return
        self._abandoned(found)
        while is_alive(found):  # noqa: ASYNC110 - /proc tells nobody when a process that is not our child ends
            await asyncio.sleep(_ABANDONED_LOOK_SECONDS)
        self._deaf = None
        read_abandoned(self._runtime_dir)  # removes the file of the dead
        self._log.info("nvml_worker.abandoned_ended", pid=found.pid)

    # ---- what is told

    def _starting(self, reason: str | None) -> None:
        """Tell of a start. What a new worker has yet to disprove stands until it has, and is not told again."""
        told = self._told
        if told is not None and told.state is WorkerState.BLOCKED:
            self._emit(replace(told, at=self._clock(), restart_reason=reason))
        elif told is None or told.state is not WorkerState.LIBRARY_MISMATCH or reason != "driver_reload":
            self._say(WorkerState.STARTING, reason=reason, always=reason is not None)

    def _abandoned(self, found: Abandoned) -> None:
        at = self._clock()
        self._say(
            WorkerState.ABANDONED,
            detail=f"pid {found.pid} in state D ({found.wchan or 'unknown place'})",
            since=at.boottime - max(0.0, at.wall - found.since),
        )

    def _crashed(self, detail: str) -> None:
        self._log.error("nvml_worker.crashed", detail=detail)
        self._say(WorkerState.CRASHED, detail=detail, always=True)

    def _say(
        self,
        state: WorkerState,
        *,
        code: int | None = None,
        detail: str = "",
        reason: str | None = None,
        since: float | None = None,
        always: bool = False,
    ) -> None:
        """Tell of a change of the worker's state, once."""
        told = self._told
        if told is not None and (state, code) == (told.state, told.code) and not always:
            return
        at = self._clock()
        self._told = seen.WorkerChanged(
            at=at,
            state=state,
            since=at.boottime if since is None else since,
            code=code,
            detail=detail,
            restart_reason=reason,
            pid=self.worker_pid,
        )
        self._emit(self._told)

    def _prove(self) -> None:
        """Tell of the open session now that a GPU has answered in it, where the worker before was given up."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            self._open(opened)

    def _open(self, opened: wire.Opened) -> None:
        self._log.info("nvml.opened", driver=opened.driver, gpus=opened.count)
        self._say(WorkerState.UP)
        self._emit(
            seen.SessionOpened(
                at=self._clock(), driver=opened.driver, nvml=opened.nvml, cuda=opened.cuda, count=opened.count
            )
        )

    def _tell(self, message: wire.FromWorker, watch: SilenceWatch) -> None:
        """Turn one message into the observation it is."""
        if isinstance(message, wire.Gpu | wire.Fault | wire.Sample | wire.Asleep):
            self._prove()
        at = self._clock()
        match message:
            case wire.Sample():
                self._emit(
                    seen.GpuSampled(
                        at=at,
                        index=message.index,
                        bdf=message.bdf,
                        lane=message.lane,
                        values=message.values,
                        rejected=message.rejected,
                        duration_seconds=message.duration_seconds,
                    )
                )
            case wire.Mig():
                self._emit(seen.MigSeen(at=at, index=message.index, bdf=message.bdf, instances=message.instances))
            case wire.Asleep():
                self._emit(seen.GpuAsleep(at=at, index=message.index, bdf=message.bdf))
            case wire.Processes():
                self._emit(
                    seen.GpuProcesses(
                        at=at,
                        index=message.index,
                        bdf=message.bdf,
                        processes=message.processes,
                        total=message.total,
                        absent=message.absent,
                    )
                )
            case wire.Beat():
                for late in watch.late(at.boottime):
                    self._emit(seen.GpuBlocked(at=at, index=late.index, bdf=late.bdf, call=late.call, since=late.since))
            case wire.Gpu():
                self._emit(seen.GpuOpened(at=at, index=message.index, identity=message.identity))
                self._send_quiet(message.identity.bdf)
            case wire.Fault():
                self._emit(
                    seen.GpuFailed(at=at, index=message.index, bdf=message.bdf, code=message.code, where=message.where)
                )
            case wire.NvmlSaid():
                self._emit(
                    seen.NvmlEvent(
                        at=at, bdf=message.bdf, kind=message.kind, code=message.code, gi=message.gi, ci=message.ci
                    )
                )
            case wire.Quieted():
                reason = "gpu_reset" if message.bdf in self._aside else "quiet"
                self._emit(
                    seen.PausedGpu(at=at, index=message.index, bdf=message.bdf, until=message.until, reason=reason)
                )
            case wire.Opened():
                if message.count and self._told is not None and self._told.state is WorkerState.BLOCKED:
                    self._opened = message
                else:
                    self._open(message)
            case wire.InitFailed():
                state = state_of(message.code)
                if self._told is None or (state, message.code) != (self._told.state, self._told.code):
                    self._log.warning("nvml.not_opened", code=message.code, call=message.where, state=state.value)
                self._say(state, code=message.code, detail=f"{message.where} answered {name_of(message.code)}")
            case wire.Hello():
                if message.protocol != wire.PROTOCOL:
                    raise wire.WireError(f"protocol {message.protocol}, not {wire.PROTOCOL}")


def _death(code: int | None) -> str:
    """Return how a process ended, in words."""
    if code is None:
        return "it closed its pipe"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
