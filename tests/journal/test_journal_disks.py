"""The journal on disks that are really full, and really do not answer."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwarden.journal import read_events
from gpuwarden.model.observation import KmsgCursor
from support.journalled import Journalled, event, opened, until, written
from support.story import BOOT

pytestmark = pytest.mark.real


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=20, capture_output=True)


def fill(ballast: Path) -> None:
    """Leave no space on the disk `ballast` lies on."""
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while file.write(b"x" * 4096):
            pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    where = tmp_path / "small"
    where.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(where))
    yield where
    _run("umount", str(where))


@pytest.fixture
def freezable_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that `fsfreeze` can stop, writes and all."""
    image, where = tmp_path / "image", tmp_path / "disk"
    where.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    _run("mkfs.ext4", "-q", str(image))
    _run("mount", "-o", "loop", str(image), str(where))
    yield where
    subprocess.run(["fsfreeze", "-u", str(where)], check=False, timeout=20, capture_output=True)
    _run("umount", str(where))


async def test_a_full_disk_stops_nothing_and_is_made_up_for(small_disk: Path) -> None:
    """No space: status says so, all events wait in memory; space again: they are written in order, none missing."""
    ballast = small_disk / "ballast"
    async with opened(small_disk / "state") as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(2)
        await written(journal)
        fill(ballast)
        told = [event(number, evidence={"text": "y" * 400}) for number in range(400)]
        for one in told:
            journal.commit([one], story.node, story.node, None)
        status = await until(journal, lambda status: not status.writable)
        assert "full" in status.detail
        await until(journal, lambda status: status.write_errors >= 3)
        assert journal.status().waiting == 400
        ballast.unlink()
        status = await written(journal)
        assert (status.detail, status.lost) == ("", 0)
        assert [one for one in await journal.events(None, None, 1000) if one.name == "xid.xid_79"] == told
    async with opened(small_disk / "state") as (_, remembered):
        assert len(remembered.inventory) == 2


async def test_a_start_on_a_full_disk_works_without_a_journal(small_disk: Path) -> None:
    """The daemon starts with nothing remembered and a journal that cannot be written, and it comes when space does."""
    ballast = small_disk / "ballast"
    fill(ballast)
    async with opened(small_disk / "state") as (journal, remembered):
        assert not journal.status().writable
        story = Journalled(journal, remembered)
        story.started(1)
        ballast.unlink()
        await written(journal)
    async with opened(small_disk / "state") as (_, remembered):
        assert len(remembered.inventory) == 1


async def test_what_was_is_remembered_from_a_disk_that_takes_nothing(small_disk: Path) -> None:
    """A restart on a full disk, and on one mounted read-only, still knows counters, incidents and the cursor."""
    async with opened(small_disk / "state") as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(2)
        story.xid(0, 79)
        story.stop(KmsgCursor(BOOT, 7))
    async with opened(small_disk / "state") as (_, known):
        assert (len(known.inventory), known.cursor) == (2, KmsgCursor(BOOT, 7))
    fill(small_disk / "ballast")
    async with opened(small_disk / "state") as (journal, remembered):
        assert remembered == known
        (small_disk / "ballast").unlink()
    _run("mount", "-o", "remount,ro", str(small_disk))
    async with opened(small_disk / "state") as (journal, remembered):
        assert not journal.status().writable
        assert remembered == known
        _run("mount", "-o", "remount,rw", str(small_disk))
        again = Journalled(journal, remembered)
        again.xid(1, 48)
        await written(journal)
    assert [event.name for event in read_events(small_disk / "state", "incident", None, 1)] == ["xid.xid_48"]


async def test_a_disk_that_does_not_answer_stops_nothing(freezable_disk: Path) -> None:
    """While writes hang the event loop goes on, commits return at once, status says so; then all is written."""
    async with opened(freezable_disk) as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(1)
        await written(journal)
        _run("fsfreeze", "-f", str(freezable_disk))
        slowest = 0.0
        for number in range(100):
            started = time.monotonic()
            journal.commit([event(number)], story.node, story.node, None)
            await asyncio.sleep(0)
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 0.05
        status = await until(journal, lambda status: not status.writable, seconds=15.0)
        assert "has not answered" in status.detail
        _run("fsfreeze", "-u", str(freezable_disk))
        status = await written(journal)
        assert (status.lost, status.detail) == (0, "")


async def test_closing_does_not_wait_for_a_disk_that_does_not_answer(freezable_disk: Path) -> None:
    """A stop is bounded although the disk hangs."""
    async with opened(freezable_disk) as (journal, remembered):
        story = Journalled(journal, remembered)
        await until(journal, lambda status: status.writable)
        _run("fsfreeze", "-f", str(freezable_disk))
        journal.commit([event()], story.node, story.node, None)
        started = time.monotonic()
        await journal.close(0.3)
        assert time.monotonic() - started < 1.0
        _run("fsfreeze", "-u", str(freezable_disk))
