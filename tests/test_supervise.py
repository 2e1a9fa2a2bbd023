"""A source that fails comes back; only the main loop is fatal."""

from __future__ import annotations

import asyncio

import pytest

from gpuwarden.model.observation import AnyObservation, SourceFailed
from gpuwarden.supervise import supervised
from gpuwarden.timebase import Clock


async def test_a_failing_source_is_reported_and_started_again() -> None:
    """An exception becomes one observation that names the source, and the source runs again."""
    runs = 0
    seen: list[AnyObservation] = []

    async def source() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise OSError("gone")

    await asyncio.wait_for(supervised("pci", source, seen.append, Clock("boot")), 5)
    assert runs == 2
    assert [(o.source, o.detail) for o in seen if isinstance(o, SourceFailed)] == [("pci", "OSError: gone")]


async def test_cancelling_ends_it() -> None:
    """Cancellation is never swallowed."""
    task = asyncio.ensure_future(supervised("kmsg", asyncio.Event().wait, lambda _: None, Clock("boot")))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
