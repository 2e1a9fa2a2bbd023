"""Reads one GPU: its identity, and one lane of its readings, every absence with its reason. Raises nothing.

A reading is a number in base units, or `Missing`; a driver's answer outside physics is no number. An error that is
about the whole GPU ends the lane and comes back as its code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec
import pynvml
from msgspec.structs import replace

from gpuwarden.model.gpu import GpuIdentity, Lane, Missing, Scalar, Value
from gpuwarden.model.mig import MigInstance
from gpuwarden.nvml import gpm, mig
from gpuwarden.nvml.asking import FaultError, GpuMemory, asked
from gpuwarden.nvml.codes import code_of
from gpuwarden.nvml.fields import read_batch, settled, vector
from gpuwarden.nvml.plausible import plausible
from gpuwarden.nvml.readings import BATCHED, CALLS, TAKES_A_CHOICE, VECTORS, WHOLES, Call, Vector
from gpuwarden.nvml.session import decoded, text

__all__ = ["GpuMemory", "LaneResult", "identify", "normal_bdf", "read_lane"]

GPM_LANE = Lane.NORMAL
"""GPM costs some milliseconds a look, and its averages cover all the time since the last: more looks show no more."""

_MAX_ELEMENTS = 64  # fans or links; more is a broken answer
_BUS_ID = re.compile(r"([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})\.")
_Answer = TypeVar("_Answer")


class LaneResult(msgspec.Struct, frozen=True, kw_only=True):
    """One lane read. With `fault` the GPU as a whole answered badly in the call `where`, and `values` is incomplete."""

    values: dict[str, Value] = {}
    rejected: tuple[str, ...] = ()
    instances: tuple[MigInstance, ...] | None = None  # where the lane reads the GPU's MIG instances
    fault: int | None = None
    where: str = ""


def identify(handle: Any, memory: GpuMemory) -> GpuIdentity | LaneResult:
    """Return who a GPU is, or a LaneResult with its fault. Without a PCI address or uuid there is no identity."""
    memory.begin("nvmlDeviceGetPciInfo_v3")
    try:
        bdf = normal_bdf(pynvml.nvmlDeviceGetPciInfo_v3(handle))
        memory.begin("nvmlDeviceGetUUID")
        uuid = pynvml.nvmlDeviceGetUUID(handle)
    except Exception as error:  # a foreign library may fail in any way: its code, or UNKNOWN, is what we know
        return LaneResult(fault=code_of(error), where=memory.call)
    finally:
        memory.end()

    def said(function: str, *arguments: int) -> str:
        memory.begin(function)
        return text(getattr(pynvml, function), handle, *arguments)

    try:
        return GpuIdentity(
            uuid=decoded(uuid),
            bdf=bdf,
            name=said("nvmlDeviceGetName"),
            serial=said("nvmlDeviceGetSerial"),
            vbios=said("nvmlDeviceGetVbiosVersion"),
            minor=_minor(handle, memory),
            board=said("nvmlDeviceGetBoardPartNumber"),
            brand=_brand(handle, memory),
            inforom_image=said("nvmlDeviceGetInforomImageVersion"),
            inforom_oem=said("nvmlDeviceGetInforomVersion", pynvml.NVML_INFOROM_OEM),
            inforom_ecc=said("nvmlDeviceGetInforomVersion", pynvml.NVML_INFOROM_ECC),
            inforom_power=said("nvmlDeviceGetInforomVersion", pynvml.NVML_INFOROM_POWER),
        )
    finally:
        memory.end()


def _minor(handle: Any, memory: GpuMemory) -> int | None:
    memory.begin("nvmlDeviceGetMinorNumber")
    try:
        return int(pynvml.nvmlDeviceGetMinorNumber(handle))
    except Exception:  # as with names: every failure means the driver does not say
        return None


_BRANDS = {  # source: nvml.h, nvmlBrandType_t
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "GRID",
    5: "GeForce",
    6: "Titan",
    7: "NVIDIA vApps",
    8: "NVIDIA vPC",
    9: "NVIDIA vCS",
    10: "NVIDIA vWS",
    11: "NVIDIA vGaming",
    12: "Quadro RTX",
    13: "NVIDIA RTX",
    14: "NVIDIA",
    15: "GeForce RTX",
    16: "Titan RTX",
}


def _brand(handle: Any, memory: GpuMemory) -> str:
    memory.begin("nvmlDeviceGetBrand")
    try:
        return _BRANDS.get(int(pynvml.nvmlDeviceGetBrand(handle)), "")
    except Exception:  # as with names
        return ""


def normal_bdf(info: Any) -> str:
    """Return `0000:3b:00.0` of an nvmlPciInfo_t. NVML's own text has eight digits of domain, and capitals; a library
    that fills in the text alone is read from that."""
    domain, bus, device = info.domain, info.bus, info.device
    text_form = _BUS_ID.match(decoded(info.busId)) if not (domain or bus or device) else None
    if text_form is not None:
        domain, bus, device = (int(part, 16) for part in text_form.groups())
    return f"{domain:04x}:{bus:02x}:{device:02x}.0"


def read_lane(handle: Any, lane: Lane, memory: GpuMemory) -> LaneResult:
    """Return all readings of one lane. Blocks for as long as the driver does; `memory.call` says in what."""
    values: dict[str, Value] = {}
    fault, where = None, ""
    instances: tuple[MigInstance, ...] | None = None
    try:
        for call in CALLS:
            if call.lane is lane and not all(settled(values.get(name)) for name in call.readings):
                values.update(_numbers(handle, call, memory))
        values.update(read_batch(handle, [row for row in BATCHED if row.lane is lane], memory))
        for row in VECTORS:
            if row.lane is lane and not settled(values.get(row.reading)):
                values[row.reading] = _elements(handle, row, memory)
        for whole in WHOLES:
            if whole.lane is lane:
                values[whole.reading] = _asked(memory, whole, whole.name, partial(whole.get, handle))
        if lane is GPM_LANE:
            memory.note_mode(values.get("mig_mode"))
            instances = _parts(handle, values, memory)
    except FaultError as end:
        fault, where = end.code, end.where
    finally:
        memory.end()
    checked, rejected = plausible(values)
    return LaneResult(values=checked, rejected=rejected, instances=instances, fault=fault, where=where)


def _parts(handle: Any, values: dict[str, Value], memory: GpuMemory) -> tuple[MigInstance, ...]:
    """Add the GPU's activity and the number of its MIG instances to a lane's values; return the instances."""
    found = mig.instances_of(handle, memory) if values["mig_mode"] == 1 else mig.Found()
    activities = gpm.read_gpu(handle, memory, {None: None, **mig.fingerprints(found.instances)})
    whole = activities.pop(None)
    gpm.settle_pcie(whole, memory)
    values.update(whole)
    mode = values["mig_mode"]
    values["mig_instances"] = mode if isinstance(mode, Missing) else found.number
    return tuple(
        replace(each, readings=mig.with_values(each.readings, activities[each.gi])) for each in found.instances
    )


def _asked(memory: GpuMemory, row: object, name: str, get: Callable[[], _Answer]) -> _Answer | Missing:
    return asked(memory, row, name, get, choice=name in TAKES_A_CHOICE)


def _numbers(handle: Any, call: Call, memory: GpuMemory) -> dict[str, Value]:
    answer = _asked(memory, call, call.name, lambda: call.get(handle))
    if isinstance(answer, Missing):
        return dict.fromkeys(call.readings, answer)
    return {name: _number(value) for name, value in zip(call.readings, answer, strict=True)}


def _number(value: object) -> Scalar:
    """Return a number of the driver's as a reading; None is what this call does not have."""
    if value is None:
        return Missing.NOT_SUPPORTED
    return value if isinstance(value, int | float | Missing) else Missing.UNKNOWN


def _elements(handle: Any, row: Vector, memory: GpuMemory) -> Value:
    """Return one element per fan or link; where none has a value for one and the same reason, that reason."""
    count = _asked(memory, row, row.name, lambda: row.count(handle))
    if isinstance(count, Missing):
        return count
    if count > _MAX_ELEMENTS:
        return Missing.IMPLAUSIBLE
    value = vector([_element(handle, row, number, memory) for number in range(count)])
    if value is Missing.NOT_SUPPORTED:
        memory.unsupported.add(row)
    return value


def _element(handle: Any, row: Vector, number: int, memory: GpuMemory) -> Scalar:
    return _asked(memory, (row.reading, number), row.name, lambda: row.get(handle, number))
