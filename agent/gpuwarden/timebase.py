"""The clocks an observation carries: boot id, CLOCK_BOOTTIME and wall time."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from gpuwarden.model.observation import Stamp

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id(source: Path = _BOOT_ID) -> str:
    """Return the kernel's boot id; where it cannot be read, one made up, so that no other run counts as this boot."""
    try:
        return source.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return str(uuid.uuid4())


class Clock:
    """Makes stamps of the present boot. Calling it costs three system calls at most and cannot block."""

    def __init__(self, boot: str | None = None) -> None:
        self.boot_id = boot if boot is not None else boot_id()

    def __call__(self) -> Stamp:
        """Return the present moment; `boottime` goes on through suspend and never jumps with the wall clock."""
        return Stamp(self.boot_id, time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
