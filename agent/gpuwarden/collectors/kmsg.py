"""Follows the kernel log: what is new in it becomes KernelLogged, its own state KernelLogChanged.

What is new. Every record has a sequence number, which the journal keeps as a cursor with the boot id:

- a record of this boot at or before the cursor was taken before, and is not told again;
- one after the cursor is new, also when it was written while we were down;
- the ring holds this boot's lines only, so after a reboot all of it is newer than a cursor of an earlier boot: new,
  not history. Otherwise a fault between the kernel's start and ours would never be acted on;
- without a cursor (a first start) what the log already holds is history: told, but no reason to act;
- a cursor of another log says nothing. A file outlives boots, so for one a cursor of another boot says nothing either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from gpuwarden.collectors.kmsg_source import Slice, Source, open_source
from gpuwarden.model.kernel_log import KmsgRecord, may_matter, parse_line, parse_record, sequence_of
from gpuwarden.model.kernel_message import ParsedLine, parse_message
from gpuwarden.model.observation import AnyObservation, KernelLogChanged, KernelLogged, KmsgCursor, Stamp

_LOOK_BACK_SECONDS = 5.0
_FIRST_RETRY_SECONDS = 1.0
_REST_SECONDS = 0.005  # after records were taken: the next ones come together, instead of one wake-up each
_FLOOD_REST_SECONDS = 0.002
_FLOOD_RECORDS = 64
_PRINTK_SLACK_SECONDS = 5.0  # the printk clock drifts from CLOCK_MONOTONIC
_FOLD_FIELDS = ("severity", "part", "recovery_from", "recovery_to", "caused_by")
_TOLD_APART = ("unit", "link", "words", "one_of")
"""What tells two lines of the kernel's own apart that share a code: one may be harmless and the other fatal."""


class Beginning(msgspec.Struct, frozen=True):
    """Where a log is taken up: records through `skip` are old, and whether what it holds now is history."""

    skip: int | None
    history: bool


def beginning(cursor: KmsgCursor | None, boot_id: str, log: str) -> Beginning:
    """Return where to take up `log` in boot `boot_id`. The rules are in this module's docstring."""
    if cursor is None or cursor.log != log:
        return Beginning(None, history=True)
    if cursor.boot_id != boot_id:
        return Beginning(None, history=log != "")
    return Beginning(cursor.sequence, history=False)


