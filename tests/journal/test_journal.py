"""What the journal keeps over restarts, and how it takes a bad day of its file or disk."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

import pytest

from gpuwarden.journal import FILE_NAME, Journal, read_events, submit_request
from gpuwarden.journal.reading import remembered_in
from gpuwarden.journal.schema import SCHEMAS, VERSION
from gpuwarden.journal.store import Store
from gpuwarden.model.observation import BaselineRow, ForgetGpu, KmsgCursor, Restored
from gpuwarden.model.speed import Sketch
from gpuwarden.policy.keeping import kept
from support.journalled import Journalled, event, opened, until, written
from support.story import BOOT, uuid

OTHER_BOOT = "11111111-8d3e-4a77-9f3e-0d6c1b2a3948"


def set_aside(state_dir: Path, why: str) -> Path:
    """Return the one journal that was set aside."""
    (found,) = state_dir.glob(f"{FILE_NAME}.{why}-*Z")
    return found


async def test_a_restart_in_the_same_boot_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Inventory, open incidents, counters of this boot and the cursor are back after a restart, none counted twice."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(2)
        story.xid(1, 79)
        story.xid(1, 79)
        story.xid(0, 13)
        story.stop(KmsgCursor(BOOT, 4711))
    async with opened(tmp_path) as (journal, remembered):
        again = Journalled(journal, remembered, at=2000.0)
    assert remembered.cursor == KmsgCursor(BOOT, 4711)
    assert [row.identity.uuid for row in remembered.inventory] == [uuid(0), uuid(1)]
    assert set(again.node.gpus) == set(story.node.gpus)
    assert again.gpu(1).xids == story.gpu(1).xids
    assert again.gpu(1).xids[0].total == 2
    assert again.gpu(0).xids == story.gpu(0).xids
    assert again.node.incident_totals == story.node.incident_totals
    assert again.node.incidents.keys() == story.node.incidents.keys()
    kept, had = again.node.incidents["xid.xid_79", uuid(1)], story.node.incidents["xid.xid_79", uuid(1)]
    assert (kept.latched, kept.count, kept.opened, kept.evidence) == (True, 2, had.opened, had.evidence)


async def test_after_a_reboot_counters_start_over_and_the_rest_is_remembered(tmp_path: Path) -> None:
    """Counters belong to a boot; inventory, incidents and the cursor are those of any."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(1)
        story.xid(0, 79)
        story.stop(KmsgCursor(BOOT, 9))
    async with opened(tmp_path, OTHER_BOOT) as (journal, remembered):
        assert remembered.counters == ()
        assert remembered.cursor == KmsgCursor(BOOT, 9)
        assert [latch.kind for latch in remembered.latches] == ["xid.xid_79"]
        assert len(remembered.inventory) == 1
        assert remembered.inventory[0].boot_id == BOOT


async def test_changes_of_steps_without_events_ride_along(tmp_path: Path) -> None:
    """What changed in a step that was not committed is written with the next one: the journal never falls behind."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(1)
        events = len(story.events)
        story.nvml_xid(0, 43)
        assert len(story.events) == events
        story.stop()
    async with opened(tmp_path) as (journal, remembered):
        assert [(row.name, row.total) for row in remembered.counters if row.family == "xid"] == [("43", 1)]


async def test_a_forgotten_gpu_is_gone_for_good(tmp_path: Path) -> None:
    """`forget` takes a GPU's row, counters and incidents out of the journal too."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(2)
        story.xid(1, 79)
        await written(journal)
        story.take(ForgetGpu(at=story.at, uuid=uuid(1)))
    async with opened(tmp_path) as (journal, remembered):
        assert [row.identity.uuid for row in remembered.inventory] == [uuid(0)]
        assert not [row for row in remembered.counters if row.uuid == uuid(1)]
        assert not [latch for latch in remembered.latches if latch.uuid == uuid(1)]


