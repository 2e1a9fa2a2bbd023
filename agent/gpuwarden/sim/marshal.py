"""How the simulated C functions read what they are called with, and fill in what they answer, through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from gpuwarden.sim.answers import Answer

SUCCESS, INSUFFICIENT_SIZE = 0, 7  # source: nvml.h, nvmlReturn_t

_SIGNED_FIELDS = frozenset({193, 194, 195, 196})
_SHORT_FIELDS = frozenset({82, 90, 91, 164, 165, 230})
_UNSIGNED_INT, _UNSIGNED_LONG_LONG, _SIGNED_INT = 1, 3, 5  # nvmlValueType_t


def split(arguments: Sequence[Any]) -> tuple[list[int], list[tuple[Any, Any]]]:
    """Return a call's numbers, and what it is to fill, each with the length that follows a text buffer."""
    inputs: list[int] = []
    outputs: list[tuple[Any, Any]] = []
    rest = iter(arguments)
    for argument in rest:
        if isinstance(argument, ctypes.Array):
            outputs.append((argument, next(rest, None)))
        elif hasattr(argument, "_obj") or isinstance(argument, ctypes.Structure):
            outputs.append((argument, None))
        else:
            inputs.append(number(argument))
    return inputs, outputs


def number(argument: Any) -> int:
    """Return a C number, wrapped or plain."""
    return int(getattr(argument, "value", argument))


def target(argument: Any) -> Any:
    """Return what a byref() is of."""
    return getattr(argument, "_obj", argument)


def field_type(field: int) -> tuple[int, str]:
    """Return the nvmlValueType_t of a field, and the member of the union that holds it."""
    if field in _SIGNED_FIELDS:
        return _SIGNED_INT, "siVal"
    return (_UNSIGNED_INT, "uiVal") if field in _SHORT_FIELDS else (_UNSIGNED_LONG_LONG, "ullVal")


def set_pointer(holder: Any, address: int, offset: int = 0) -> None:
    """Make a pointer, or the one at an offset of a structure, point somewhere."""
    ctypes.c_void_p.from_buffer(holder, offset).value = address


def store(out: Any, value: Answer | list[int]) -> int:
    """Fill one output: a number, or a structure's members."""
    filled = target(out)
    if isinstance(value, dict):
        for member, part in value.items():
            setattr(filled, member, part.encode() if isinstance(part, str) else part)
    else:
        filled.value = value
    return SUCCESS


def store_text(out: Any, length: Any, text: str) -> int:
    """Fill a text buffer, as the driver does: not at all where it is too small."""
    raw = text.encode()
    if len(raw) >= min(number(length), len(out)):
        return INSUFFICIENT_SIZE
    out.value = raw
    return SUCCESS
