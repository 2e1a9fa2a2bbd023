"""Reading and asking without a daemon: what is said where there is no journal, or not one for us."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from gpuwarden.errors import JournalError
from gpuwarden.journal import FILE_NAME, read_events, submit_request
from gpuwarden.journal.schema import VERSION
from support.journalled import Journalled, event, opened, written


def test_without_a_journal_it_is_said_so(tmp_path: Path) -> None:
    """Reading makes no file, and a request needs a daemon that ran once: else nobody would ever take it."""
    with pytest.raises(JournalError, match="there is no journal"):
        read_events(tmp_path, None, None, 1)
    with pytest.raises(JournalError, match="has the daemon ever run"):
        submit_request(tmp_path, "forget", {})
    assert list(tmp_path.iterdir()) == []


async def test_another_schema_is_neither_read_nor_written(tmp_path: Path) -> None:
    """The command line of one version does not touch the journal of another."""
    async with opened(tmp_path):
        pass
    with sqlite3.connect(tmp_path / FILE_NAME) as beside:
        beside.execute(f"PRAGMA user_version = {VERSION + 1}")
    beside.close()
    with pytest.raises(JournalError, match=f"schema {VERSION + 1}"):
        read_events(tmp_path, None, None, 1)
    with pytest.raises(JournalError, match=f"schema {VERSION + 1}"):
        submit_request(tmp_path, "forget", {})


def test_a_file_that_is_no_journal_is_said_to_be_none(tmp_path: Path) -> None:
    """Damage is an error with the file's name, not a traceback."""
    (tmp_path / FILE_NAME).write_bytes(b"nonsense " * 1000)
    with pytest.raises(JournalError, match=FILE_NAME):
        read_events(tmp_path, None, None, 1)


async def test_a_journal_in_use_is_read_beside_its_writer(tmp_path: Path) -> None:
    """The command line sees what the running daemon has just committed."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        journal.commit([event(1)], story.node, story.node, None)
        await written(journal)
        assert read_events(tmp_path, None, None, 5) == [event(1)]


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="acting as another user needs root")
async def test_a_reader_needs_no_permission_to_write(tmp_path: Path) -> None:
    """A member of the group reads the journal of a stopped daemon, though it may not write its directory."""
    async with opened(tmp_path / "state") as (journal, remembered):
        story = Journalled(journal, remembered)
        journal.commit([event(1)], story.node, story.node, None)
    assert read_by_somebody_else(tmp_path / "state", Path(f"/tmp/gpuwarden-reader-{os.getpid()}")) == 1


def read_by_somebody_else(state_dir: Path, copy: Path) -> int:
    """Return how many events user and group 4711 read in a copy of `state_dir` that this group may read."""
    shutil.copytree(state_dir, copy)
    try:
        for path in (copy, *copy.iterdir()):
            os.chown(path, 0, 4711)
        child = os.fork()  # not a new Python: this one may lie where 4711 cannot go
        if child == 0:
            found = 255
            try:
                os.setgroups([])
                os.setgid(4711)
                os.setuid(4711)
                found = len(read_events(copy, None, None, 9))
            finally:
                os._exit(found)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        shutil.rmtree(copy)
