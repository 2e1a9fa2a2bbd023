"""Remediation in the journal: what survives, and when an effect may be asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gpuwarden.journal import FILE_NAME
from support.journalled import Journalled, opened, until
from support.story import BOOT

OTHER_BOOT = "11111111-8d3e-4a77-9f3e-0d6c1b2a3948"


async def test_open_cases_are_back_after_a_restart(tmp_path: Path) -> None:
    """A case, its place on the ladder and its counter are what they were."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(1)
        story.xid(0, 95)
        assert story.node.remedy.cases
    async with opened(tmp_path) as (journal, remembered):
        assert remembered.remedy == story.node.remedy


async def test_what_waits_for_the_disk_is_told_once_it_is_there(tmp_path: Path) -> None:
    """`when_written` comes after the rows can be read by somebody else, and in the event loop."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(1)
        story.xid(0, 95)
        told = asyncio.Event()
        journal.commit((), story.node, story.node, None, told.set)
        async with asyncio.timeout(10.0):
            await told.wait()
        async with opened(tmp_path) as (_, beside):
            assert beside.remedy == story.node.remedy


async def test_what_cannot_be_written_is_not_told(tmp_path: Path) -> None:
    """Where the disk refuses, nobody is asked for an effect; once it takes the rows, it is told after all."""
    blocked = tmp_path / "state"
    blocked.write_text("in the way of the directory")
    async with opened(blocked) as (journal, remembered):
        story = Journalled(journal, remembered)
        told = asyncio.Event()
        journal.commit((), story.node, story.node, None, told.set)
        await until(journal, lambda status: not status.writable and status.write_errors > 2)
        assert not told.is_set()
        blocked.unlink()
        async with asyncio.timeout(10.0):
            await told.wait()
        assert (blocked / FILE_NAME).exists()


async def test_a_row_of_another_boot_proves_that_the_journal_outlives_one(tmp_path: Path) -> None:
    """Only history of an earlier boot says so, not this boot's own."""
    async with opened(tmp_path) as (journal, remembered):
        assert not remembered.earlier_boot
        story = Journalled(journal, remembered)
        story.started(1)
        story.xid(0, 95)
    async with opened(tmp_path, BOOT) as (_, remembered):
        assert not remembered.earlier_boot
    async with opened(tmp_path, OTHER_BOOT) as (_, remembered):
        assert remembered.earlier_boot
