"""Job files of a scheduler's prolog: which there are, what is in them, and a directory that hangs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from gpuwarden.collectors.hpcjobs import JobFiles, Jobs, read_jobs


def test_files_are_gpus_and_lines_are_jobs(tmp_path: Path) -> None:
    """Index, or index.instance; blank lines, other names and directories are nothing."""
    for name, text in {"0": "11\n12\n11\n", "1.3": " 13 \n\n", "2": "", "x": "14", "3.": "15", "0x1": "16"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "4").mkdir()
    assert read_jobs(tmp_path) == {"0": ("11", "12"), "1.3": ("13",)}


def test_a_directory_that_is_not_there_holds_no_job(tmp_path: Path) -> None:
    """It may appear later."""
    assert read_jobs(tmp_path / "later") == {}


def test_size_is_bounded(tmp_path: Path) -> None:
    """Neither a huge file nor a long line gets through whole."""
    (tmp_path / "0").write_text("".join(f"{number}\n" for number in range(100_000)))
    (tmp_path / "1").write_text("x" * 1_000_000)
    found = read_jobs(tmp_path)
    assert len(found["0"]) == 256
    assert len(found["1"][0]) == 256


async def told(seen: list[Jobs], count: int) -> None:
    async with asyncio.timeout(5):
        while len(seen) < count:  # noqa: ASYNC110 - the collector tells by call
            await asyncio.sleep(0.005)


async def test_changes_are_told_once(tmp_path: Path) -> None:
    """A prolog's file, then the epilog's removal."""
    seen: list[Jobs] = []
    jobs = JobFiles(lambda: str(tmp_path), seen.append, period_seconds=0.01)
    task = asyncio.create_task(jobs.run())
    (tmp_path / "0").write_text("4711\n")
    await told(seen, 1)
    (tmp_path / "0").unlink()
    await told(seen, 2)
    task.cancel()
    assert seen == [{"0": ("4711",)}, {}]


async def test_a_directory_that_hangs_has_no_jobs(tmp_path: Path) -> None:
    """Who ran on the GPU a while ago is no answer: the labels go, the loop goes on, and comes back."""
    seen: list[Jobs] = []
    (tmp_path / "0").write_text("4711\n")
    hangs, release = threading.Event(), threading.Event()

    def look(directory: Path) -> Jobs:
        if hangs.is_set():
            release.wait(10)
        return read_jobs(directory)

    jobs = JobFiles(lambda: str(tmp_path), seen.append, look=look, period_seconds=0.01, deadline_seconds=0.05)
    task = asyncio.create_task(jobs.run())
    await told(seen, 1)
    hangs.set()
    await told(seen, 2)
    hangs.clear()
    release.set()
    await told(seen, 3)
    task.cancel()
    assert seen == [{"0": ("4711",)}, {}, {"0": ("4711",)}]
