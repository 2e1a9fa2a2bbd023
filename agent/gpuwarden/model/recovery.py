"""What the driver's recovery action comes to. It is judged by its value: labels change between drivers."""

from __future__ import annotations

from gpuwarden.model.gpu import RECOVERY_ACTIONS, UNKNOWN_RECOVERY_ACTION
from gpuwarden.model.severity import Severity

_MILD = frozenset({3, 4})  # drain peer-to-peer, drain and reset: what runs may go on until it is drained


def recovery_name(action: int) -> str:
    """Return the name of a recovery action; one this release does not know is `unknown`, never none."""
    return RECOVERY_ACTIONS.get(action, UNKNOWN_RECOVERY_ACTION)


def recovery_severity(action: int) -> Severity | None:
    """Return how much a recovery action matters, None for 0: the driver asks for nothing."""
    if action <= 0:
        return None
    return Severity.WARNING if action in _MILD else Severity.CRITICAL
