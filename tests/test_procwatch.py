"""What our own processes cost: real figures of real processes, None where there is none."""

from __future__ import annotations

import os

from gpuwarden.procwatch import stats_of


def test_the_own_process_has_all_figures() -> None:
    """CPU, memory, open files and start time of this very process."""
    stats = stats_of(os.getpid())
    assert stats.cpu_seconds is not None
    assert stats.cpu_seconds > 0
    assert stats.resident_bytes is not None
    assert stats.resident_bytes > 1_000_000
    assert stats.open_fds
    assert stats.start_time


def test_no_process_has_no_figures() -> None:
    """A worker that is gone: absent, not zero."""
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    assert stats_of(gone).cpu_seconds is None
    assert stats_of(None).resident_bytes is None