async def test_events_are_read_by_kind_time_and_number(tmp_path: Path) -> None:
    """The newest events that match are returned oldest first, with evidence and drill mark as they were."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        told = [event(n, kind="finding" if n % 2 else "incident", evidence={"n": n}, drill=n == 4) for n in range(6)]
        journal.commit(told, story.node, story.node, None)
        await written(journal)
        assert await journal.events(None, None, 100) == told
        assert await journal.events("incident", None, 2) == [told[2], told[4]]
        assert await journal.events(None, told[4].time, 100) == told[4:]
    assert read_events(tmp_path, "finding", None, 1) == [told[5]]


async def test_commits_are_durable_and_grouped(tmp_path: Path) -> None:
    """Each commit is synced to the disk; what comes together goes into one transaction."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        await until(journal, lambda status: status.writable)
        for number in range(500):
            journal.commit([event(number)], story.node, story.node, None)
        status = await written(journal)
        assert status.write_errors == 0
        assert len(await journal.events(None, None, 1000)) == 500
        with sqlite3.connect(tmp_path / FILE_NAME) as beside:
            assert beside.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size < 500 * 4096  # a page each, had they been one by one


async def test_files_are_not_for_everybody(tmp_path: Path) -> None:
    """The directory is 0750 and the files 0640: evidence holds names of processes and jobs."""
    old = os.umask(0)
    try:
        async with opened(tmp_path / "state") as (journal, _):
            await until(journal, lambda status: status.writable)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
            assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o750
    finally:
        os.umask(old)
    assert modes[FILE_NAME] == 0o640
    assert set(modes.values()) == {0o640}


# ---- files that are not what they should be


async def test_a_journal_of_a_newer_schema_is_set_aside_untouched(tmp_path: Path) -> None:
    """A downgrade never writes into what a newer version wrote: the file is renamed, bytes as they were."""
    async with opened(tmp_path):
        pass
    with sqlite3.connect(tmp_path / FILE_NAME) as beside:
        beside.execute(f"PRAGMA user_version = {VERSION + 1}")
    beside.close()
    content = (tmp_path / FILE_NAME).read_bytes()
    async with opened(tmp_path) as (journal, remembered):
        status = await until(journal, lambda status: status.writable)
        aside = set_aside(tmp_path, "newer")
        assert aside.read_bytes() == content
        assert aside.name in status.detail
        assert remembered.inventory == ()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"no database at all, but long enough to have a header of sorts" * 40, id="not-a-database"),
        pytest.param(None, id="pages-overwritten"),
    ],
)
async def test_a_damaged_journal_is_set_aside_untouched(tmp_path: Path, content: bytes | None) -> None:
    """A file that cannot be trusted is renamed for a person to look at; a new one takes its place at once."""
    if content is None:
        async with opened(tmp_path) as (journal, remembered):
            Journalled(journal, remembered).started(4)
        whole = bytearray((tmp_path / FILE_NAME).read_bytes())
        whole[4096:] = b"\xa5" * (len(whole) - 4096)
        content = bytes(whole)
    (tmp_path / FILE_NAME).write_bytes(content)
    async with opened(tmp_path) as (journal, remembered):
        status = await until(journal, lambda status: status.writable)
        aside = set_aside(tmp_path, "corrupt")
        assert aside.read_bytes() == content
        assert aside.name in status.detail
        story = Journalled(journal, remembered)
        story.started(1)
    async with opened(tmp_path) as (_, remembered):
        assert len(remembered.inventory) == 1


async def test_a_database_of_somebody_else_is_not_written_to(tmp_path: Path) -> None:
    """A SQLite file that was never a journal is set aside, not filled with our tables."""
    with sqlite3.connect(tmp_path / FILE_NAME) as other:
        other.execute("CREATE TABLE events (mine TEXT)")
    other.close()
    async with opened(tmp_path) as (journal, _):
        await until(journal, lambda status: status.writable)
    with sqlite3.connect(set_aside(tmp_path, "corrupt")) as other:
        assert other.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (1,)
    other.close()


