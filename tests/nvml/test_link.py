"""The worker as a real process under its parent: hangs, crashes, silence and drivers that come and go."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from gpuwarden.config import Poll
from gpuwarden.model.gpu import Lane
from gpuwarden.model.observation import (
    AnyObservation,
    GpuBlocked,
    GpuFailed,
    GpuOpened,
    GpuSampled,
    PausedGpu,
    SessionOpened,
    WorkerChanged,
    WorkerState,
)
from gpuwarden.nvml.leftovers import ABANDONED_NAME, read_abandoned, start_ticks, write_abandoned
from gpuwarden.nvml.link import NvmlLink
from gpuwarden.timebase import Clock

_Seen = TypeVar("_Seen", bound=AnyObservation)
POLL = Poll(
    fast_seconds=0.1, normal_seconds=0.5, slow_seconds=1.0, deadline_seconds=0.5, pcie_throughput_seconds=1.0,
    quiet_seconds=5.0,
)  # fmt: skip
SUPPORT = Path(__file__).parents[1] / "support"


class Bench:
    """A link on the file-steered driver, and everything it told."""

    def __init__(self, directory: Path) -> None:
        self.files = directory / "files"
        self.files.mkdir()
        self.runtime = directory
        self.seen: list[AnyObservation] = []
        self._news = asyncio.Event()
        environ = {"FILEDRIVER_DIR": str(self.files), "PYTHONPATH": str(SUPPORT)}
        self.link = NvmlLink(
            POLL, self._emit, Clock("boot"), runtime_dir=directory, worker_module="filedriver", environ=environ
        )

    def _emit(self, observation: AnyObservation) -> None:
        self.seen.append(observation)
        self._news.set()

    def set(self, name: str, value: object = "") -> None:
        (self.files / name).write_text(str(value))

    def clear(self, name: str) -> None:
        (self.files / name).unlink()

    async def until(
        self, kind: type[_Seen], within: float, test: Callable[[_Seen], bool] = lambda _: True, since: int = 0
    ) -> _Seen:
        """Return the first observation of a kind after `since` that passes the test; fail after `within` seconds."""
        async with asyncio.timeout(within):
            while True:
                self._news.clear()
                for observation in self.seen[since:]:
                    if isinstance(observation, kind) and test(observation):
                        return observation
                await self._news.wait()

    async def sampled(self, index: int, within: float = 5.0) -> GpuSampled:
        """Return the next fast sample of one GPU."""
        return await self.until(
            GpuSampled, within, lambda s: s.index == index and s.lane is Lane.FAST, since=len(self.seen)
        )


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Three GPUs, all answering."""
    made = Bench(tmp_path)
    made.set("count", 3)
    task = asyncio.create_task(made.link.run())
    for index in range(3):
        await made.until(GpuSampled, 10, lambda s, i=index: s.index == i)  # type: ignore[misc]
    yield made
    for name in made.files.glob("hang-*"):
        name.unlink()
    task.cancel()
    await asyncio.wait((task,))
    await made.link.close()


async def test_gpus_are_opened_by_name_and_read_in_lanes(bench: Bench) -> None:
    """One session, three identities, values through the whole pipe; what the library prints disturbs nothing."""
    session = await bench.until(SessionOpened, 1)
    assert session.count == 3
    opened = [o for o in bench.seen if isinstance(o, GpuOpened)]
    assert sorted((o.index, o.identity.uuid, o.identity.bdf) for o in opened) == [
        (i, f"GPU-{i}", f"0000:{0x10 + i:02x}:00.0") for i in range(3)
    ]
    assert (await bench.sampled(2)).values["core_celsius"] == 42
    lanes = {o.lane for o in bench.seen if isinstance(o, GpuSampled)}
    assert {Lane.STATIC, Lane.FAST, Lane.NORMAL, Lane.SLOW} <= lanes


async def test_a_hung_call_names_its_gpu_and_leaves_the_siblings_alone(bench: Bench) -> None:
    """Named within deadline and two seconds, with the call; siblings are read meanwhile; it is back when it returns."""
    worker = bench.link.worker_pid
    bench.set("hang-1")
    blocked = await bench.until(GpuBlocked, POLL.deadline_seconds + 2.5)
    assert (blocked.index, blocked.bdf, blocked.call) == (1, "0000:11:00.0", "nvmlDeviceGetTemperature")
    await bench.sampled(0)
    await bench.sampled(2)
    assert bench.link.worker_pid == worker
    bench.clear("hang-1")
    await bench.sampled(1)


