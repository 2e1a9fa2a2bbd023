"""The simulated library's GPM functions: sample buffers, samples, and what lies between two of them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

from gpuwarden.sim.gpm import GpmSheet
from gpuwarden.sim.marshal import SUCCESS, number, set_pointer, target
from gpuwarden.sim.sheet import CardSheet

UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, VERSION_MISMATCH = 1, 2, 3, 25  # source: nvml.h, nvmlReturn_t
_BUFFERS, _BUFFER_BYTES = 0x5400_0000_0000, 0x100  # what pointers to buffers look like; never dereferenced
_VERSION = 1


class Buffers:
    """The buffers that callers hold, by address; None in one that holds no sample yet."""

    def __init__(self) -> None:
        self.held: dict[int, GpmSheet | None] = {}
        self._next = _BUFFERS

    def new(self) -> int:
        """Return the address of a new buffer."""
        self._next += _BUFFER_BYTES
        self.held[self._next] = None
        return self._next


class Library(Protocol):
    """What these functions need of the library they belong to."""

    buffers: Buffers

    def is_open(self, name: str) -> bool:
        """Return whether there is a session."""

    def sheet(self, name: str, handle: Any) -> tuple[CardSheet | None, int]:
        """Return (sheet, 0) of a handle, or (None, code)."""


def _support(library: Library, name: str, handle: Any, out: Any) -> int:
    sheet, code = library.sheet(name, handle)
    if sheet is None:
        return code
    if target(out).version != _VERSION:
        return VERSION_MISMATCH
    target(out).isSupportedDevice = int(sheet.gpm is not None)
    return SUCCESS


def _alloc(library: Library, name: str, out: Any) -> int:
    if not library.is_open(name):
        return UNINITIALIZED
    set_pointer(out._obj, library.buffers.new())
    return SUCCESS


def _free(library: Library, _: str, buffer: Any) -> int:
    return INVALID_ARGUMENT if library.buffers.held.pop(_address(buffer), 0) == 0 else SUCCESS


def _sample(library: Library, name: str, handle: Any, buffer: Any) -> int:
    sheet, code = library.sheet(name, handle)
    if sheet is None:
        return code
    return put(library.buffers, buffer, None if sheet.mig else sheet.gpm)


def put(buffers: Buffers, buffer: Any, sample: GpmSheet | None) -> int:
    """Fill a caller's buffer with a sample, where there can be one."""
    if _address(buffer) not in buffers.held:
        return INVALID_ARGUMENT
    if sample is None:
        return NOT_SUPPORTED
    buffers.held[_address(buffer)] = sample
    return SUCCESS


def _metrics(library: Library, name: str, out: Any) -> int:
    if not library.is_open(name):
        return UNINITIALIZED
    request = target(out)
    if request.version != _VERSION:
        return VERSION_MISMATCH
    older, newer = (library.buffers.held.get(_address(buffer)) for buffer in (request.sample1, request.sample2))
    if older is None or newer is None:
        return INVALID_ARGUMENT
    for entry in request.metrics[: number(request.numMetrics)]:
        known = entry.metricId in newer.totals
        entry.nvmlReturn = SUCCESS if known else NOT_SUPPORTED
        if known:
            entry.value = _average(older, newer, entry.metricId)
    return SUCCESS


def _average(older: GpmSheet, newer: GpmSheet, metric: int) -> float:
    passed = newer.seconds - older.seconds
    return (newer.totals[metric] - older.totals.get(metric, 0.0)) / passed if passed else newer.rates[metric]


def _address(buffer: Any) -> int:
    return ctypes.cast(buffer, ctypes.c_void_p).value or 0


METHODS: dict[str, Callable[..., int]] = {
    "nvmlGpmQueryDeviceSupport": _support,
    "nvmlGpmSampleAlloc": _alloc,
    "nvmlGpmSampleFree": _free,
    "nvmlGpmSampleGet": _sample,
    "nvmlGpmMetricsGet": _metrics,
}
