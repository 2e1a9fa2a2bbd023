"""One look without a daemon: what it waits for, what is late, and that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from gpuwarden.cli.look import Sources, look, missing
from gpuwarden.cli.verdict import Verdict, reasons_of, verdict_of
from gpuwarden.collectors.services import from_file
from gpuwarden.config import Config
from gpuwarden.model.gpu import Lane
from gpuwarden.model.observation import WorkerState
from gpuwarden.model.snapshot import NvmlState, Presence
from gpuwarden.nvml.leftovers import ABANDONED_NAME, Abandoned, start_ticks
from gpuwarden.sim import client
from gpuwarden.simnode import SimNode
from support.nodes import gpu, node

TESTS = Path(__file__).parents[1]
XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """A host with an empty PCI bus, a kernel log with an old Xid, and a driver that never answers."""
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    (tmp_path / "kmsg").write_text(f"4,1,1,-;{XID_79}\n")
    return Sources(
        kmsg=tmp_path / "kmsg",
        sysfs=tmp_path / "sys",
        worker_module="support.silentworker",
        environ={"PYTHONPATH": str(TESTS)},
    )


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="gw-"))
    yield path
    shutil.rmtree(path)


def config(tmp_path: Path) -> Config:
    """Return a configuration whose runtime directory does not exist."""
    return Config(runtime_dir=str(tmp_path / "none"), state_dir=str(tmp_path / "none"))


async def test_a_driver_that_does_not_answer_is_late_and_unknown(sources: Sources, tmp_path: Path) -> None:
    """The look ends in time, says what it lacks, and the worker is gone."""
    begun = time.monotonic()
    seen = await look(config(tmp_path), 1.0, sources)
    assert time.monotonic() - begun < 4
    assert seen.late == "not read within 1 s: NVML (starting)"
    assert verdict_of(reasons_of(seen.status, late=seen.late)) is Verdict.UNKNOWN
    assert seen.status["kmsg"]["up"] is True
    assert [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE] == []


async def test_an_abandoned_worker_of_the_daemon_is_respected(sources: Sources, tmp_path: Path) -> None:
    """While it lives no other worker is started beside it, by `check` neither."""
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    left = Abandoned(version=1, pid=os.getpid(), start_ticks=ticks, wchan="nv_ioctl", since=time.time())
    runtime = tmp_path / "run"
    runtime.mkdir()
    (runtime / ABANDONED_NAME).write_bytes(msgspec.json.encode(left))
    seen = await look(msgspec.structs.replace(config(tmp_path), runtime_dir=str(runtime)), 5.0, sources)
    assert seen.status["nvml"]["state"] == "abandoned"
    assert (seen.late, [each["kind"] for each in seen.status["findings"]]) == ("", ["presence.nvml_blocked"])
    assert (runtime / ABANDONED_NAME).exists()


def test_what_is_missing_is_named() -> None:
    """Sources that said nothing, GPUs that did not come, lanes that were not read."""
    lanes = dict.fromkeys((Lane.STATIC, Lane.FAST, Lane.NORMAL, Lane.SLOW), 4999.0)
    whole = node(gpu(0, lane_times=lanes), gpu(1, lane_times=lanes))
    assert missing(whole) == ()
    blind = msgspec.structs.replace(whole, kmsg_up=None, pci_readable=None, services_readable=None)
    assert missing(blind) == ("kernel log", "PCI bus", "services")
    assert missing(node(gpu(0, lane_times=lanes), gpu(1, lane_times={Lane.FAST: 1.0}))) == (
        "GPU 1 (normal, slow, static readings)",
    )
    assert missing(node(gpu(0, lane_times=lanes), gpu(1, presence=Presence.LOST))) == ()
    partly = node(gpu(0, lane_times=lanes), nvml=NvmlState(state=WorkerState.UP, count=8))
    assert missing(partly) == ("7 of 8 GPUs",)
    assert missing(node(nvml=NvmlState(state=WorkerState.NO_DRIVER))) == ()


@asynccontextmanager
async def simulated(spec: str, directory: Path) -> AsyncIterator[tuple[SimNode, Sources]]:
    """Give a simulated node and where a look finds what it reads of it."""
    sim = SimNode(spec, directory)
    await sim.start()
    try:
        yield (
            sim,
            Sources(
                kmsg=sim.kmsg,
                sysfs=sim.sysfs,
                services=from_file(sim.units),
                worker_module=sim.worker_module,
                environ=sim.worker_environ,
            ),
        )
    finally:
        await sim.stop()


async def test_a_healthy_node_is_ok(short_dir: Path, tmp_path: Path) -> None:
    """Through worker, driver table and engine: every GPU answers, nothing is late, well before the time is up."""
    async with simulated("rtx4090x4", short_dir) as (_, sources):
        seen = await look(config(tmp_path), 8.0, sources)
    assert seen.late == ""
    assert [gpu["presence"] for gpu in seen.status["gpus"]] == ["answering"] * 4
    assert verdict_of(reasons_of(seen.status, 4, seen.late)) is Verdict.OK


async def test_a_lost_and_a_hung_gpu_are_named_in_time(short_dir: Path, tmp_path: Path) -> None:
    """Both within one look, each by its own finding; their siblings are read."""
    async with simulated("rtx4090x4", short_dir) as (sim, sources):
        client.inject(sim.socket, "lost", 1)
        client.inject(sim.socket, "hung", 2, call="PowerUsage")
        begun = time.monotonic()
        seen = await look(config(tmp_path), 8.0, sources)
        assert time.monotonic() - begun < 10
    kinds = [(each.kind, each.gpu) for each in reasons_of(seen.status, None, seen.late) if each.severity == "critical"]
    assert {kind for kind, _ in kinds} == {"presence.gpu_lost", "presence.nvml_blocked"}
    answering = [gpu for gpu in seen.status["gpus"] if gpu["presence"] == "answering"]
    assert len(answering) == 2
