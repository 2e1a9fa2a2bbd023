"""The setters of the simulated library: a call's arguments, and whose card it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuwarden.sim.marshal import split, target
from gpuwarden.sim.setters import SETTERS

VERSION_MISMATCH = 25
_POWER_VALUE_VERSION = 0x0200000C  # source: nvml.h, nvmlPowerValue_v2


def _set(library: Any, name: str, handle: Any, *arguments: Any) -> int:
    sheet, code = library.sheet(name, handle)
    if sheet is None:
        return int(code)
    inputs, structs = split(arguments)
    for struct, _ in structs:  # the newer form of the power limit
        if target(struct).version != _POWER_VALUE_VERSION:
            return VERSION_MISMATCH
        inputs.append(target(struct).powerValueMw)
    return int(library.source.set_on(library.slot(handle), name, inputs))


METHODS: dict[str, Callable[..., Any]] = dict.fromkeys(SETTERS, _set)