async def test_a_crash_is_told_and_a_new_worker_is_there_within_five_seconds(bench: Bench) -> None:
    """SIGSEGV inside the library: how it died, that it is counted, and samples again."""
    first, mark = bench.link.worker_pid, len(bench.seen)
    bench.set("crash")
    crashed = await bench.until(WorkerChanged, 3, lambda o: o.state is WorkerState.CRASHED, since=mark)
    assert crashed.detail == f"signal {signal.SIGSEGV.value}"
    await bench.until(WorkerChanged, 5, lambda o: o.restart_reason == "crashed", since=mark)
    await bench.until(SessionOpened, 5, since=mark)
    await bench.sampled(0)
    assert bench.link.worker_pid not in (None, first)


async def test_a_killed_worker_is_replaced(bench: Bench) -> None:
    """As with a crash: SIGKILL from outside."""
    mark = len(bench.seen)
    assert bench.link.worker_pid is not None
    os.kill(bench.link.worker_pid, signal.SIGKILL)
    await bench.until(SessionOpened, 5, since=mark)


async def test_a_stopped_worker_is_silent_and_replaced(bench: Bench) -> None:
    """SIGSTOP: no beat for the deadline and two seconds means a new worker; the old one does not live on."""
    mark, first = len(bench.seen), bench.link.worker_pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    blocked = await bench.until(WorkerChanged, 6, lambda o: o.state is WorkerState.BLOCKED, since=mark)
    assert blocked.detail == "no word from the worker"
    await bench.until(SessionOpened, 8, since=mark)
    assert start_ticks(first or 0) is None


async def test_a_lost_gpu_is_told_with_its_address_and_tried_again(bench: Bench) -> None:
    """GPU_IS_LOST in a reading: the fault names the GPU; when it answers again it is opened again."""
    mark = len(bench.seen)
    bench.set("code-2", 15)
    failed = await bench.until(GpuFailed, 3, since=mark)
    assert (failed.index, failed.bdf, failed.code) == (2, "0000:12:00.0", 15)
    bench.clear("code-2")
    await bench.until(GpuOpened, 8, lambda o: o.index == 2, since=mark)


async def test_init_that_hangs_is_a_blocked_worker(tmp_path: Path) -> None:
    """nvmlInit past its deadline: told, replaced, and fine when the next one returns."""
    bench = Bench(tmp_path)
    bench.set("hang-init")
    task = asyncio.create_task(bench.link.run())
    blocked = await bench.until(WorkerChanged, 6, lambda o: o.state is WorkerState.BLOCKED)
    assert blocked.detail == "nvmlInit_v2 does not return"
    bench.clear("hang-init")
    await bench.until(SessionOpened, 8)
    task.cancel()
    await asyncio.wait((task,))
    await bench.link.close()


async def test_a_driver_that_comes_later_is_picked_up(tmp_path: Path) -> None:
    """No driver is told once, not every few seconds; the session opens when there is one."""
    bench = Bench(tmp_path)
    bench.set("init", 12)
    task = asyncio.create_task(bench.link.run())
    down = await bench.until(WorkerChanged, 6, lambda o: o.state is WorkerState.NO_DRIVER)
    assert down.code == 12
    bench.set("init", 0)
    await bench.until(SessionOpened, 8)
    assert sum(isinstance(o, WorkerChanged) and o.state is WorkerState.NO_DRIVER for o in bench.seen) == 1
    task.cancel()
    await asyncio.wait((task,))
    await bench.link.close()


async def test_quiet_probes_once_and_then_leaves_the_gpu_alone(bench: Bench) -> None:
    """After an Xid 79: one probe that confirms, then no call; the siblings go on."""
    mark = len(bench.seen)
    bench.link.quiet("0000:10:00.0")
    paused = await bench.until(PausedGpu, 3, since=mark)
    assert paused.index == 0
    after = bench.seen.index(paused)
    for _ in range(5):
        await bench.sampled(1)
    later = [o for o in bench.seen[after:] if isinstance(o, GpuSampled) and o.index == 0 and o.lane is Lane.FAST]
    assert later == []


async def test_release_closes_nvml_and_resume_opens_it(bench: Bench) -> None:
    """For a reset or another tool: the process is gone, not only idle."""
    mark, first = len(bench.seen), bench.link.worker_pid
    await bench.link.release()
    assert bench.link.worker_pid is None
    assert start_ticks(first or 0) is None
    await bench.until(WorkerChanged, 1, lambda o: o.state is WorkerState.RELEASED, since=mark)
    await bench.link.resume()
    await bench.until(SessionOpened, 5, since=mark)


