"""What NVML's return codes mean: for one reading, for a whole GPU, for a session. Source: nvml.h 13.5, nvmlReturn_t."""

from __future__ import annotations

import pynvml

from gpuwarden.model.gpu import Missing
from gpuwarden.model.observation import WorkerState

SUCCESS = 0
INVALID_ARGUMENT = 2
UNKNOWN = 999

_NO_VALUE = {
    3: Missing.NOT_SUPPORTED,
    4: Missing.NO_PERMISSION,
    10: Missing.TIMED_OUT,
    13: Missing.NOT_SUPPORTED,  # FUNCTION_NOT_FOUND: the library has no such symbol
    15: Missing.GPU_LOST,
    25: Missing.NOT_SUPPORTED,  # ARGUMENT_VERSION_MISMATCH
    26: Missing.NOT_SUPPORTED,  # DEPRECATED
}

WHOLE_GPU = frozenset({1, 8, 9, 11, 14, 15, 16, 28})
"""Codes after which further calls on this GPU are pointless for now. 999 is one only when a handle is asked for."""

_SESSION = {
    4: WorkerState.ACCESS_LOST,
    9: WorkerState.NO_DRIVER,
    12: WorkerState.NO_DRIVER,
    17: WorkerState.ACCESS_LOST,
    18: WorkerState.LIBRARY_MISMATCH,
    999: WorkerState.ACCESS_LOST,
}

_PREFIX = "NVML_ERROR_"
_NAMES = {number: name.removeprefix(_PREFIX) for name, number in vars(pynvml).items() if name.startswith(_PREFIX)}


def name_of(code: int) -> str:
    """Return a code with its name in NVML's header, for people: `12 (LIBRARY_NOT_FOUND)`."""
    return f"{code} ({_NAMES[code]})" if code in _NAMES else str(code)


def missing_of(code: int, choice: bool = False) -> Missing:
    """Return why a reading is absent; UNKNOWN for a code that says nothing certain about one reading.

    `choice`: the call named a field, sensor or link, which an older driver may not know: INVALID_ARGUMENT then means
    NOT_SUPPORTED. Where only a handle was given, the same code is about the handle.
    """
    if choice and code == INVALID_ARGUMENT:
        return Missing.NOT_SUPPORTED
    return _NO_VALUE.get(code, Missing.UNKNOWN)


def state_of(code: int) -> WorkerState:
    """Return the worker's state after nvmlInit answered with an error. An unknown error is a driver that is not there
    for us; it is retried like one."""
    return _SESSION.get(code, WorkerState.NO_DRIVER)


def code_of(error: Exception) -> int:
    """Return the return code behind an exception out of pynvml; UNKNOWN for what is not an NVML error at all.

    pynvml also raises UnicodeDecodeError from string getters, and whatever ctypes raises on a foreign structure.
    """
    value = getattr(error, "value", None)
    return value if isinstance(error, pynvml.NVMLError) and isinstance(value, int) else UNKNOWN