async def test_a_row_that_no_journal_wrote_counts_as_damage(tmp_path: Path) -> None:
    """A row that does not decode sets the file aside instead of stopping the daemon."""
    async with opened(tmp_path) as (journal, remembered):
        Journalled(journal, remembered).started(1)
    with sqlite3.connect(tmp_path / FILE_NAME) as beside:
        beside.execute("UPDATE inventory SET identity = '{}'")
    beside.close()
    async with opened(tmp_path) as (journal, remembered):
        status = await until(journal, lambda status: status.writable)
        assert remembered.inventory == ()
        assert set_aside(tmp_path, "corrupt").name in status.detail


async def test_a_journal_removed_while_in_use_is_started_anew(tmp_path: Path) -> None:
    """A deleted file is noticed before the next commit; the new one holds all that is known, not only what is new."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        story.started(3)
        usual = BaselineRow(uuid=uuid(2), figure="sm_clock_hertz", history=Sketch({396: 7200.0}))
        story.take(Restored(at=story.at, inventory=(), latches=(), counters=(), baselines=(usual,)))
        story.xid(0, 79)
        await written(journal)
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / f"{FILE_NAME}{suffix}").unlink()
        story.xid(1, 48)
        status = await written(journal)
        assert "removed" in status.detail
    async with opened(tmp_path) as (_, remembered):
        assert len(remembered.inventory) == 3
        assert {latch.kind for latch in remembered.latches} >= {"xid.xid_79", "xid.xid_48"}
        assert remembered.baselines == (usual,)


# ---- disks that do not do as asked


async def test_what_cannot_be_written_waits_in_memory_and_is_written_later(tmp_path: Path) -> None:
    """A lock held by somebody else delays what is written, and status says so; nothing is lost."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        await until(journal, lambda status: status.writable)
        blocker = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        story.started(1)
        story.xid(0, 79)
        status = await until(journal, lambda status: not status.writable)
        assert "locked" in status.detail
        assert status.waiting > 0
        assert status.write_errors > 0
        blocker.execute("ROLLBACK")
        blocker.close()
        status = await written(journal)
        assert (status.detail, status.lost) == ("", 0)
        names = [told.name for told in await journal.events(None, None, 100)]
        assert names == [told.name for told in story.events]


async def test_memory_for_what_waits_is_bounded_and_loss_is_counted(tmp_path: Path) -> None:
    """Where nothing can be written for long, the oldest events go, and status says how many."""
    (tmp_path / "file").write_text("in the way")
    async with opened(tmp_path / "file" / "state") as (journal, remembered):
        story = Journalled(journal, remembered)
        for number in range(10_250):
            journal.commit([event(number)], story.node, story.node, None)
        status = await until(journal, lambda status: status.write_errors > 1 and status.lost == 250)
        assert not status.writable
        assert status.waiting == 10_000


async def test_an_event_that_cannot_be_written_blocks_no_other(tmp_path: Path) -> None:
    """What SQLite cannot hold is given up and counted; what comes after it is written."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered)
        journal.commit([event(1, gpu=1 << 70)], story.node, story.node, None)
        await until(journal, lambda status: status.lost == 1 and status.writable)
        journal.commit([event(2)], story.node, story.node, None)
        await written(journal)
        assert await journal.events(None, None, 10) == [event(2)]


async def test_a_journal_that_opened_was_never_unwritable(tmp_path: Path) -> None:
    """From the moment `open` returns the status is right: a start on a sound disk opens no finding."""
    for _ in range(20):
        async with opened(tmp_path) as (journal, _):
            assert journal.status().writable


async def test_closing_takes_no_longer_than_it_is_given(tmp_path: Path) -> None:
    """A writer that is stuck at the disk is left behind."""
    journal, remembered = Journal.open(tmp_path, BOOT)
    story = Journalled(journal, remembered)
    await until(journal, lambda status: status.writable)
    blocker = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    journal.commit([event()], story.node, story.node, None)
    started = time.monotonic()
    await journal.close(0.2)
    assert time.monotonic() - started < 1.0
    blocker.close()


# ---- keeping it small


def test_old_history_goes_by_age_and_by_number(tmp_path: Path) -> None:
    """Events older than ninety days, those beyond the number kept, and other boots' counters are dropped."""
    store, _ = Store.open(tmp_path)
    now = 1_790_000_000.0
    rows = [("old", now - 91 * 86_400.0), *((f"event-{number}", now - 60) for number in range(30))]
    with sqlite3.connect(tmp_path / FILE_NAME) as beside:
        beside.executemany(
            "INSERT INTO events (time, kind, name, severity, state, boot_id, evidence, drill)"
            " VALUES (?, 'incident', ?, 'info', 'opened', '', '{}', 0)",
            [(at, name) for name, at in rows],
        )
        beside.executemany("INSERT INTO counters VALUES (?, 'sxid', '', '1', 'no', 1, 0)", [(BOOT,), (OTHER_BOOT,)])
    beside.close()
    assert store.tidy(BOOT, now) is False
    assert len(read_events(tmp_path, None, None, 100)) == 30
    store.tidy(BOOT, now, keep_events=10)
    assert [told.name for told in read_events(tmp_path, None, None, 100)] == [f"event-{n}" for n in range(20, 30)]
    assert len(store.remembered(BOOT).counters) == 1
    assert store.remembered(OTHER_BOOT).counters == ()
    store.close()


