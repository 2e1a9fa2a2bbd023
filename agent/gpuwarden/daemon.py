"""The composition root: builds every edge, joins them around the main loop, and ends in bounded time.

Order of a start: directories, simulated node (if any), journal, kernel-log look-back, HTTP, READY; NVML comes when it
comes. Order of an end: sources, HTTP and NVML worker, journal, simulated node; each step has its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gpuwarden import __version__
from gpuwarden.actuators.leaselink import governs, lease_link
from gpuwarden.actuators.remote import actuator_for
from gpuwarden.blindspots import KMSG, blind_spots
from gpuwarden.capture_stream import CaptureStream
from gpuwarden.collectors.hpcjobs import JobFiles
from gpuwarden.collectors.kmsg import KmsgReader
from gpuwarden.collectors.stopquery import StopQuery
from gpuwarden.collectors.workloads import WorkloadReader
from gpuwarden.config import Config, load, settings_of
from gpuwarden.daemon_sources import onlookers
from gpuwarden.engine import Command, Step, initial
from gpuwarden.errors import ConfigError, InputError, JournalError
from gpuwarden.exposition.dcgm_config import Shown
from gpuwarden.exposition.history import History, Point
from gpuwarden.exposition.http import HttpServer, Readiness
from gpuwarden.exposition.native import Extras
from gpuwarden.exposition.render import Dialects
from gpuwarden.inbox import Inbox
from gpuwarden.journal import Journal
from gpuwarden.journal.durability import durability
from gpuwarden.mainloop import MainLoop
from gpuwarden.model.case import Intent
from gpuwarden.model.finding import Event
from gpuwarden.model.gpu import Lane
from gpuwarden.model.observation import (
    AnyObservation,
    GpuProcesses,
    GpuSampled,
    InboxDropped,
    JournalChanged,
    KernelLogged,
    KmsgCursor,
    MemoryJudged,
    Reloaded,
    Tick,
    WorkerState,
)
from gpuwarden.model.rows import kept_of
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import Do, Govern, QuietGpu, ReopenNvml
from gpuwarden.nvml.link import NvmlLink
from gpuwarden.policy.keeping import kept
from gpuwarden.procwatch import ProcessWatch
from gpuwarden.runner import Actuator, Runner
from gpuwarden.sd import Notifier
from gpuwarden.sim.actuator import SimActuator
from gpuwarden.simnode import SimNode
from gpuwarden.supervise import supervised
from gpuwarden.timebase import Clock
from gpuwarden.verbs import Verbs

_STALLED_SECONDS = 10.0
_JOURNAL_REPORT_SECONDS = 60.0
_RECENT_EVENTS = 1000
_REQUESTS_SECONDS = 5.0
_CLOSE_SECONDS = 0.5
"""For the worker at a stop: it ends at its end of file or not at all. systemd then waits 5 s for one in state D."""


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says beside the configuration."""

    sim: str | None = None
    sim_speed: float = 1.0
    kmsg: Path | None = None
    config_path: Path | None = None


Ready = Callable[[tuple[str, ...]], None]
"""Called once with the URLs that are served, when counters and kernel log are up to date."""


