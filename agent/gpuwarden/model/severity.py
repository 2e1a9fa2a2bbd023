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


def worse(one: Severity, other: Severity) -> Severity:
    """Return the graver of two severities."""
    return max(one, other, key=lambda severity: severity.rank)


class EventClass(enum.Enum):
    """What ends a latched event finding; each one asks for more than those before it."""

    APPLICATION = "application"  # `latch_seconds` without repetition
    RECOVERY = "recovery"  # the driver's recovery action says none
    RESET = "reset"  # GPU reset, driver reload or reboot


def stricter(one: EventClass, other: EventClass) -> EventClass:
    """Return the class of the two that asks for more before a finding ends."""
    order = list(EventClass)
    return max(one, other, key=order.index)