class KmsgReader:
    """The kernel log at `path`: `/dev/kmsg`, a FIFO or a regular file of raw records.

    `cursor` is what the journal remembers, of whichever boot. `trusted` lets facility 0 of another path count as
    written by the kernel: for the simulator's own file only. A log that cannot be read is said once, and tried again
    with a growing pause up to `retry_seconds`. Totals are told when they have changed, every `report_seconds` at most.
    """

    def __init__(
        self,
        path: Path,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        *,
        cursor: KmsgCursor | None,
        trusted: bool = False,
        retry_seconds: float = 30.0,
        report_seconds: float = 5.0,
    ) -> None:
        self._path = path
        self._emit = emit
        self._clock = clock
        self._cursor = cursor
        self._trusted = trusted
        self._retry_seconds = retry_seconds
        self._report_seconds = report_seconds
        self._started = time.monotonic()
        self._source: Source | None = None
        self._begin = Beginning(None, history=True)
        self._up: bool | None = None
        self._detail = ""
        self._records = 0
        self._lost = 0
        self._reported = (0, 0)
        self._reported_at = 0.0
        self._log = structlog.get_logger()

    @property
    def cursor(self) -> KmsgCursor | None:
        """The last record taken, or what was given at the start while nothing newer was."""
        return self._cursor

    async def look_back(self) -> None:
        """Tell what the log holds now, so that counters are right before the first scrape. At most 5 s.

        A log that cannot be read is told as such, and left to `run`.
        """
        if self._source is None and self._open():
            await self._catch_up()

    async def run(self) -> None:
        """Follow the log until cancelled. Raises nothing for a log that cannot be read."""
        pause = _FIRST_RETRY_SECONDS
        try:
            while True:
                if (self._source is not None or self._open()) and await self._follow():
                    pause = _FIRST_RETRY_SECONDS
                await asyncio.sleep(min(pause, self._retry_seconds))
                pause *= 2
        finally:
            self._close()

    # --- opening and closing

    def _open(self) -> bool:
        boot_id = self._clock().boot_id
        try:
            self._source = open_source(self._path, lambda log: beginning(self._cursor, boot_id, log).skip)
        except OSError as error:
            self._report(up=False, detail=_reason(error))
            return False
        self._begin = beginning(self._cursor, boot_id, self._source.log)
        return True

    def _close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    async def _catch_up(self) -> None:
        """Take what the log holds now; what comes after that is not history."""
        until = time.monotonic() + _LOOK_BACK_SECONDS
        at_end = False
        while self._source is not None and not at_end and time.monotonic() < until:
            taken = self._take()
            if taken is None:
                return
            at_end = taken.at_end
            if not at_end:
                await self._pause(taken, until - time.monotonic())
        if self._source is None:
            return
        if self._source.endless:
            self._begin = Beginning(self._begin.skip, history=False)
        if at_end or self._records:  # a file on a disk that hangs opens, and then says nothing
            self._report(up=True)

    async def _follow(self) -> bool:
        """Take records as they come; returns when the log cannot be read any more, and whether it ever could be."""
        if self._up is not True:
            await self._catch_up()
        readable = False
        while self._source is not None:
            taken = self._take()
            if taken is None:
                break
            readable = True
            if taken.at_end and self._up is not True:
                self._report(up=True)
            due = self._report_due()
            if due is not None and due <= 0:
                self._report(up=True)
                due = None
            await self._pause(taken, due)
        return readable

    async def _pause(self, taken: Slice, seconds: float | None) -> None:
        """Let the loop go on; with nothing left to take, until there is something or `seconds` have passed."""
        if self._source is None:
            return
        if taken.records and not taken.at_end:
            await asyncio.sleep(0)
            return
        if taken.records:
            await asyncio.sleep(_FLOOD_REST_SECONDS if len(taken.records) >= _FLOOD_RECORDS else _REST_SECONDS)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._source.wait()
        except TimeoutError:
            return

    # --- taking records

    def _take(self) -> Slice | None:
        """Take one slice and tell what is new in it. None: the log failed and is closed."""
        source = self._source
        assert source is not None
        try:
            taken = source.take()
        except OSError as error:
            self._close()
            self._report(up=False, detail=_reason(error))
            return None
        self._records += len(taken.records)
        self._lost += taken.lost
        if taken.restarted:
            self._begin = Beginning(None, self._begin.history)
        if taken.records:
            self._tell(source, self._fresh(taken.records, source))
        if taken.at_end and self._begin.history:
            self._begin = Beginning(self._begin.skip, history=False)
        return taken

    def _fresh(self, records: list[bytes], source: Source) -> list[bytes]:
        """Return the records that are worth reading and were not taken before, and move the cursor."""
        skip = self._begin.skip
        if skip is not None:
            records = [raw for raw in records if self._is_new(raw, skip, source)]
        if records and (sequence := _last_sequence(records)) is not None:
            self._cursor = KmsgCursor(self._clock().boot_id, sequence, source.log)
            self._begin = Beginning(None, self._begin.history)  # past it: from here on all is new
        return [raw for raw in records if may_matter(raw)]

    def _is_new(self, raw: bytes, skip: int, source: Source) -> bool:
        """Return whether a record lies after the cursor.

        The writer of a FIFO or file may have begun to count anew: a record made after our start is new whatever its
        number.
        """
        sequence = sequence_of(raw)
        if sequence is None or sequence > skip:
            return True
        if source.of_kernel or (record := parse_record(raw)).usec is None:
            return False
        return self._started < record.usec / 1e6 <= time.monotonic() + _PRINTK_SLACK_SECONDS

    def _tell(self, source: Source, records: list[bytes]) -> None:
        """Emit what the records say, repeats of one thing folded into the first with their count."""
        folded: dict[tuple[object, ...], KernelLogged] = {}
        for raw in records:
            record = parse_record(raw)
            line = parse_message(record.text) if record.sequence is not None else parse_line(record.text)
            if line is None:
                continue
            trusted = record.facility == 0 and (source.of_kernel or self._trusted)
            sequence = record.sequence if record.sequence is not None else self._sequence()
            key = _fold_key(line, trusted=trusted)
            if (first := folded.get(key)) is not None:
                folded[key] = msgspec.structs.replace(first, count=first.count + 1, sequence=sequence)
                continue
            folded[key] = KernelLogged(
                at=self._clock(),
                kind=line.kind,
                code=line.code,
                bdf=line.bdf,
                pid=line.pid,
                text=line.text,
                from_kernel=trusted,
                sequence=sequence,
                history=self._begin.history,
                age_seconds=_age(record) if source.of_kernel else 0.0,
                fields=line.fields,
            )
        for told in folded.values():
            self._emit(told)

    # --- saying how it goes

    def _sequence(self) -> int:
        return self._cursor.sequence if self._cursor is not None else 0

    def _report_due(self) -> float | None:
        """Return in how many seconds the totals are to be told, None while they have not changed."""
        if (self._records, self._lost) == self._reported:
            return None
        return self._reported_at + self._report_seconds - time.monotonic()

    def _report(self, *, up: bool, detail: str = "") -> None:
        """Tell the reader's state and totals; a log that is down is told and logged once."""
        if not up and self._up is False and detail == self._detail:
            return
        if up is not self._up or detail != self._detail:
            if up:
                self._log.info("kmsg.became_readable", path=str(self._path))
            else:
                self._log.warning("kmsg.became_unreadable", path=str(self._path), reason=detail)
        self._up, self._detail = up, detail
        self._reported, self._reported_at = (self._records, self._lost), time.monotonic()
        self._emit(
            KernelLogChanged(
                at=self._clock(),
                up=up,
                detail=detail,
                records=self._records,
                lost=self._lost,
                sequence=self._sequence(),
            )
        )


def _fold_key(line: ParsedLine, *, trusted: bool) -> tuple[object, ...]:
    """Return what two lines must share to be told as one with a count."""
    same = (line.kind, line.code, line.bdf, trusted, *(line.fields.get(name) for name in _FOLD_FIELDS))
    return (*same, line.pid, *(line.fields.get(name) for name in _TOLD_APART)) if trusted else same


def _last_sequence(records: list[bytes]) -> int | None:
    """Return the last sequence number among records; one without a readable header has none."""
    return next((number for raw in reversed(records) if (number := sequence_of(raw)) is not None), None)


def _age(record: KmsgRecord) -> float:
    """Return how many seconds ago the kernel wrote a record, by its printk clock."""
    return max(0.0, time.monotonic() - record.usec / 1e6) if record.usec is not None else 0.0


def _reason(error: OSError) -> str:
    """Return why a log cannot be read, in words."""
    return error.strerror or str(error)
