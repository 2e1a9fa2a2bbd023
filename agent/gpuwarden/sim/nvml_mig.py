"""The simulated library's MIG functions: handles of instances, where they lie, and their GPM samples."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

from msgspec.structs import replace

from gpuwarden.sim.marshal import SUCCESS, number, set_pointer, target
from gpuwarden.sim.nvml_gpm import Buffers, put
from gpuwarden.sim.sheet import CardSheet

INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 2, 3, 6  # source: nvml.h, nvmlReturn_t
_HANDLE_BYTES, _GPU_INSTANCES = 0x8, 0x800  # within the addresses of one card


class Library(Protocol):
    """What these functions need of the library they belong to."""

    buffers: Buffers

    def sheet(self, name: str, handle: Any) -> tuple[CardSheet | None, int]:
        """Return (sheet, 0) of a handle, or (None, code)."""

    def part(self, handle: Any) -> int:
        """Return where within its card's addresses a handle lies; 0 is the card itself."""


def instance(sheet: CardSheet, part: int) -> tuple[CardSheet | None, int]:
    """Return what a card's sheet is for one of its instances, by where its handle lies: an instance says little."""
    for each in sheet.instances:
        if each.uid * _HANDLE_BYTES == part:
            return replace(sheet, answers=each.answers, gpm=None, instances=[]), SUCCESS
    return None, INVALID_ARGUMENT


def _by_index(library: Library, name: str, handle: Any, index: Any, out: Any) -> int:
    sheet, code = library.sheet(name, handle)
    if sheet is None:
        return code
    if not sheet.mig:
        return NOT_SUPPORTED
    if number(index) >= len(sheet.instances):
        return NOT_FOUND
    _point(out, handle, sheet.instances[number(index)].uid * _HANDLE_BYTES)
    return SUCCESS


def _gpu_instance(library: Library, name: str, handle: Any, gi: Any, out: Any) -> int:
    sheet, code = library.sheet(name, handle)
    if sheet is None:
        return code
    if number(gi) not in {each.gi for each in sheet.instances}:
        return NOT_FOUND
    _point(out, handle, _GPU_INSTANCES + number(gi) * _HANDLE_BYTES)
    return SUCCESS


def _info(library: Library, name: str, instance: Any, out: Any) -> int:
    part = library.part(instance)
    parent = ctypes.c_void_p(_address(instance) - part)
    sheet, code = library.sheet(name, parent)
    if sheet is None:
        return code
    gi = (part - _GPU_INSTANCES) // _HANDLE_BYTES
    for each in sheet.instances:
        if each.gi == gi:
            info = target(out)
            info.id, info.placement.start, info.placement.size = gi, each.start, each.size
            return SUCCESS
    return INVALID_ARGUMENT


def _sample(library: Library, name: str, handle: Any, gi: Any, buffer: Any) -> int:
    sheet, code = library.sheet(name, handle)
    if sheet is None:
        return code
    for each in sheet.instances:
        if each.gi == number(gi):
            return put(library.buffers, buffer, each.gpm)
    return INVALID_ARGUMENT


def _point(out: Any, handle: Any, part: int) -> None:
    set_pointer(out._obj, _address(handle) + part)


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


METHODS: dict[str, Callable[..., int]] = {
    "nvmlDeviceGetMigDeviceHandleByIndex": _by_index,
    "nvmlDeviceGetGpuInstanceById": _gpu_instance,
    "nvmlGpuInstanceGetInfo": _info,
    "nvmlGpmMigSampleGet": _sample,
}
