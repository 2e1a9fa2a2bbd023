"""One NVML call on one GPU: what it answered, or why it did not, and what is remembered of that within a session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from gpuwarden.model.gpu import Missing, Value
from gpuwarden.nvml.codes import WHOLE_GPU, code_of, missing_of

_Answer = TypeVar("_Answer")


class Samples(NamedTuple):
    """Two GPM sample buffers of one target: the sample taken last, and the buffer for the next one.

    `fingerprint` says of what they are samples: totals of an instance that was made anew are no sequel to the old ones.
    """

    fingerprint: object
    last: Any
    spare: Any
    at: float  # CLOCK_MONOTONIC


class GpuMemory:
    """What is remembered of one GPU within a session. Owned by the thread that reads it.

    `call` and `since` (CLOCK_BOOTTIME) name the NVML call in progress, "" between calls: read by the heartbeat.
    `pause` lets seconds pass between two samples that must not be too close.
    """

    def __init__(self, pause: Callable[[float], None] = time.sleep) -> None:
        self.unsupported: set[object] = set()
        self.batch = 1024  # field values asked for with one call; halved when the driver refuses that many
        self.call = ""
        self.since = 0.0
        self.pause = pause
        self.samples: dict[int | None, Samples] = {}  # by GPU instance id, None: the whole GPU
        self.sampling = threading.Lock()  # held while the buffers are in use
        self.pcie_from_gpm = False
        self._mig_mode: Value | None = None

    def begin(self, name: str) -> None:
        """Note that a call begins now."""
        self.since = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.call = name

    def end(self) -> None:
        """Note that no call is in progress."""
        self.call = ""

    def note_mode(self, mig_mode: Value | None) -> None:
        """Note the MIG mode where a lane read it: what a GPU supports changes with it."""
        if mig_mode is None or isinstance(mig_mode, Missing):
            return
        if self._mig_mode not in (None, mig_mode):
            self.unsupported.clear()
        self._mig_mode = mig_mode


class FaultError(Exception):
    """A return code that is about the whole GPU."""

    def __init__(self, code: int, where: str) -> None:
        super().__init__(code, where)
        self.code = code
        self.where = where


def asked(
    memory: GpuMemory, row: object, name: str, get: Callable[[], _Answer], *, choice: bool = False
) -> _Answer | Missing:
    """Return what one call answers, or why it does not. A call this GPU does not have is not made again.

    `choice`: see `absent`. Raises: FaultError for a code about the whole GPU.
    """
    if row in memory.unsupported:
        return Missing.NOT_SUPPORTED
    memory.begin(name)
    try:
        return get()
    except Exception as error:  # a foreign library may fail in any way: its code, or UNKNOWN, is what we know
        return absent(memory, row, name, code_of(error), choice=choice)


def absent(memory: GpuMemory, row: object, name: str, code: int, *, choice: bool = False) -> Missing:
    """Return why a reading is absent. Raises: FaultError for a code about the whole GPU.

    `choice`: the call named a field, sensor, link or metric, which an older driver may not know. INVALID_ARGUMENT is
    not remembered: it is also what a handle that went stale is answered with.
    """
    if code in WHOLE_GPU:
        raise FaultError(code, name)
    if missing_of(code) is Missing.NOT_SUPPORTED:
        memory.unsupported.add(row)
    return missing_of(code, choice=choice)
