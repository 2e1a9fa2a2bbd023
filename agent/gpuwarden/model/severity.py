"""How much something matters, and what a latched event waits for."""

from __future__ import annotations

import enum


class Severity(enum.Enum):
    """How much a finding matters; ordered by `rank`."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Return 0, 1 or 2 in rising severity."""
        return ("info", "warning", "critical").index(self.value)


class EventClass(enum.Enum):
    """What ends a latched event finding."""

    APPLICATION = "application"  # `latch_seconds` without repetition
    RESET = "reset"  # GPU reset, driver reload or reboot
    RECOVERY = "recovery"  # the driver's recovery action says none
