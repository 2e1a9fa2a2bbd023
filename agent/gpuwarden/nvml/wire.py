"""What the NVML worker and its parent say to each other: frames of four length bytes (big endian) and msgpack.

The first frame of the worker is Hello. A frame is at most 1 MiB; anything else on the pipe ends the worker's service.
"""

from __future__ import annotations

import asyncio
import os
from typing import BinaryIO, TypeAlias

import msgspec

from gpuwarden.model.gpu import GpuIdentity, Lane, Missing
from gpuwarden.model.mig import MigInstance
from gpuwarden.model.workload import GpuProcess

PROTOCOL = 1
MAX_FRAME_BYTES = 1 << 20
_LENGTH_BYTES = 4

_Scalar: TypeAlias = int | float | Missing
_Value: TypeAlias = int | float | Missing | tuple[_Scalar, ...]


class WireError(Exception):
    """The other end said something that is no frame."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Base of everything on the wire."""


class Hello(_Message, frozen=True, kw_only=True):
    """The worker's first word."""

    protocol: int
    version: str


class Opened(_Message, frozen=True, kw_only=True):
    """The session is open."""

    driver: str
    nvml: str
    cuda: str
    count: int


class InitFailed(_Message, frozen=True, kw_only=True):
    """There is no session; the worker tries again, or ends where only a new process can."""

    code: int
    where: str


class Gpu(_Message, frozen=True, kw_only=True):
    """A GPU answered to its index."""

    index: int
    identity: GpuIdentity


class Fault(_Message, frozen=True, kw_only=True):
    """A GPU as a whole answered badly."""

    index: int
    bdf: str
    code: int
    where: str


class Sample(_Message, frozen=True, kw_only=True):
    """One lane of one GPU."""

    index: int
    bdf: str
    lane: Lane
    values: dict[str, _Value]
    rejected: tuple[str, ...]
    duration_seconds: float


class Mig(_Message, frozen=True, kw_only=True):
    """The MIG instances of one GPU, all of them."""

    index: int
    bdf: str
    instances: tuple[MigInstance, ...]


class Processes(_Message, frozen=True, kw_only=True):
    """Who holds one GPU, or why nobody can say."""

    index: int
    bdf: str
    processes: tuple[GpuProcess, ...]
    total: int
    absent: Missing | None


class NvmlSaid(_Message, frozen=True, kw_only=True):
    """An event out of the session's event set."""

    bdf: str
    kind: str
    code: int
    gi: int | None = None
    ci: int | None = None


class Quieted(_Message, frozen=True, kw_only=True):
    """A GPU is left alone until `until` (boottime): the end of its quiet period, or of what it was set aside for."""

    index: int
    bdf: str
    until: float


class Asleep(_Message, frozen=True, kw_only=True):
    """A GPU is suspended and left alone."""

    index: int
    bdf: str


class Busy(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one thread is in: `index` is the GPU's, or -1 for the session; `call` "" between calls."""

    index: int
    bdf: str
    call: str
    since: float  # boottime


class Beat(_Message, frozen=True, kw_only=True):
    """Once a second: what every thread that may hang is doing."""

    threads: tuple[Busy, ...]


class Start(_Message, frozen=True, kw_only=True):
    """The parent's first word: how often to read (seconds), and the addresses of GPUs that are not to be opened."""

    protocol: int
    fast: float
    normal: float
    slow: float
    pcie: float
    aside: tuple[str, ...] = ()


class Quiet(_Message, frozen=True, kw_only=True):
    """Probe this GPU now, then leave it alone for so many seconds but for a probe a minute."""

    bdf: str
    seconds: float


FromWorker: TypeAlias = (
    Hello | Opened | InitFailed | Gpu | Fault | Sample | Mig | Processes | Asleep | NvmlSaid | Quieted | Beat
)
FromParent: TypeAlias = Start | Quiet

_ENCODER = msgspec.msgpack.Encoder()
_FROM_WORKER: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_FROM_PARENT: msgspec.msgpack.Decoder[FromParent] = msgspec.msgpack.Decoder(FromParent)


def encode(message: FromWorker | FromParent) -> bytes:
    """Return one frame. Raises: WireError for a message over 1 MiB."""
    body = _ENCODER.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {len(body)} bytes")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> FromWorker | None:
    """Return the worker's next message, None at the end of the pipe. Raises: WireError."""
    try:
        size = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if size > MAX_FRAME_BYTES:
            raise WireError(f"a frame of {size} bytes is announced")
        return _FROM_WORKER.decode(await reader.readexactly(size))
    except asyncio.IncompleteReadError:
        return None
    except msgspec.MsgspecError as error:
        raise WireError(f"a frame that is none: {error}") from None


def read_command(stream: BinaryIO) -> FromParent | None:
    """Return the parent's next message, None at the end of the pipe. Blocks. Raises: WireError."""
    head = _exactly(stream, _LENGTH_BYTES)
    body = _exactly(stream, int.from_bytes(head, "big")) if head is not None else None
    if body is None:
        return None
    try:
        return _FROM_PARENT.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(f"a frame that is none: {error}") from None


def _exactly(stream: BinaryIO, size: int) -> bytes | None:
    if size > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {size} bytes is announced")
    parts = bytearray()
    while len(parts) < size:
        part = stream.read(size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def write_all(fd: int, frame: bytes) -> None:
    """Write a whole frame. Raises: OSError when the other end is gone."""
    view = memoryview(frame)
    while view:
        view = view[os.write(fd, view) :]
