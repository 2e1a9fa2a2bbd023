"""Field values: all of a lane with one call, numbers of the GPU and vectors over its NVLinks alike."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_int32
from itertools import islice
from typing import Any

import pynvml

from gpuwarden.model.gpu import Missing, Scalar, Value
from gpuwarden.nvml.asking import FaultError, GpuMemory, absent, asked
from gpuwarden.nvml.codes import INVALID_ARGUMENT, SUCCESS, UNKNOWN, WHOLE_GPU, code_of, missing_of
from gpuwarden.nvml.getters import scaled
from gpuwarden.nvml.readings import Field, LinkField

_BATCH = "nvmlDeviceGetFieldValues"
_SMALL_BATCH = 16  # a driver that refuses even so few refuses something else


def read_batch(handle: Any, rows: Sequence[Field | LinkField], memory: GpuMemory) -> dict[str, Value]:
    """Return several field values with one call; each has a return code of its own. Raises: FaultError.

    A row whose reading an earlier one has answered is not asked again in this session.
    """
    values: dict[str, Value] = {row.reading: Missing.NOT_SUPPORTED for row in rows}
    wanted = [row for row in rows if row not in memory.unsupported]
    if not wanted:
        return values
    asks = [ask for row in wanted for ask in row.asks()]
    answer = asked(memory, _BATCH, _BATCH, lambda: _in_batches(handle, asks, memory))
    if isinstance(answer, Missing):
        return values | {row.reading: answer for row in wanted}
    rest = iter(answer)
    for row in wanted:
        found = list(islice(rest, len(row.asks())))
        if not settled(values[row.reading]):
            values[row.reading] = _value(row, found, memory)
        elif not isinstance(values[row.reading], Missing):
            memory.unsupported.add(row)
    return values


def settled(value: Value | None) -> bool:
    """Return whether an earlier row has answered for a reading: a later one is asked only where it is unsupported."""
    return value is not None and value is not Missing.NOT_SUPPORTED


def vector(elements: list[Scalar]) -> Value:
    """Return elements as a reading, without the unsupported ones at its end; where all are absent alike, the reason."""
    while elements and elements[-1] is Missing.NOT_SUPPORTED:
        elements.pop()
    if not elements:
        return Missing.NOT_SUPPORTED
    first = elements[0]
    return first if isinstance(first, Missing) and set(elements) == {first} else tuple(elements)


def _value(row: Field | LinkField, found: Sequence[Any], memory: GpuMemory) -> Value:
    """Return what the entries of one row say. A link is asked again as long as any other has this counter."""
    if isinstance(row, LinkField):
        value = vector([_of_link(row, entry) for entry in found])
        if value is Missing.NOT_SUPPORTED:
            memory.unsupported.add(row)
        return value
    (entry,) = found
    if entry.nvmlReturn == SUCCESS:
        return scaled(getattr(entry.value, row.member), row.scale)
    return absent(memory, row, _BATCH, entry.nvmlReturn, choice=True)


def _of_link(row: LinkField, entry: Any) -> Scalar:
    if entry.nvmlReturn in WHOLE_GPU:
        raise FaultError(entry.nvmlReturn, _BATCH)
    if entry.nvmlReturn != SUCCESS:
        return missing_of(entry.nvmlReturn, choice=True)
    return scaled(int(getattr(entry.value, row.member)), row.scale)


def _in_batches(handle: Any, asks: Sequence[tuple[int, int]], memory: GpuMemory) -> list[Any]:
    """Return the driver's answers to all (field, scope) pairs: in one call, or in parts where it takes no such number.

    Raises: NVMLError where even a small part is refused.
    """
    answers: list[Any] = []
    while len(answers) < len(asks):
        part = asks[len(answers) : len(answers) + memory.batch]
        try:
            answers.extend(_field_values(handle, part))
        except pynvml.NVMLError as error:
            if code_of(error) != INVALID_ARGUMENT or len(part) <= _SMALL_BATCH:
                raise
            memory.batch = max(_SMALL_BATCH, len(part) // 2)
    return answers


def _field_values(handle: Any, asks: Sequence[tuple[int, int]]) -> Any:
    """Return the driver's answers to several fields. Each starts out as a failure: an entry that a driver leaves
    untouched must not read as a success with the value 0, as it does through the binding's own function."""
    answers = (pynvml.c_nvmlFieldValue_t * len(asks))()
    for entry, (field, scope) in zip(answers, asks, strict=True):
        entry.fieldId, entry.scopeId, entry.nvmlReturn = field, scope, UNKNOWN
    code = pynvml._nvmlGetFunctionPointer(_BATCH)(handle, c_int32(len(asks)), byref(answers))
    if code != SUCCESS:
        raise pynvml.NVMLError(code)
    return answers
