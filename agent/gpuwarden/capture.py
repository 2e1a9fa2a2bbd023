"""Captures: what a host observed, and what came of it, in a file that another machine can put through the engine again.

One JSON value a line: a header, then each observation in the order in which the engine took it, each followed by the
events it led to, if any. Compressed where the name ends in `.gz`. The header holds the settings and the node as it was
when the capture began, as observations that bring a new engine to about the same state.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from gpuwarden import __version__
from gpuwarden.capture_mask import Masker
from gpuwarden.errors import InputError
from gpuwarden.model import codec
from gpuwarden.model.finding import Event
from gpuwarden.model.gpu import Lane
from gpuwarden.model.observation import (
    AnyObservation,
    FleetAsked,
    GpuBlocked,
    GpuFailed,
    GpuOpened,
    GpuProcesses,
    GpuSampled,
    KernelLogChanged,
    MemoryJudged,
    OwnersSeen,
    PciScanned,
    PodsSeen,
    Restored,
    SessionOpened,
    Stamp,
    StopRead,
    SurroundingsSeen,
    Tick,
    WorkerChanged,
    WorkerState,
)
from gpuwarden.model.rows import baseline_rows, counter_rows, inventory_row, latch_row
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.workload import Owned

FORMAT = "gpuwarden-capture"
VERSION = 1
_LONGEST_LINE_BYTES = 16 << 20
_NAMELESS = (GpuSampled, Tick)  # hold no name of a board, and are most of a capture


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. `opening` brings an engine with `settings` to where the capture began."""

    format: str
    version: int
    gpuwarden: str
    host: str
    masked: bool
    at: Stamp
    settings: Settings
    opening: tuple[AnyObservation, ...]


class Decided(msgspec.Struct, frozen=True, tag_field="type", tag=True):
    """The line after an observation that led to events."""

    events: tuple[Event, ...]


class Taken(msgspec.Struct, frozen=True):
    """One observation and the events it led to."""

    observation: AnyObservation
    events: tuple[Event, ...] = ()


class Recorder:
    """Turns what the engine takes into the lines of a capture. Does no I/O."""

    def __init__(self, node: NodeState, *, host: str, mask: bool = True) -> None:
        self._masker = Masker() if mask else None
        self.header = self._line(
            msgspec.json.encode(
                Header(
                    format=FORMAT,
                    version=VERSION,
                    gpuwarden=__version__,
                    host=self._masker.host(host) if self._masker is not None else host,
                    masked=mask,
                    at=node.now,
                    settings=node.settings,
                    opening=tuple(opening(node)),
                )
            )
        )

    def lines(self, observation: AnyObservation, events: Iterable[Event] = ()) -> bytes:
        """Return an observation, and the events it led to, as lines with their ends."""
        plain = codec.encode(observation)
        line = plain + b"\n" if isinstance(observation, _NAMELESS) else self._line(plain)
        decided = tuple(events)
        return line + self._line(msgspec.json.encode(Decided(decided))) if decided else line

    def _line(self, plain: bytes) -> bytes:
        if self._masker is None:
            return plain + b"\n"
        return msgspec.json.encode(self._masker.masked(msgspec.json.decode(plain))) + b"\n"


class CaptureWriter:
    """A capture being written to a new file that only this user may read. Blocks for as long as the disk does.

    Raises, here and from `write`: InputError where the file exists or cannot be written.
    """

    def __init__(self, path: Path, node: NodeState, *, host: str | None = None, mask: bool = True) -> None:
        self._path = path
        self._recorder = Recorder(node, host=host if host is not None else os.uname().nodename, mask=mask)
        try:
            raw = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        self._raw: IO[bytes] = raw
        self._file: IO[bytes] = gzip.GzipFile(fileobj=raw, mode="wb") if path.suffix == ".gz" else raw  # type: ignore[assignment]
        self._put(self._recorder.header)

    def write(self, observation: AnyObservation, events: Iterable[Event] = ()) -> None:
        """Add one observation and the events it led to."""
        self._put(self._recorder.lines(observation, events))

    def close(self) -> None:
        """Finish the file."""
        try:
            self._file.close()
            self._raw.close()
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror}") from None

    def __enter__(self) -> CaptureWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror}") from None


