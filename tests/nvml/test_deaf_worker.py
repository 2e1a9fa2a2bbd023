"""A worker in true state D: SIGKILL does nothing to it, it is left alone, and nobody joins it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwarden.config import Poll
from gpuwarden.model.observation import AnyObservation, SessionOpened, WorkerChanged, WorkerState
from gpuwarden.nvml.leftovers import ABANDONED_NAME, read_abandoned
from gpuwarden.nvml.link import NvmlLink
from gpuwarden.timebase import Clock

SUPPORT = Path(__file__).parents[1] / "support"
POLL = Poll(fast_seconds=0.1, normal_seconds=0.5, slow_seconds=1.0, deadline_seconds=0.5)


@pytest.fixture
def hang(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A mount with a file whose readers sleep in the kernel until SIGUSR1."""
    (tmp_path / "mount").mkdir()
    served = subprocess.Popen(
        [sys.executable, str(SUPPORT / "hangfs.py"), str(tmp_path / "mount")], stdout=subprocess.PIPE
    )
    assert served.stdout is not None
    assert served.stdout.readline() == b"ready\n"
    yield served
    served.send_signal(signal.SIGUSR1)
    served.send_signal(signal.SIGTERM)
    served.wait(5)


@pytest.mark.real
async def test_a_deaf_worker_is_abandoned_never_joined_and_replaced_when_it_ends(
    tmp_path: Path, hang: subprocess.Popen[bytes]
) -> None:
    """Told and written down; no second worker; a stop stays bounded; its end brings a new session by itself."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "read-init").write_text(str(tmp_path / "mount" / "hang"))
    seen: list[AnyObservation] = []
    news = asyncio.Event()

    def emit(observation: AnyObservation) -> None:
        seen.append(observation)
        news.set()

    async def until(found: type[AnyObservation], state: WorkerState | None, within: float) -> None:
        async with asyncio.timeout(within):
            while not any(isinstance(o, found) and state in (None, getattr(o, "state", None)) for o in seen):
                news.clear()
                await news.wait()

    environ = {"FILEDRIVER_DIR": str(files), "PYTHONPATH": str(SUPPORT)}
    link = NvmlLink(POLL, emit, Clock("b"), runtime_dir=tmp_path, worker_module="filedriver", environ=environ)
    task = asyncio.create_task(link.run())
    await until(WorkerChanged, WorkerState.ABANDONED, 15)
    deaf = read_abandoned(tmp_path)
    assert deaf is not None
    assert link.worker_pid is None
    begun = time.monotonic()
    second = NvmlLink(POLL, emit, Clock("b"), runtime_dir=tmp_path, worker_module="filedriver", environ=environ)
    other = asyncio.create_task(second.run())
    await asyncio.wait((other,), timeout=2.0)
    assert second.worker_pid is None
    other.cancel()
    await second.close()
    assert time.monotonic() - begun < 6
    (files / "read-init").unlink()
    hang.send_signal(signal.SIGUSR1)
    await until(SessionOpened, None, 15)
    assert not (tmp_path / ABANDONED_NAME).exists()
    task.cancel()
    await asyncio.wait((task,))
    await link.close()