# ---- requests


async def test_a_request_is_taken_once(tmp_path: Path) -> None:
    """A request made while the daemon is down is taken when it is up, once, also over another restart."""
    async with opened(tmp_path):
        pass
    submit_request(tmp_path, "forget", {"gpu": "GPU-1"})
    async with opened(tmp_path) as (journal, _):
        submit_request(tmp_path, "pause", {"seconds": 60})
        found = await journal.take_requests()
        assert [(request.verb, request.payload) for request in found] == [
            ("forget", {"gpu": "GPU-1"}),
            ("pause", {"seconds": 60}),
        ]
        assert found[0].uid == os.geteuid()
        assert await journal.take_requests() == []
    async with opened(tmp_path) as (journal, _):
        assert await journal.take_requests() == []
        submit_request(tmp_path, "resume", {})
        assert [request.verb for request in await journal.take_requests()] == ["resume"]


async def test_what_gpus_usually_reach_survives_and_goes_with_its_gpu(tmp_path: Path) -> None:
    """Baselines are written when they are due, come back whole, and are forgotten with their GPU."""
    async with opened(tmp_path) as (journal, remembered):
        story = Journalled(journal, remembered).started(2)
        learnt = {number: Sketch({396: 7200.0 + number, 340: 1.5}) for number in (0, 1)}
        rows = tuple(BaselineRow(uuid=uuid(n), figure="sm_clock_hertz", history=learnt[n]) for n in (0, 1))
        before = story.node
        story.take(Restored(at=story.at, inventory=(), latches=(), counters=(), baselines=rows))
        journal.commit((), before, kept(story.node), None)
        await written(journal)
    async with opened(tmp_path) as (journal, remembered):
        assert remembered.baselines == rows
        assert remembered.restored(story.at).baselines == rows
        story = Journalled(journal, remembered)
        story.take(ForgetGpu(at=story.at, uuid=uuid(1)))
        await written(journal)
    async with opened(tmp_path) as (_, remembered):
        assert remembered.baselines == rows[:1]


async def test_a_journal_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    """What it held is still there, and baselines have their place."""
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as old:
        old.executescript(SCHEMAS[0] + "PRAGMA user_version = 1;")
        old.execute(
            "INSERT INTO counters VALUES (?, 'incident', '', 'xid.xid_79', 'critical', 3, 1.0)",
            (BOOT,),
        )
        old.commit()
        assert remembered_in(old, BOOT).baselines == ()
    async with opened(tmp_path) as (journal, remembered):
        assert [row.total for row in remembered.counters] == [3]
        assert remembered.baselines == ()
        assert (await written(journal)).writable
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as now:
        assert now.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert now.execute("SELECT count(*) FROM baselines").fetchone() == (0,)
