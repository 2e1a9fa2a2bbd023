"""Reads one GPU: its identity, and one lane of its readings, every absence with its reason. Raises nothing.

A reading is a number in base units, or `Missing`; a driver's answer outside physics is no number. An error that is
about the whole GPU ends the lane and comes back as its code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ctypes import byref, c_int32
from functools import partial
from typing import Any, TypeVar

import msgspec
import pynvml

from gpuwarden.model.gpu import GpuIdentity, Lane, Missing, Scalar, Value
from gpuwarden.nvml import gpm
from gpuwarden.nvml.asking import FaultError, GpuMemory, absent, asked
from gpuwarden.nvml.codes import SUCCESS, UNKNOWN, code_of
from gpuwarden.nvml.getters import scaled
from gpuwarden.nvml.plausible import plausible
from gpuwarden.nvml.readings import CALLS, FIELDS, TAKES_A_CHOICE, VECTORS, WHOLES, Call, Field, Vector
from gpuwarden.nvml.session import decoded, text

__all__ = ["GpuMemory", "LaneResult", "identify", "normal_bdf", "read_lane"]

GPM_LANE = Lane.NORMAL
"""GPM costs some milliseconds a look, and its averages cover all the time since the last: more looks show no more."""

_MAX_ELEMENTS = 64  # fans or links; more is a broken answer
_BATCH = "nvmlDeviceGetFieldValues"
_BUS_ID = re.compile(r"([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})\.")
_Answer = TypeVar("_Answer")


class LaneResult(msgspec.Struct, frozen=True, kw_only=True):
    """One lane read. With `fault` the GPU as a whole answered badly in the call `where`, and `values` is incomplete."""

    values: dict[str, Value] = {}
    rejected: tuple[str, ...] = ()
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

    def said(function: str) -> str:
        memory.begin(function)
        return text(getattr(pynvml, function), handle)

    try:
        return GpuIdentity(
            uuid=decoded(uuid),
            bdf=bdf,
            name=said("nvmlDeviceGetName"),
            serial=said("nvmlDeviceGetSerial"),
            vbios=said("nvmlDeviceGetVbiosVersion"),
            minor=_minor(handle, memory),
            board=said("nvmlDeviceGetBoardPartNumber"),
        )
    finally:
        memory.end()


def _minor(handle: Any, memory: GpuMemory) -> int | None:
    memory.begin("nvmlDeviceGetMinorNumber")
    try:
        return int(pynvml.nvmlDeviceGetMinorNumber(handle))
    except Exception:  # as with names: every failure means the driver does not say
        return None


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
    try:
        for call in CALLS:
            if call.lane is lane and not all(_settled(values.get(name)) for name in call.readings):
                values.update(_numbers(handle, call, memory))
        values.update(_batch(handle, [field for field in FIELDS if field.lane is lane], memory))
        for vector in VECTORS:
            if vector.lane is lane:
                values[vector.reading] = _elements(handle, vector, memory)
        for whole in WHOLES:
            if whole.lane is lane:
                values[whole.reading] = _asked(memory, whole, whole.name, partial(whole.get, handle))
        if lane is GPM_LANE:
            values.update(_activity(handle, memory))
    except FaultError as end:
        fault, where = end.code, end.where
    finally:
        memory.end()
    memory.note_mode(values.get("mig_mode"))
    checked, rejected = plausible(values)
    return LaneResult(values=checked, rejected=rejected, fault=fault, where=where)


def _activity(handle: Any, memory: GpuMemory) -> dict[str, Value]:
    values = gpm.read_gpu(handle, memory, {None: None})[None]
    gpm.settle_pcie(values, memory)
    return values


def _settled(value: Value | None) -> bool:
    """Return whether an earlier row has answered for a reading: a later one is asked only where it is unsupported."""
    return value is not None and value is not Missing.NOT_SUPPORTED


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


def _batch(handle: Any, fields: Sequence[Field], memory: GpuMemory) -> dict[str, Value]:
    """Return several field values with one call; each has a return code of its own."""
    values: dict[str, Value] = {field.reading: Missing.NOT_SUPPORTED for field in fields}
    wanted = [field for field in fields if field not in memory.unsupported]
    if not wanted:
        return values
    answer = _asked(memory, _BATCH, _BATCH, lambda: _field_values(handle, wanted))
    if isinstance(answer, Missing):
        return values | {field.reading: answer for field in wanted}
    for field, found in zip(wanted, answer, strict=True):
        if _settled(values[field.reading]):
            continue
        if found.nvmlReturn == SUCCESS:
            values[field.reading] = scaled(getattr(found.value, field.member), field.scale)
        else:
            values[field.reading] = absent(memory, field, _BATCH, found.nvmlReturn, choice=True)
    return values


def _field_values(handle: Any, fields: Sequence[Field]) -> Any:
    """Return the driver's answers to several fields. Each starts out as a failure: an entry that a driver leaves
    untouched must not read as a success with the value 0, as it does through the binding's own function."""
    answers = (pynvml.c_nvmlFieldValue_t * len(fields))()
    for entry, field in zip(answers, fields, strict=True):
        entry.fieldId, entry.scopeId, entry.nvmlReturn = field.id, field.scope, UNKNOWN
    code = pynvml._nvmlGetFunctionPointer(_BATCH)(handle, c_int32(len(fields)), byref(answers))
    if code != SUCCESS:
        raise pynvml.NVMLError(code)
    return answers


def _elements(handle: Any, vector: Vector, memory: GpuMemory) -> Value:
    """Return one element per fan or link; where none has a value for one and the same reason, that reason."""
    count = _asked(memory, vector, vector.name, lambda: vector.count(handle))
    if isinstance(count, Missing):
        return count
    if count > _MAX_ELEMENTS:
        return Missing.IMPLAUSIBLE
    elements = [_element(handle, vector, number, memory) for number in range(count)]
    while elements and elements[-1] is Missing.NOT_SUPPORTED:
        elements.pop()
    if not elements:
        memory.unsupported.add(vector)
        return Missing.NOT_SUPPORTED
    first = elements[0]
    return first if isinstance(first, Missing) and set(elements) == {first} else tuple(elements)


def _element(handle: Any, vector: Vector, number: int, memory: GpuMemory) -> Scalar:
    row = (vector.reading, number)
    return _asked(memory, row, vector.name, lambda: vector.get(handle, number))
