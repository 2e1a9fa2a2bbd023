"""Intents as the machine makes them, for tests of scheduler back ends."""

from __future__ import annotations

from gpuwarden.model.case import ActionKind, Intent
from gpuwarden.model.stamp import Stamp


def mark_of(case: str) -> str:
    """Return the mark of a case of these tests."""
    return f"gpuwarden {case} xid.xid_79 gpu3"


def intent(
    action: ActionKind, case: str = "9f3c-4", *, rung: int = 0, attempt: int = 0, resume: bool = False
) -> Intent:
    """Return an intent of a case."""
    return Intent(
        id=f"{case}/{rung}.{attempt}.0/{action.value}",
        case=case,
        action=action,
        made=Stamp("b", 1000.0, 1_790_000_000.0),
        mark=mark_of(case),
        resume=resume,
    )
