"""When something was observed."""

from __future__ import annotations

import msgspec


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """When and in which boot something was observed.

    `boottime` is CLOCK_BOOTTIME in seconds (survives wall-clock jumps, counts suspend), `wall` is Unix time.
    """

    boot_id: str
    boottime: float
    wall: float
