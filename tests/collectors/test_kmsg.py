"""The kernel-log reader: what is new, what is history, what is lost, on every kind of log."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gpuwarden.collectors.kmsg import Beginning, KmsgReader, beginning
from gpuwarden.model.observation import (
    AnyObservation,
    KernelLogChanged,
    KernelLogged,
    KmsgCursor,
    LineKind,
    Stamp,
)

BOOT = "5e7b1c1e-0000-4000-8000-000000000001"
TAG = "0000:f3:1e"  # the kernel log is one for the whole machine: these tests look at this address only
DEADLINE_SECONDS = 5.0


def stamp() -> Stamp:
    """Return the present moment in a boot of our own making."""
    return Stamp(BOOT, time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


def record(sequence: int, code: int = 79, *, priority: int = 3, bdf: str = TAG, usec: int = 1) -> bytes:
    """Return one raw record that reports an Xid."""
    return f"{priority},{sequence},{usec},-;NVRM: Xid (PCI:{bdf}): {code}, GPU trouble.\n".encode()


class Heard(list[AnyObservation]):
    """What a reader emitted."""

    @property
    def lines(self) -> list[KernelLogged]:
        return [told for told in self if isinstance(told, KernelLogged) and told.bdf == TAG]

    @property
    def states(self) -> list[KernelLogChanged]:
        return [told for told in self if isinstance(told, KernelLogChanged)]

    @property
    def codes(self) -> list[int | None]:
        return [line.code for line in self.lines for _ in range(line.count)]


def descriptors() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. Raises: TimeoutError when it does not come true."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 (conditions are about other tasks and files)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(reader: KmsgReader) -> AsyncIterator[None]:
    """Look back, then keep the reader running meanwhile."""
    await reader.look_back()
    task = asyncio.create_task(reader.run())
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def reader_of(path: Path, heard: Heard, **options: object) -> KmsgReader:
    """Return a reader with what a test does not care about filled in."""
    defaults: dict[str, object] = {"cursor": None, "retry_seconds": 0.05, "report_seconds": 0.1}
    return KmsgReader(path, heard.append, stamp, **(defaults | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cursor", "log", "expected"),
    [
        pytest.param(None, "", Beginning(None, history=True), id="first-start-is-history"),
        pytest.param(KmsgCursor(BOOT, 7), "", Beginning(7, history=False), id="after-the-cursor-is-new"),
        pytest.param(KmsgCursor("other", 7), "", Beginning(None, history=False), id="after-a-reboot-all-is-new"),
        pytest.param(KmsgCursor("other", 7, "/f"), "/f", Beginning(None, history=True), id="a-file-outlives-boots"),
        pytest.param(KmsgCursor(BOOT, 7), "/f", Beginning(None, history=True), id="the-rings-cursor-is-not-a-files"),
        pytest.param(
            KmsgCursor(BOOT, 7, "/f"), "", Beginning(None, history=True), id="a-files-cursor-is-not-the-rings"
        ),
    ],
)
def test_where_a_log_is_taken_up(cursor: KmsgCursor | None, log: str, expected: Beginning) -> None:
    """The cursor rules, one row each."""
    assert beginning(cursor, BOOT, log) == expected


async def test_a_first_start_tells_old_lines_as_history_and_new_ones_as_new(tmp_path: Path) -> None:
    """What was written before the first start is no reason to act; what comes later is."""
    log, heard = tmp_path / "kmsg", Heard()
    log.write_bytes(record(1, 79))
    async with running(reader_of(log, heard)):
        assert [(line.code, line.history) for line in heard.lines] == [(79, True)]
        with log.open("ab") as file:
            file.write(record(2, 48))
        await until(lambda: len(heard.lines) == 2)
    assert (heard.lines[1].code, heard.lines[1].history) == (48, False)


async def test_nothing_is_told_twice_after_a_restart(tmp_path: Path) -> None:
    """Lines through the cursor stay untold; those written while the reader was away are new, not history."""
    log, heard = tmp_path / "kmsg", Heard()
    log.write_bytes(record(1, 79) + record(2, 48))
    first = reader_of(log, heard)
    async with running(first):
        assert heard.codes == [79, 48]
    with log.open("ab") as file:
        file.write(record(3, 95))
    again = Heard()
    async with running(reader_of(log, again, cursor=first.cursor)):
        assert [(line.code, line.history, line.sequence) for line in again.lines] == [(95, False, 3)]


async def test_an_unremarkable_line_moves_the_cursor_too(tmp_path: Path) -> None:
    """The cursor is the last record read, recognised or not."""
    log = tmp_path / "kmsg"
    log.write_bytes(record(1) + b"6,2,5,-;usb 1-1: new device\n")
    reader = reader_of(log, Heard())
    async with running(reader):
        assert reader.cursor == KmsgCursor(BOOT, 2, str(log))


async def test_a_file_that_begins_to_count_anew_is_read_anew(tmp_path: Path) -> None:
    """A file replaced while the reader was away holds none of what the cursor counted: all of it is new."""
    log, heard = tmp_path / "kmsg", Heard()
    log.write_bytes(record(1, 48))
    async with running(reader_of(log, heard, cursor=KmsgCursor(BOOT, 9000, str(log)))):
        assert [(line.code, line.history) for line in heard.lines] == [(48, False)]


async def test_a_file_is_followed_over_truncation_and_replacement(tmp_path: Path) -> None:
    """Truncated, or renamed away and made anew, as log rotation does: no line is missed or told twice."""
    log, heard = tmp_path / "kmsg", Heard()
    log.write_bytes(record(1, 79) + record(2, 48))
    async with running(reader_of(log, heard)):
        log.write_bytes(record(1, 95))
        await until(lambda: len(heard.codes) == 3)
        log.rename(tmp_path / "kmsg.1")
        with (tmp_path / "kmsg.1").open("ab") as old:
            old.write(record(2, 62))
        log.write_bytes(record(1, 64))
        await until(lambda: len(heard.codes) == 5)
    assert heard.codes == [79, 48, 95, 62, 64]


async def test_a_record_in_two_pieces_is_one_record(tmp_path: Path) -> None:
    """A writer's buffer may end anywhere; half a record is no record yet."""
    log, heard = tmp_path / "kmsg", Heard()
    whole = record(1, 79)
    log.write_bytes(whole[:20])
    async with running(reader_of(log, heard)):
        with log.open("ab") as file:
            file.write(whole[20:] + b" SUBSYSTEM=pci\n DEVICE=+pci:0000:f3:1e.0\n" + record(2, 48))
        await until(lambda: len(heard.lines) == 2)
        assert heard.codes == [79, 48]
    assert heard.lines[0].sequence == 1


