"""One look at this host without a daemon: every source once, through the same engine, and then all is given back."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from gpuwarden import __version__
from gpuwarden.blindspots import KMSG
from gpuwarden.collectors.kmsg import KmsgReader
from gpuwarden.collectors.pci import PciScanner
from gpuwarden.collectors.services import ServiceWatch, Show, systemctl
from gpuwarden.config import Config, settings_of
from gpuwarden.engine import initial
from gpuwarden.exposition import api
from gpuwarden.exposition.native import Extras
from gpuwarden.inbox import Inbox
from gpuwarden.mainloop import MainLoop
from gpuwarden.model.gpu import Lane
from gpuwarden.model.observation import Tick, WorkerState
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import NodeState, Presence
from gpuwarden.nvml.leftovers import ABANDONED_NAME
from gpuwarden.nvml.link import NvmlLink
from gpuwarden.timebase import Clock

_DEADLINE_SECONDS = 3.0  # of one call: a GPU that hangs is named within the look
_CLOSE_SECONDS = 1.0
_STEP_SECONDS = 0.1
_AGAIN_SECONDS = 1.3  # so that rates and clocks-event counters have two samples
_LANES = frozenset({Lane.STATIC, Lane.FAST, Lane.NORMAL, Lane.SLOW})
_SETTLED = frozenset(
    {WorkerState.NO_DRIVER, WorkerState.LIBRARY_MISMATCH, WorkerState.ACCESS_LOST, WorkerState.ABANDONED}
)


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where a look finds what it reads; a simulated node has its own."""

    kmsg: Path = KMSG
    sysfs: Path = Path("/sys")
    services: Show = systemctl
    worker_module: str = "gpuwarden.nvml.worker"
    environ: Mapping[str, str] | None = None
    trusted_kmsg: bool = False


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a look saw: an answer as /api/v1/status gives it, and what was not read in time ("": nothing)."""

    status: dict[str, Any]
    late: str


async def look(config: Config, seconds: float, sources: Sources | None = None) -> Seen:
    """Look at this host for at most `seconds`, and one second more to give everything back."""
    sources = sources or Sources()
    settings = _at_once(settings_of(config))
    poll = replace(config.poll, deadline_seconds=min(config.poll.deadline_seconds, _DEADLINE_SECONDS))
    clock, inbox = Clock(), Inbox()
    main = MainLoop(initial(clock(), settings), inbox, lambda *_: None)
    with _runtime_dir(Path(config.runtime_dir)) as runtime_dir:
        link = NvmlLink(
            poll,
            inbox.put,
            clock,
            runtime_dir=runtime_dir,
            worker_module=sources.worker_module,
            environ=sources.environ,
        )
        kmsg = KmsgReader(sources.kmsg, inbox.put, clock, cursor=None, trusted=sources.trusted_kmsg)
        pci = PciScanner(inbox.put, clock, root=sources.sysfs, period_seconds=3600.0)
        services = ServiceWatch(inbox.put, clock, show=sources.services, period_seconds=3600.0)
        runs = (main.run(), link.run(), pci.run(), services.run(), kmsg.look_back())
        tasks = [asyncio.create_task(each) for each in runs]
        try:
            late = await _wait(main, inbox, clock, seconds)
            status = api.status(main.state, _extras(config))
        finally:
            for task in tasks:
                task.cancel()
            await link.close(_CLOSE_SECONDS)
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)
    return Seen(status=status, late=late)


async def _wait(main: MainLoop, inbox: Inbox, clock: Clock, seconds: float) -> str:
    """Let time pass until everything was read twice over; return what was not, "" where all was."""
    until = time.monotonic() + seconds
    complete_since: float | None = None
    while time.monotonic() < until:
        inbox.put(Tick(at=clock()))
        await asyncio.sleep(_STEP_SECONDS)
        if missing(main.state):
            complete_since = None
            continue
        complete_since = complete_since or time.monotonic()
        if not main.state.gpus or time.monotonic() - complete_since >= _AGAIN_SECONDS:
            return ""
    lacking = missing(main.state)
    return f"not read within {seconds:.0f} s: {', '.join(lacking)}" if lacking else ""


def missing(node: NodeState) -> tuple[str, ...]:
    """Return what a look has not seen yet."""
    sources = (
        ("kernel log", node.kmsg_up is not None),
        ("PCI bus", node.pci_readable is not None),
        ("services", node.services_readable is not None),
    )
    return (*(name for name, seen in sources if not seen), *_nvml_missing(node))


def _nvml_missing(node: NodeState) -> Iterator[str]:
    nvml = node.nvml
    if nvml.state in _SETTLED:
        return
    if nvml.state is not WorkerState.UP or nvml.count is None:
        yield f"NVML ({nvml.state.value})"
        return
    known = node.by_index.keys() | nvml.failed.keys()
    blocked = sum(gpu.presence is Presence.BLOCKED for gpu in node.gpus.values())
    if len(known) < nvml.count - blocked:
        yield f"{nvml.count - len(known)} of {nvml.count} GPUs"
    for uuid in node.by_index.values():
        gpu = node.gpus[uuid]
        lacking = sorted(lane.value for lane in _LANES - gpu.lane_times.keys())
        if gpu.presence is Presence.ANSWERING and lacking:
            yield f"GPU {gpu.index} ({', '.join(lacking)} readings)"


def _at_once(settings: Settings) -> Settings:
    """Return settings without hold times: one look cannot wait whether something lasts."""
    return replace(settings, kinds={name: replace(kind, hold_seconds=0.0) for name, kind in settings.kinds.items()})


@contextlib.contextmanager
def _runtime_dir(configured: Path) -> Iterator[Path]:
    """Give a directory of our own for the worker's traces. A worker in state D, the daemon's or ours, is known in both.

    The daemon's directory itself is not used: beside a daemon that hangs, it says who that daemon's worker is.
    """
    left = configured / ABANDONED_NAME
    with tempfile.TemporaryDirectory(prefix="gpuwarden-check-") as own:
        copy = Path(own) / ABANDONED_NAME
        before = _content(left)
        if before:
            copy.write_bytes(before)
        yield Path(own)
        if (now := _content(copy)) and now != before:
            with contextlib.suppress(OSError):  # not ours to write: then the daemon finds the worker by itself
                left.write_bytes(now)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _extras(config: Config) -> Extras:
    return Extras(
        version=__version__,
        python=platform.python_version(),
        nvml_binding=version("nvidia-ml-py"),
        mode=config.mode,
        hostname=socket.gethostname(),
        labels=config.host.labels,
    )