class Capture:
    """A capture being read: `header` at once, then each step in order, once.

    `truncated` says after the last step that the end was cut off: the writer was stopped, or the copy is not whole.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self._number = 0
        self.truncated = False
        self.header = self._header()

    def __iter__(self) -> Iterator[Taken]:
        """Yield the steps. Raises: InputError naming the line that is not what it should be."""
        pending: AnyObservation | None = None
        with self._file:
            while (line := self._next()) is not None:
                found = self._decoded(line)
                if isinstance(found, Decided):
                    if pending is None:
                        raise self._refused("events without an observation")
                    yield Taken(pending, found.events)
                    pending = None
                else:
                    if pending is not None:
                        yield Taken(pending)
                    pending = found
            if pending is not None and not self.truncated:
                yield Taken(pending)

    def _header(self) -> Header:
        line = self._next()
        try:
            start = msgspec.json.decode(line or b"", type=_Start)
        except msgspec.DecodeError:
            raise InputError(f"{self._path}: not a capture of gpuwarden") from None
        if start.format != FORMAT:
            raise InputError(f"{self._path}: not a capture of gpuwarden")
        if start.version != VERSION:
            raise InputError(f"{self._path}: capture version {start.version}, this gpuwarden reads {VERSION}")
        try:
            return msgspec.json.decode(line or b"", type=Header)
        except msgspec.DecodeError as error:
            raise self._refused(str(error)) from None

    def _decoded(self, line: bytes) -> AnyObservation | Decided:
        try:
            return _LINES.decode(line)
        except msgspec.DecodeError as error:
            raise self._refused(str(error)) from None

    def _next(self) -> bytes | None:
        """Return the next whole line without its end, None at the end or where the rest was cut off."""
        self._number += 1
        try:
            line = self._file.readline(_LONGEST_LINE_BYTES)
        except EOFError:  # the compressed stream stops in the middle
            self.truncated = True
            return None
        except (OSError, zlib.error) as error:
            raise self._refused(str(error)) from None
        if line.endswith(b"\n"):
            return line[:-1]
        if len(line) == _LONGEST_LINE_BYTES:
            raise self._refused("longer than 16 MiB")
        self.truncated |= bool(line)
        return None

    def _refused(self, why: str) -> InputError:
        return InputError(f"{self._path}, line {self._number}: {why}")


class _Start(msgspec.Struct):
    """What every version's first line has."""

    format: str
    version: int


_LINES: msgspec.json.Decoder[AnyObservation | Decided] = msgspec.json.Decoder(AnyObservation | Decided)


def read_capture(path: Path) -> Capture:
    """Return the capture in a file, compressed or not. Raises: InputError where it is none, or of another version."""
    try:
        file = path.open("rb")
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    return Capture(path, gzip.GzipFile(fileobj=file) if compressed else file)  # type: ignore[arg-type]


def opening(node: NodeState) -> Iterator[AnyObservation]:
    """Yield observations that bring a new engine to about where `node` is: who is there, what is open, what was read.

    What is derived from many readings (growth over a window, how long a load has lasted) starts over.
    """
    at, nvml = node.now, node.nvml
    counters = tuple(counter_rows(node))
    yield Restored(
        at=at,
        inventory=tuple(inventory_row(gpu, at.boot_id) for gpu in node.gpus.values()),
        latches=(),
        counters=tuple(row for row in counters if row.family != "incident"),
        baselines=tuple(baseline_rows(node)),
    )
    if node.pci_readable is not None:
        yield PciScanned(at=at, readable=node.pci_readable, devices=node.pci, module_version=node.module_version)
    if node.kmsg_up is not None:
        yield KernelLogChanged(
            at=at,
            up=node.kmsg_up,
            detail=node.kmsg_detail,
            records=node.kmsg_records,
            lost=node.kmsg_lost,
            sequence=0,
        )
    if node.pods_readable is not None:
        yield PodsSeen(at=at, readable=node.pods_readable, detail="", pods=node.pods)
    if nvml.session:
        yield WorkerChanged(at=at, state=WorkerState.UP, since=nvml.since)
        yield SessionOpened(at=at, driver=nvml.driver, nvml=nvml.nvml, cuda=nvml.cuda, count=nvml.count or 0)
        for index, uuid in sorted(node.by_index.items()):
            yield from _opened(at, index, node.gpus[uuid])
        for index, (code, _) in sorted(nvml.failed.items()):
            bdf = node.gpus[node.by_index[index]].identity.bdf if index in node.by_index else ""
            yield GpuFailed(at=at, index=index, bdf=bdf, code=code, where="handle")
    if nvml.state is not WorkerState.UP:
        yield WorkerChanged(at=at, state=nvml.state, since=nvml.since, code=nvml.code, detail=nvml.detail)
    yield Restored(  # last: on the way here the engine judged what was only half told
        at=at,
        inventory=(),
        latches=tuple(latch_row(incident) for incident in node.incidents.values()),
        counters=tuple(row for row in counters if row.family == "incident"),
        remedy=node.remedy,
    )
    around = node.around
    yield SurroundingsSeen(at=at, surroundings=around.surroundings)
    yield StopRead(at=at, stopped=around.stopped, detail=around.stop_detail)
    yield FleetAsked(at=at, fleet=around.fleet)
    yield MemoryJudged(at=at, memory=around.memory)


def _opened(at: Stamp, index: int, gpu: GpuState) -> Iterator[AnyObservation]:
    bdf = gpu.identity.bdf
    yield GpuOpened(at=at, index=index, identity=gpu.identity)
    for lane in Lane:
        fields = gpu.lane_fields.get(lane, ())
        if fields:
            values = {field: gpu.readings.value(field) for field in fields}
            yield GpuSampled(at=at, index=index, bdf=bdf, lane=lane, values=values)
    held = gpu.held
    if held.at is not None:
        yield GpuProcesses(at=at, index=index, bdf=bdf, processes=held.processes, total=held.total, absent=held.absent)
        owners = tuple(Owned(pid=pid, owner=owner) for pid, owner in held.owners.items())
        yield OwnersSeen(at=at, index=index, bdf=bdf, owners=owners, absent=held.owners_absent)
    if gpu.blocked_since is not None:
        yield GpuBlocked(at=at, index=index, bdf=bdf, call=gpu.blocked_call, since=gpu.blocked_since)