async def test_what_follows_a_record_is_not_a_record(tmp_path: Path) -> None:
    """Lines that begin with a space belong to the record before them, whatever they hold; they are not counted."""
    log, heard = tmp_path / "kmsg", Heard()
    log.write_bytes(b"6,1,1,-;usb 1-1: gone\n SUBSYSTEM=usb\n NVRM: Xid (PCI:%b): 79, forged\n\n" % TAG.encode())
    async with running(reader_of(log, heard)):
        assert heard.lines == []
        assert heard.states[-1].records == 1


async def test_a_fifo_outlives_its_writers(tmp_path: Path) -> None:
    """The end of the last writer neither ends the log nor makes the reader spin; the next writer is heard."""
    log, heard = tmp_path / "fifo", Heard()
    os.mkfifo(log)
    async with running(reader_of(log, heard)):
        for code in (79, 48):
            with log.open("wb") as writer:
                writer.write(record(code, code))
            await until(lambda code=code: heard.codes[-1:] == [code])
        before = time.process_time()
        await asyncio.sleep(0.3)
        assert time.process_time() - before < 0.1
    assert heard.codes == [79, 48]
    assert not any(line.history for line in heard.lines)


async def test_a_fifo_that_is_replayed_is_not_told_twice(tmp_path: Path) -> None:
    """A copier that starts over sends the old lines again; one that counts anew sends new ones with low numbers."""
    log, heard = tmp_path / "fifo", Heard()
    os.mkfifo(log)
    reader = reader_of(log, heard, cursor=KmsgCursor(BOOT, 50, str(log)))
    async with running(reader):
        with log.open("wb") as writer:
            writer.write(record(49, 79) + record(50, 48))
            writer.write(record(3, 95, usec=int((time.monotonic() + 0.01) * 1e6)))
        await until(lambda: bool(heard.codes))
    assert heard.codes == [95]