async def test_reopen_is_a_new_worker_with_its_reason_counted(bench: Bench) -> None:
    """The one way to start over."""
    mark, first = len(bench.seen), bench.link.worker_pid
    await bench.link.reopen("driver_reload")
    await bench.until(WorkerChanged, 3, lambda o: o.restart_reason == "driver_reload", since=mark)
    await bench.until(SessionOpened, 5, since=mark)
    assert bench.link.worker_pid != first


async def test_close_leaves_no_process(bench: Bench) -> None:
    """Bounded, and nothing of ours is left."""
    pid = bench.link.worker_pid
    async with asyncio.timeout(3.5):
        await bench.link.close()
    assert start_ticks(pid or 0) is None


async def test_no_second_worker_beside_an_abandoned_one(tmp_path: Path) -> None:
    """A living process in `worker.abandoned` of an earlier run: none is started until it is gone."""
    bench = Bench(tmp_path)
    sleeper = await asyncio.create_subprocess_exec("sleep", "60")
    found = write_abandoned(tmp_path, sleeper.pid)
    assert found is not None
    task = asyncio.create_task(bench.link.run())
    told = await bench.until(WorkerChanged, 3)
    assert told.state is WorkerState.ABANDONED
    assert str(sleeper.pid) in told.detail
    assert bench.link.worker_pid is None
    sleeper.kill()
    await sleeper.wait()
    await bench.until(SessionOpened, 8)
    assert not (tmp_path / ABANDONED_NAME).exists()
    task.cancel()
    await asyncio.wait((task,))
    await bench.link.close()


def test_an_abandoned_file_of_a_dead_or_other_process_is_removed(tmp_path: Path) -> None:
    """A pid that was given to another process since is not that worker."""
    found = write_abandoned(tmp_path, os.getpid())
    assert found is not None
    assert read_abandoned(tmp_path) == found
    text = (tmp_path / ABANDONED_NAME).read_text()
    (tmp_path / ABANDONED_NAME).write_text(text.replace(str(found.start_ticks), "1"))
    assert read_abandoned(tmp_path) is None
    assert not (tmp_path / ABANDONED_NAME).exists()


def _on_the_bus(bench: Bench, *numbers: int) -> None:
    for number in numbers:
        folder = bench.files / "sys/bus/pci/drivers/nvidia" / f"0000:{0x10 + number:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text("0x10de")
        (folder / "class").write_text("0x030200")


async def test_one_gpu_is_set_aside_and_its_siblings_stay_visible(bench: Bench) -> None:
    """A new worker opens the others by address; the one that is set aside is paused, until it is taken back."""
    _on_the_bus(bench, 0, 1, 2)
    first, mark = bench.link.worker_pid, len(bench.seen)
    assert await bench.link.set_aside("0000:11:00.0")
    paused = await bench.until(PausedGpu, 5, since=mark)
    assert (paused.index, paused.bdf, paused.reason) == (1, "0000:11:00.0", "gpu_reset")
    await bench.sampled(0)
    await bench.sampled(2)
    assert bench.link.worker_pid != first
    opened = next(number for number, o in enumerate(bench.seen) if number >= mark and isinstance(o, SessionOpened))
    assert not [o for o in bench.seen[opened:] if isinstance(o, GpuSampled | GpuOpened) and o.index == 1]
    await bench.link.take_back("0000:11:00.0")
    await bench.sampled(1)


async def test_where_nothing_says_which_gpu_is_meant_none_is_opened(bench: Bench) -> None:
    """A card that is held by index by mistake would have its reset refused: all are paused meanwhile."""
    _on_the_bus(bench, 0)
    mark = len(bench.seen)
    assert await bench.link.set_aside("0000:11:00.0")
    paused = await bench.until(PausedGpu, 5, since=mark)
    assert paused.bdf == "0000:11:00.0"
    assert not [o for o in bench.seen[mark:] if isinstance(o, GpuOpened)]
    await bench.link.take_back("0000:11:00.0")
    await bench.sampled(0)


async def test_a_worker_that_cannot_be_ended_lets_nothing_go(bench: Bench, tmp_path: Path) -> None:
    """It is counted as ours as long as it lives: `False` is the reason for a refusal."""
    bench.link._deaf = write_abandoned(tmp_path, os.getpid())
    assert not await bench.link.set_aside("0000:11:00.0")
    bench.link._deaf = None
    await bench.link.take_back("0000:11:00.0")
