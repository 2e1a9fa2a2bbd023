"""Whose the processes on a GPU are: real processes, reused pids, other namespaces, and a /proc or user database that
hangs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gpuwarden.collectors import procfs
from gpuwarden.collectors.workloads import WorkloadReader
from gpuwarden.model.gpu import Missing
from gpuwarden.model.observation import AnyObservation, GpuProcesses, OwnersSeen, Stamp
from gpuwarden.model.workload import GpuProcess, ProcessKind, Source

HOST_NAMESPACE = "pid:[4026531836]"
NOW = 5000.0


class Proc:
    """A /proc tree of a test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "self/ns").mkdir(parents=True)
        (root / "self/ns/pid").symlink_to(HOST_NAMESPACE)
        self.add(1, command="systemd", cgroup="0::/init.scope")

    def add(self, pid: int, *, command: str = "python3", cgroup: str, started: float = 10.0, uid: int = 0) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        ticks = int(started * os.sysconf("SC_CLK_TCK"))
        (folder / "stat").write_text(f"{pid} ({command}) S {' '.join(['0'] * 18)} {ticks} 0 0\n")
        (folder / "status").write_text(f"Name:\t{command}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        (folder / "cgroup").write_text(cgroup + "\n")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


def clock() -> Stamp:
    return Stamp("boot", NOW, NOW)


def listing(*pids: int, bdf: str = "0000:3b:00.0", at: float = NOW) -> GpuProcesses:
    processes = tuple(GpuProcess(pid=pid, kind=ProcessKind.COMPUTE, used_bytes=1) for pid in pids)
    return GpuProcesses(at=Stamp("boot", at, at), index=0, bdf=bdf, processes=processes, total=len(pids))


async def look(
    reader: Callable[[Callable[[AnyObservation], None]], WorkloadReader], *lists: GpuProcesses
) -> list[OwnersSeen]:
    """Return what a reader tells of some lists."""
    told: list[OwnersSeen] = []
    enough = asyncio.Event()

    def emit(observation: AnyObservation) -> None:
        assert isinstance(observation, OwnersSeen)
        told.append(observation)
        if len(told) == len(lists):
            enough.set()

    made = reader(emit)
    task = asyncio.create_task(made.run())
    for each in lists:
        made.heard(each)
    async with asyncio.timeout(20):
        await enough.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return told


async def test_owners_are_found(proc: Proc) -> None:
    """Each GPU's list gets its own processes; the user is named."""
    proc.add(70, cgroup="0::/system.slice/slurmstepd.scope/job_9/step_0/user/task_0")
    proc.add(71, cgroup="0::/system.slice/rig.service", command="a (b) c d")
    lists = listing(70), listing(70, 71, bdf="0000:5e:00.0")
    first, second = await look(lambda emit: WorkloadReader(emit, clock, proc=proc.root), *lists)
    assert (first.bdf, [each.pid for each in first.owners], first.absent) == ("0000:3b:00.0", [70], None)
    owners = {each.pid: each.owner for each in second.owners}
    assert (owners[70].source, owners[70].job, owners[70].user) == (Source.SLURM, "9", "root")
    assert (owners[71].workload, owners[71].command) == ("rig.service", "a (b) c d")


async def test_a_process_that_ended_has_no_owner(proc: Proc) -> None:
    """It is not there, and nobody is named in its place."""
    (told,) = await look(lambda emit: WorkloadReader(emit, clock, proc=proc.root), listing(99))
    assert (told.owners, told.absent) == ((), None)


async def test_a_reused_pid_is_somebody_else(proc: Proc) -> None:
    """A process that started after the list was made cannot be the one in it."""
    proc.add(70, cgroup="0::/system.slice/rig.service", started=NOW + 1)
    (told,) = await look(lambda emit: WorkloadReader(emit, clock, proc=proc.root), listing(70))
    assert told.owners == ()


async def test_in_another_pid_namespace_nobody_is_named(proc: Proc) -> None:
    """The same number is another process there: no owner at all, and the reason."""
    proc.add(70, cgroup="0::/system.slice/rig.service")
    (proc.root / "self/ns/pid").unlink()
    (proc.root / "self/ns/pid").symlink_to("pid:[4026532442]")
    (told,) = await look(lambda emit: WorkloadReader(emit, clock, proc=proc.root), listing(70))
    assert (told.owners, told.absent) == ((), Missing.NO_PERMISSION)


def test_hidden_processes_are_a_reason(proc: Proc) -> None:
    """With hidepid not even init is there to see."""
    (proc.root / "1/stat").unlink()
    assert "hidepid" in procfs.why_blind(proc.root)


async def test_a_proc_that_hangs_is_told_in_time(proc: Proc) -> None:
    """The list is answered with a time-out, and the loop goes on meanwhile."""
    proc.add(70, cgroup="0::/x")
    (proc.root / "70/cgroup").unlink()
    os.mkfifo(proc.root / "70/cgroup")  # nobody writes: an open never returns
    begun = time.monotonic()
    (told,) = await look(lambda emit: WorkloadReader(emit, clock, proc=proc.root, deadline_seconds=0.2), listing(70))
    assert (told.owners, told.absent) == ((), Missing.TIMED_OUT)
    assert time.monotonic() - begun < 2.0


async def test_a_user_database_that_hangs_costs_the_name_only(proc: Proc) -> None:
    """The user is then a number; the owner stands."""
    proc.add(70, cgroup="0::/system.slice/rig.service", uid=4242)
    release = threading.Event()

    def name_of(_uid: int) -> str:
        release.wait(30)
        return "late"

    (told,) = await look(
        lambda emit: WorkloadReader(emit, clock, proc=proc.root, name_of=name_of, names_seconds=0.1), listing(70)
    )
    release.set()
    assert [each.owner.user for each in told.owners] == ["4242"]


async def test_a_user_nobody_knows_is_a_number(proc: Proc) -> None:
    """A uid of a container that the host has no name for."""
    proc.add(70, cgroup="0::/system.slice/rig.service", uid=4294900000)
    (told,) = await look(lambda emit: WorkloadReader(emit, clock, proc=proc.root), listing(70))
    assert [each.owner.user for each in told.owners] == ["4294900000"]


def test_a_real_process_is_described() -> None:
    """A child of ours, through the kernel's own files: its command, its user, its start."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        facts = procfs.process(Path("/proc"), child.pid)
        assert child.stdin is not None
        child.stdin.close()
    assert facts is not None
    assert (facts.pid, facts.uid) == (child.pid, os.geteuid())
    assert facts.command.startswith("python")
    assert 0 < facts.started_seconds <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert "::" in facts.cgroup
    assert procfs.process(Path("/proc"), child.pid) is None


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace of one's own needs root")
def test_a_real_pid_namespace_is_noticed() -> None:
    """Through unshare: the kernel's name of the namespace says that it is not the host's."""
    code = (
        "from gpuwarden.collectors.procfs import why_blind; from pathlib import Path; print(why_blind(Path('/proc')))"
    )
    said = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "pid namespace" in said.stdout