@pytest.mark.parametrize(
    ("priority", "trusted", "of_kernel"),
    [
        pytest.param(3, True, True, id="simulators-kernel-line"),
        pytest.param(3, False, False, id="facility-0-of-a-file-is-a-claim"),
        pytest.param(12, True, False, id="user-facility-is-never-the-kernels"),
    ],
)
async def test_who_wrote_a_line(tmp_path: Path, priority: int, trusted: bool, of_kernel: bool) -> None:
    """Only facility 0, and only of a source that is the kernel's own (or the simulator's), is the kernel's word."""
    log, heard = tmp_path / "kmsg", Heard()
    log.write_bytes(record(1, priority=priority))
    async with running(reader_of(log, heard, trusted=trusted)):
        assert [line.from_kernel for line in heard.lines] == [of_kernel]


async def test_a_line_without_header_is_told_but_not_trusted(tmp_path: Path) -> None:
    """A saved dmesg in place of raw records is understood; nothing in it is the kernel's word."""
    log, heard = tmp_path / "kmsg", Heard()
    log.write_text(f"[   12.5] NVRM: Xid (PCI:{TAG}): 79, GPU has fallen off the bus.\n")
    async with running(reader_of(log, heard, trusted=True)):
        assert [(line.code, line.from_kernel) for line in heard.lines] == [(79, False)]


async def test_repeats_are_folded_and_counted_exactly(tmp_path: Path) -> None:
    """A storm becomes few observations; no event is dropped, and what differs in meaning stays apart."""
    log, heard = tmp_path / "kmsg", Heard()
    change = "NVRM: Xid (PCI:{}): 154, GPU recovery action changed from 0x{} (a) to 0x{} (b)\n"
    lines = [record(number, 95 if number % 3 else 48) for number in range(30_000)]
    lines += [f"3,{40_000 + number},1,-;{change.format(TAG, number, number + 1)}".encode() for number in range(3)]
    log.write_bytes(b"".join(lines))
    async with running(reader_of(log, heard)):
        assert (heard.codes.count(95), heard.codes.count(48)) == (20_000, 10_000)
        assert [line.fields["recovery_to"] for line in heard.lines if line.code == 154] == ["1", "2", "3"]
    assert len(heard.lines) < 2_000


async def test_a_log_that_cannot_be_read_is_said_once_and_picked_up_when_it_can(tmp_path: Path) -> None:
    """Down is one observation, not one a try; the log is taken up by itself when it is there."""
    log, heard = tmp_path / "kmsg", Heard()
    async with running(reader_of(log, heard)):
        await asyncio.sleep(0.3)
        assert [(state.up, state.detail) for state in heard.states] == [(False, "No such file or directory")]
        log.write_bytes(record(1))
        await until(lambda: len(heard.states) == 2)
    assert heard.states[1].up
    assert (heard.states[1].records, heard.states[1].sequence) == (1, 1)
    assert heard.codes == [79]


@pytest.mark.parametrize("path", [Path("/dev/null"), Path("/")], ids=["another-device", "directory"])
async def test_what_is_no_log_is_said(path: Path) -> None:
    """A path that can never be a kernel log is named as such and does not end the reader."""
    heard = Heard()
    async with running(reader_of(path, heard)):
        await asyncio.sleep(0.1)
    assert [state.up for state in heard.states] == [False]
    assert str(path) in heard.states[0].detail


async def test_a_file_that_opens_and_cannot_be_read_is_down_once() -> None:
    """An error that comes only with the first read is told like one at opening: once, never as up."""
    heard = Heard()
    async with running(reader_of(Path("/proc/self/mem"), heard, retry_seconds=0.01)):
        await asyncio.sleep(0.2)
    assert [(state.up, state.detail) for state in heard.states] == [(False, "Input/output error")]


async def test_a_flood_leaves_the_loop_its_turns(tmp_path: Path) -> None:
    """While a hundred thousand lines are read, nothing else in the loop waits longer than a few slices."""
    log, heard = tmp_path / "fifo", Heard()
    os.mkfifo(log)
    flood = b"".join(
        b"6,%d,1,-;usb 1-1: something that nobody needs to know, %d times\n" % (n, n) for n in range(20_000)
    )
    longest = 0.0

    async def heartbeat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - before)

    def write() -> None:
        with log.open("wb") as writer:
            for _ in range(5):
                writer.write(flood)
            writer.write(record(200_000))

    async with running(reader_of(log, heard)):
        beating = asyncio.create_task(heartbeat())
        await asyncio.gather(asyncio.to_thread(write), until(lambda: bool(heard.codes)))
        beating.cancel()
    assert heard.codes == [79]
    assert longest < 0.1