def serve(config: Config, options: RunOptions, ready: Ready | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT and return its exit code.

    Raises: GpuwardenError where it cannot start at all (address in use, unknown product to simulate).
    """
    return asyncio.run(Daemon(config, options, ready).run())


class Daemon:
    """One run of the daemon: every edge it built, and the main loop between them."""

    def __init__(self, config: Config, options: RunOptions, ready: Ready | None = None) -> None:
        self._config = config
        self._options = options
        self._on_ready = ready
        self._log = structlog.get_logger()
        self._inbox = Inbox()
        self._notifier = Notifier()
        self._history = History()
        self._recent: deque[Event] = deque(maxlen=_RECENT_EVENTS)
        self._readiness = Readiness()
        self._shown = Shown(os.environ.get("NODE_NAME") or socket.gethostname())
        self._reloading = False
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._ticked = time.monotonic()
        self._captures = CaptureStream(self.node, socket.gethostname())

    async def run(self) -> int:
        """Start, serve until told to stop, give everything back in bounded time; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as undo:
            await self._start(undo)
            loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn("reload", self._reload))
            await self._stop.wait()
            self._log.info("daemon.stopping")
            self._notifier.send(STOPPING="1", STATUS="stopping")
        return 0

    async def _start(self, undo: contextlib.AsyncExitStack) -> None:
        config, options = self._config, self._options
        self._shown.put(self._shown.read(config.exposition))
        runtime_dir, state_dir = Path(config.runtime_dir), Path(config.state_dir)
        _make_directory(runtime_dir)
        sim = None
        if options.sim is not None:
            sim = SimNode(options.sim, runtime_dir / "sim", speed=options.sim_speed)
            await sim.start()
            undo.push_async_callback(sim.stop)
            state_dir = state_dir / "simulated"
        self._clock = Clock(sim.boot_id() if sim is not None else None)
        self._kmsg_path = options.kmsg or (sim.kmsg if sim is not None else KMSG)
        self._journal, remembered = Journal.open(state_dir, self._clock.boot_id)
        undo.push_async_callback(self._journal.close)
        self._main = MainLoop(initial(self._clock(), settings_of(config)), self._inbox, self._taken)
        self._link = NvmlLink(
            config.poll,
            self._inbox.put,
            self._clock,
            runtime_dir=runtime_dir,
            worker_module=sim.worker_module if sim is not None else "gpuwarden.nvml.worker",
            environ=sim.worker_environ if sim is not None else None,
        )
        self._kmsg = KmsgReader(
            self._kmsg_path, self._inbox.put, self._clock, cursor=remembered.cursor, trusted=sim is not None
        )
        self._workloads = WorkloadReader(
            self._inbox.put, self._clock, proc=sim.procfs if sim is not None else Path("/proc")
        )
        stop_query = None
        if config.guards.stop_query:
            stop_query = StopQuery(config.budget.prometheus_url, config.guards.stop_query)
        self._runner = Runner(
            self._actuator(sim),
            self._inbox.put,
            self._clock,
            self.node,
            config.guards.stop_paths if sim is None else (),
            stop_query=stop_query.read if stop_query is not None else None,
            sessions=self._link if sim is None else None,
        )
        self._processes = ProcessWatch(lambda: {"main": os.getpid(), "nvml-worker": self._link.worker_pid})
        verbs = Verbs(self, self._inbox.put, self._clock, sim.socket if sim is not None else None)
        verbs.table["capture"] = self._captures.answer
        self._http = HttpServer(config.web, self, runtime_dir=runtime_dir, verbs=verbs.table)
        self._main.take(remembered.restored(self._clock()))  # its outcome goes to the edges, so they are there
        durable = durability(state_dir, earlier_boot=remembered.earlier_boot)
        self._main.take(MemoryJudged(at=self._clock(), memory=durable))
        self._spawn("main-loop", self._main.run, supervise=False)
        undo.push_async_callback(self._end)
        self._spawn("tick", self._tick, supervise=False)
        for name, source in onlookers(config, sim, self.node, self._inbox.put, self._clock).items():
            self._spawn(name, source)
        self._spawn("workloads", self._workloads.run)
        self._start_nvml(sim)
        if stop_query is not None:
            self._spawn("stop-query", stop_query.run)
        self._spawn("stop-switch", self._runner.watch_stop_switch)
        self._spawn("surroundings", self._runner.watch_surroundings)
        await self._kmsg.look_back()
        self._readiness = Readiness(restored=True, looked_back=True)
        urls = await self._http.start()
        self._spawn("kmsg", self._kmsg.run)
        self._spawn("processes", self._processes.run)
        jobs = JobFiles(lambda: self._config.exposition.dcgm_hpc_job_mapping_dir, self._shown.jobs)
        self._spawn("hpc-jobs", jobs.run)
        self._spawn("journal", self._watch_journal)
        self._spawn("requests", lambda: self._take_requests(verbs))
        self._say_ready(urls)

    def _start_nvml(self, sim: SimNode | None) -> None:
        """Start what reads cards, and what has the heat governor's settings on loan."""
        self._leases = lease_link(
            self._config,
            self._inbox.put,
            self._clock,
            wanted=lambda: governs(self._config),
            setter_environ=sim.worker_environ if sim is not None else None,
        )
        self._spawn("nvml", self._link.run)
        self._spawn("leases", self._leases.run)

    def _actuator(self, sim: SimNode | None) -> Actuator:
        """Return whoever brings effects about."""
        if sim is not None:
            return SimActuator(sim.socket, self._options.sim_speed, self._simulated_reboot)
        return actuator_for(self._config, self._options.config_path)

    def _simulated_reboot(self, boot_id: str) -> None:
        """Begin anew as after a reboot of the simulated host: the engine has what the journal would have kept."""
        before = self._main.state
        self._clock.boot_id = boot_id
        self._log.info("host.rebooted", boot_id=boot_id, simulated=True)
        self._main.state = initial(self._clock(), before.settings)
        self._main.take(kept_of(before, self._clock()))
        self._main.take(MemoryJudged(at=self._clock(), memory=before.around.memory))
        self._spawn("nvml-reopen", lambda: self._link.reopen("driver_reload"))

    def _say_ready(self, urls: tuple[str, ...]) -> None:
        for line in () if self._options.sim is not None else blind_spots(self._kmsg_path):
            self._log.warning("host.not_seen", detail=line)
        self._log.info("daemon.ready", version=__version__, urls=list(urls), mode=self._config.mode)
        self._notifier.send(READY="1", STATUS="watching")
        if self._on_ready is not None:
            self._on_ready(urls)

    def _spawn(self, name: str, source: Callable[[], Awaitable[None]], *, supervise: bool = True) -> None:
        """Run a source as a task. Only the main loop and its tick are fatal: without them nothing is watched."""
        work = supervised(name, source, self._inbox.put, self._clock) if supervise else _awaited(source)
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._tasks_ended)

    def _tasks_ended(self, task: asyncio.Task[None]) -> None:
        with contextlib.suppress(ValueError):
            self._tasks.remove(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.critical("daemon.failed", source=task.get_name(), exc_info=task.exception())
            self._stop.set()

    async def _end(self) -> None:
        """Stop the sources, then HTTP and the worker; what was taken last is committed with the cursor."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        self._runner.cancel()
        await asyncio.wait(tasks, timeout=1.0) if tasks else None
        while len(self._inbox):  # what the log reader has passed counts as taken from here on
            self._main.take(await self._inbox.get())
        await asyncio.gather(self._http.stop(_CLOSE_SECONDS), self._link.close(_CLOSE_SECONDS))
        state = self._main.state
        self._journal.commit((), state, kept(state), self._kmsg.cursor)

    # ---- the loop's outcomes

    def _taken(self, observation: AnyObservation, before: NodeState, step: Step) -> None:
        """Hand on what a step came to. Nothing in here blocks."""
        self._captures.taken(observation, step.events)
        if isinstance(observation, GpuSampled):
            self._record(observation, step.state)
        elif isinstance(observation, GpuProcesses):
            self._workloads.heard(observation)
        elif isinstance(observation, Tick):
            self._ticked = time.monotonic()
        if step.events:
            self._recent.extend(step.events)
        due = step.state.kept_at != before.kept_at or step.state.remedy is not before.remedy
        if step.events or due or step.state.gpus.keys() != before.gpus.keys():
            intents = tuple(command.intent for command in step.commands if isinstance(command, Do))
            begin = partial(self._begin, intents) if intents else None
            self._journal.commit(step.events, before, step.state, self._cursor_of(observation), begin)
        for event in step.events:
            if event.kind != "finding":
                told = {"name": event.name, "severity": event.severity, "gpu": event.gpu, "uuid": event.uuid}
                self._log.info(f"{event.kind}.{event.state}", **told)
        for command in step.commands:
            self._obey(command)

    def _cursor_of(self, observation: AnyObservation) -> KmsgCursor | None:
        """Return how far the log is dealt with once this line is: the reader itself is further on by then."""
        cursor = self._kmsg.cursor
        if not isinstance(observation, KernelLogged) or observation.drill or cursor is None:
            return None  # a drill's line was in no log
        return KmsgCursor(observation.at.boot_id, observation.sequence, cursor.log)

    def _record(self, sample: GpuSampled, node: NodeState) -> None:
        uuid = node.by_index.get(sample.index)
        if uuid is not None and sample.lane is Lane.FAST:
            self._history.record(uuid, sample.at.wall, sample.values)

    def _begin(self, intents: tuple[Intent, ...]) -> None:
        """Have effects brought about whose intents are on the disk now."""
        for intent in intents:
            self._runner.begin(intent)

    def _obey(self, command: Command) -> None:
        match command:
            case Do():
                pass  # begun when what led to it is on the disk
            case QuietGpu(bdf=bdf):
                self._link.quiet(bdf)
            case ReopenNvml(reason=reason):
                self._spawn("nvml-reopen", lambda: self._link.reopen(reason))
            case Govern(order=order):
                self._leases.order(order)

    # ---- own sources

    async def _tick(self) -> None:
        """Tell the time once a second, and the service manager that the loop takes what it is told."""
        dropped = 0
        while True:
            self._inbox.put(Tick(at=self._clock()))
            if self._inbox.dropped != dropped:
                dropped = self._inbox.dropped
                self._inbox.put(InboxDropped(at=self._clock(), total=dropped))
            if not self.stalled():
                self._notifier.send(WATCHDOG="1", STATUS=status_line(self._main.state))
            await asyncio.sleep(1.0)

    async def _watch_journal(self) -> None:
        told, told_at = None, 0.0
        while True:
            status = self._journal.status()
            news = told is None or (status.writable, status.detail) != (told.writable, told.detail)
            if news or time.monotonic() - told_at >= _JOURNAL_REPORT_SECONDS:
                told, told_at = status, time.monotonic()
                self._inbox.put(
                    JournalChanged(
                        at=self._clock(),
                        writable=status.writable,
                        detail=status.detail,
                        size_bytes=status.size_bytes,
                        write_errors=status.write_errors,
                    )
                )
            await asyncio.sleep(1.0)

    async def _take_requests(self, verbs: Verbs) -> None:
        """Carry out what operators wrote into the journal, also while nobody was here."""
        while True:
            try:
                for request in await self._journal.take_requests():
                    await verbs.carry_out(request.verb, request.payload)
            except JournalError:
                pass  # its state is told elsewhere; the request waits in it
            await asyncio.sleep(_REQUESTS_SECONDS)

    async def _reload(self) -> None:
        """Read the configuration again: all of it takes effect or none. Addresses and directories need a restart."""
        self._reloading = True
        try:
            await self._reload_all()
        finally:
            self._reloading = False

    async def _reload_all(self) -> None:
        try:
            config = load(self._options.config_path, os.environ)
            dialects = self._shown.read(config.exposition)
            await self._http.reload()
        except ConfigError as error:
            self._log.error("config.refused", problems=[f"{path}: {text}" for path, text in error.problems])
            self._inbox.put(Reloaded(at=self._clock(), ok=False, detail=str(error)))
            return
        fixed = [
            name
            for name in (
                "state_dir",
                "runtime_dir",
                "poll",
                "web",
                "workload",
                "guards.stop_query",
                "budget.prometheus_url",
            )
            if _differs(config, self._config, name)
        ]
        if fixed:
            self._log.warning("config.restart_needed", sections=fixed)
        self._config = config
        self._shown.put(dialects)
        self._inbox.put(Reloaded(at=self._clock(), ok=True, settings=settings_of(config)))
        self._log.info("config.reloaded")

    # ---- what the HTTP server asks (NodeSource)

    def node(self) -> NodeState:
        """Return the present state of the node."""
        return self._main.state

    def extras(self) -> Extras:
        """Return what the exposition shows beside the state."""
        return Extras(
            version=__version__,
            python=platform.python_version(),
            nvml_binding=version("nvidia-ml-py"),
            mode=self._config.mode,
            hostname=socket.gethostname(),
            labels=self._config.host.labels,
            processes=self._processes.stats,
            gpu_processes=self._config.exposition.processes,
        )

    def dialects(self) -> Dialects:
        """Return under which names the state is shown."""
        return self._shown.dialects

    def reloading(self) -> bool:
        """Return whether the configuration is being read again."""
        return self._reloading

    def readiness(self) -> Readiness:
        """Return how far the start has come."""
        judged = self._main.state.nvml.state is not WorkerState.STARTING
        return msgspec.structs.replace(self._readiness, nvml_judged=judged)

    def stalled(self) -> str:
        """Return why the main loop no longer takes observations; "" while it does."""
        silent = time.monotonic() - self._ticked
        return f"no tick taken for {silent:.0f} s" if silent > _STALLED_SECONDS else ""

    async def events(self, kind: str | None, since: float | None, limit: int) -> Sequence[Event]:
        """Return the newest events, oldest first; from memory where the journal cannot be read."""
        try:
            if self._journal.status().writable:
                return await self._journal.events(kind, since, limit)
        except (JournalError, TimeoutError):
            pass
        found = [e for e in self._recent if kind in (None, e.kind) and (since is None or e.time >= since)]
        return found[-limit:]

    def history(self, uuid: str, reading: str, seconds: float) -> list[Point]:
        """Return the last minutes of one reading."""
        return self._history.points(uuid, reading, seconds, time.time())

    # ---- what the verbs of the status socket ask

    def request(self, verb: str, payload: dict[str, Any]) -> None:
        """Write an operator's request into the log of this daemon."""
        self._log.info("request.taken", verb=verb, **payload)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {path}: {error.strerror}") from None


async def _awaited(source: Callable[[], Awaitable[None]]) -> None:
    await source()


def _differs(new: Config, old: Config, section: str) -> bool:
    return bool(attrgetter(section)(new) != attrgetter(section)(old))


def status_line(node: NodeState) -> str:
    """Return one line about the node, for the service manager."""
    states = [gpu.health.value for gpu in node.gpus.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    return f"{len(states)} GPUs: {counts or 'none seen'}; {len(node.incidents)} incidents open"
