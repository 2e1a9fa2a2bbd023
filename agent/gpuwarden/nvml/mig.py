"""The instances of a partitioned GPU (MIG): who they are, their memory, size and SRAM errors. Raises: FaultError.

Instances come and go while we read: a code that an instance's own handle is answered with is about that instance, never
about the GPU, and none of it is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import pynvml
from msgspec.structs import replace

from gpuwarden.model.gpu import Missing, Value
from gpuwarden.model.mig import MIG_READINGS, MOST_INSTANCES, MigInstance, MigReading
from gpuwarden.nvml import getters
from gpuwarden.nvml.asking import FaultError, GpuMemory, asked
from gpuwarden.nvml.codes import INVALID_ARGUMENT, WHOLE_GPU, code_of, missing_of
from gpuwarden.nvml.plausible import plausible
from gpuwarden.nvml.session import decoded

_D = "nvmlDeviceGet"
_MOST = _D + "MaxMigDeviceCount"
_BY_INDEX = _D + "MigDeviceHandleByIndex"
_NOT_FOUND = 6
_MEBI = 1 << 20
_PROFILE = re.compile(r"\bMIG\s+(\S+)\s*$")
_MEMORY = ("memory_used_bytes", "memory_free_bytes", "memory_size_bytes")
_ECC = {
    "ecc_corrected_volatile_sram": pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
    "ecc_uncorrected_volatile_sram": pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
}
_Answer = TypeVar("_Answer")


class Found(NamedTuple):
    """The instances that answered, sorted. `why` is set where there may be others that did not."""

    instances: tuple[MigInstance, ...] = ()
    why: Missing | None = None

    @property
    def number(self) -> int | Missing:
        """How many there are, or why nobody can tell."""
        return len(self.instances) if self.why is None else self.why


def instances_of(handle: Any, memory: GpuMemory) -> Found:
    """Return the instances of a GPU in MIG mode, without their activity."""
    most = asked(memory, _MOST, _MOST, lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    if isinstance(most, Missing):
        return Found(why=most)
    found: list[MigInstance] = []
    why: Missing | None = None
    for device in _devices(handle, min(most, MOST_INSTANCES), memory):
        instance = device if isinstance(device, Missing) else _instance(handle, device, memory)
        if isinstance(instance, Missing):
            why = instance
        else:
            found.append(instance)
    return Found(tuple(sorted(found, key=lambda each: (each.gi, each.ci))), why)


def fingerprints(instances: tuple[MigInstance, ...]) -> dict[int | None, object]:
    """Return what tells each GPU instance from an earlier or later one with the same id."""
    marks: dict[int, list[object]] = {}
    for each in instances:
        marks.setdefault(each.gi, []).append((each.placement, each.profile, each.uuid))
    return {gi: tuple(mark) for gi, mark in marks.items()}


def _devices(handle: Any, most: int, memory: GpuMemory) -> Iterator[Any]:
    """Yield the handle of each instance there is, or why one cannot be had."""
    for number in range(most):
        memory.begin(_BY_INDEX)
        try:
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except Exception as error:  # a foreign library may fail in any way: its code, or UNKNOWN, is what we know
            code = code_of(error)
            if code in WHOLE_GPU:
                raise FaultError(code, _BY_INDEX) from None
            if code not in (_NOT_FOUND, INVALID_ARGUMENT):
                yield missing_of(code)


def _instance(handle: Any, device: Any, memory: GpuMemory) -> MigInstance | Missing:
    """Return one instance; the reason where it does not even say who it is, perhaps because it is gone by now."""
    gi = _said(memory, _D + "GpuInstanceId", pynvml.nvmlDeviceGetGpuInstanceId, device)
    ci = _said(memory, _D + "ComputeInstanceId", pynvml.nvmlDeviceGetComputeInstanceId, device)
    uuid = _said(memory, _D + "UUID", pynvml.nvmlDeviceGetUUID, device)
    if isinstance(gi, Missing) or isinstance(ci, Missing) or isinstance(uuid, Missing):
        return next(said for said in (gi, ci, uuid) if isinstance(said, Missing))
    name = _said(memory, _D + "Name", pynvml.nvmlDeviceGetName, device)
    profile = _PROFILE.search(decoded(name)) if not isinstance(name, Missing) else None
    values: dict[str, Value] = dict.fromkeys(MIG_READINGS, Missing.UNKNOWN)
    values |= _memory(device, memory)
    values |= _size(device, memory)
    for reading, kind in _ECC.items():
        counter = (device, kind, pynvml.NVML_VOLATILE_ECC, pynvml.NVML_MEMORY_LOCATION_SRAM)
        values[reading] = _said(
            memory, _D + "MemoryErrorCounter", pynvml.nvmlDeviceGetMemoryErrorCounter, *counter, choice=True
        )
    return MigInstance(
        gi=gi,
        ci=ci,
        uuid=decoded(uuid),
        profile=profile[1] if profile else "",
        placement=_placement(handle, gi, memory),
        readings=with_values(MigReading(), values),
    )


def with_values(readings: MigReading, values: dict[str, Value]) -> MigReading:
    """Return readings with these values in them; what is outside physics is no value."""
    checked, _ = plausible(values)
    return replace(readings, **checked)


def _memory(device: Any, memory: GpuMemory) -> dict[str, Value]:
    answer = _said(memory, _D + "MemoryInfo_v2", getters.memory, device, choice=True)
    if answer is Missing.NOT_SUPPORTED:
        answer = _said(memory, _D + "MemoryInfo", getters.memory_v1, device)
    if isinstance(answer, Missing):
        return dict.fromkeys(_MEMORY, answer)
    used, free, _, size = answer
    return dict(zip(_MEMORY, (_number(used), _number(free), _number(size)), strict=True))


def _number(value: float | int | Missing | None) -> Value:
    return Missing.NOT_SUPPORTED if value is None else value


def _size(device: Any, memory: GpuMemory) -> dict[str, Value]:
    answer = _said(memory, _D + "Attributes_v2", pynvml.nvmlDeviceGetAttributes_v2, device)
    if isinstance(answer, Missing):
        return dict.fromkeys(("multiprocessors", "gpu_slices", "compute_slices"), answer)
    return {
        "multiprocessors": answer.multiprocessorCount,
        "gpu_slices": answer.gpuInstanceSliceCount,
        "compute_slices": answer.computeInstanceSliceCount,
    }


def _placement(handle: Any, gi: int, memory: GpuMemory) -> tuple[int, int] | None:
    """Return where a GPU instance lies. Some drivers tell only root."""
    instance = _said(memory, _D + "GpuInstanceById", pynvml.nvmlDeviceGetGpuInstanceById, handle, gi)
    if isinstance(instance, Missing):
        return None
    info = _said(memory, "nvmlGpuInstanceGetInfo", pynvml.nvmlGpuInstanceGetInfo, instance)
    return None if isinstance(info, Missing) else (info.placement.start, info.placement.size)


def _said(
    memory: GpuMemory, name: str, get: Callable[..., _Answer], *arguments: Any, choice: bool = False
) -> _Answer | Missing:
    """Return what a call about one instance answers, or why it does not."""
    memory.begin(name)
    try:
        return get(*arguments)
    except Exception as error:
        return missing_of(code_of(error), choice=choice)