async def test_cancelling_ends_the_reader(tmp_path: Path) -> None:
    """A cancelled reader gives its descriptor back and lets the cancellation through."""
    log = tmp_path / "fifo"
    os.mkfifo(log)
    before = descriptors()
    reader = reader_of(log, Heard())
    await reader.look_back()
    task = asyncio.create_task(reader.run())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert descriptors() == before


@pytest.fixture
def kernel_log() -> Iterator[Callable[[str], None]]:
    """Write lines into the real /dev/kmsg, unlimited meanwhile."""
    limit = Path("/proc/sys/kernel/printk_devkmsg")
    previous = limit.read_text(encoding="ascii")
    limit.write_text("on\n", encoding="ascii")
    descriptor = os.open("/dev/kmsg", os.O_WRONLY)
    try:
        yield lambda text: (os.write(descriptor, text.encode() + b"\n"), None)[1]
    finally:
        os.close(descriptor)
        limit.write_text(previous, encoding="ascii")


@pytest.mark.real
async def test_a_line_in_the_real_kernel_log_is_heard_in_time(kernel_log: Callable[[str], None]) -> None:
    """Written to told within 100 ms; user space cannot write as the kernel, so the line is not the kernel's word."""
    heard = Heard()
    delays = []
    async with running(reader_of(Path("/dev/kmsg"), heard)):
        for number in range(20):
            written = time.monotonic()
            kernel_log(f"<3>NVRM: Xid (PCI:{TAG}): 79, pid={number + 1}, GPU has fallen off the bus.")
            await until(lambda number=number: bool(heard.lines) and heard.lines[-1].pid == number + 1)
            delays.append(time.monotonic() - written)
    line = heard.lines[-1]
    assert (line.kind, line.code, line.from_kernel, line.history) == (LineKind.XID, 79, False, False)
    assert line.age_seconds < 1.0
    assert sorted(delays)[10] < 0.1


@pytest.mark.real
async def test_the_real_log_is_looked_back_into(kernel_log: Callable[[str], None]) -> None:
    """Lines before a first start are history with their age; after the cursor, across a reboot or not, they are new."""
    kernel_log(f"<3>NVRM: Xid (PCI:{TAG}): 62, looked back")
    heard = Heard()
    first = reader_of(Path("/dev/kmsg"), heard)
    async with running(first):
        assert heard.lines[-1].code == 62
        assert all(line.history for line in heard.lines)
    kernel_log(f"<3>NVRM: Xid (PCI:{TAG}): 64, while away")
    after, rebooted = Heard(), Heard()
    async with running(reader_of(Path("/dev/kmsg"), after, cursor=first.cursor)):
        assert [(line.code, line.history) for line in after.lines] == [(64, False)]
    async with running(reader_of(Path("/dev/kmsg"), rebooted, cursor=KmsgCursor("another boot", 10**9))):
        assert rebooted.lines[-1].code == 64
        assert not any(line.history for line in rebooted.lines)


@pytest.mark.real
async def test_an_overrun_of_the_real_ring_is_counted(kernel_log: Callable[[str], None]) -> None:
    """Records overwritten before they were read are counted from the gap in their numbers; reading goes on."""
    heard = Heard()
    reader = reader_of(Path("/dev/kmsg"), heard)
    await reader.look_back()
    begun = heard.states[-1]
    for number in range(20_000):
        kernel_log(f"<6>gpuwarden-test flood {number:06d} {'a' * 80}")
    kernel_log(f"<3>NVRM: Xid (PCI:{TAG}): 95, after the flood")
    async with running(reader):
        await until(lambda: heard.codes[-1:] == [95])
        await until(lambda: heard.states[-1].lost > 0)
    ended = heard.states[-1]
    taken = ended.records - begun.records
    assert ended.lost > 1_000
    assert taken + ended.lost == ended.sequence - begun.sequence
