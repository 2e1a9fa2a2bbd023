"""`stop_workload`: SIGTERM, then SIGKILL, to the processes on one GPU that no scheduler owns.

A process is taken hold of by a pidfd, and only then looked at again: one that has its number but not its start time,
or does not hold the GPU any more, is somebody else and is left alone.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gpuwarden.actuators.backend import Answer, done, failed, refused
from gpuwarden.actuators.holders import Holder, holdings, start_ticks
from gpuwarden.actuators.site import Site
from gpuwarden.model.case import Intent

_TERM_SHARE = 0.6  # of the deadline, for work to save what it has
_LONGEST_TERM_SECONDS = 60.0
_MARGIN_SECONDS = 2.0
_ROUNDS = 3  # a parent may start others while its children end


def stop_workload(site: Site, intent: Intent) -> Answer:
    """End the work on one GPU. Refused, and nobody touched, where one process is a scheduler's or our own."""
    until = time.monotonic() + max(1.0, intent.deadline_seconds - _MARGIN_SECONDS)
    grace = min(_LONGEST_TERM_SECONDS, _TERM_SHARE * intent.deadline_seconds)
    ended: list[Holder] = []
    for number in range(_ROUNDS):
        held = holdings(site)
        if not held.complete:
            return refused("not every process could be looked at") if not ended else failed("not all could be seen")
        work = held.working(intent.bdf)
        if not work:
            return done(f"ended {_names(ended)}" if ended else "nothing was at work")
        if number == 0 and (why := _untouchable(work)):
            return refused(why)
        work = [holder for holder in work if not _untouchable([holder])]
        ended += _end(site, work, grace if number == 0 else 1.0, until)
    left = holdings(site).working(intent.bdf)
    return failed(f"still at work: {_names(left)}") if left else done(f"ended {_names(ended)}")


def _untouchable(work: list[Holder]) -> str:
    """Return why these processes are not to be ended, "" where they may be."""
    ours = {1, *_line(os.getpid())}
    for holder in work:
        if holder.scheduler:
            return f"{holder} belongs to {holder.scheduler}: its work is ended through it"
        if holder.pid in ours:
            return f"{holder} is our own"
    return ""


def _line(pid: int) -> Iterator[int]:
    """Yield a process and all it descends from."""
    while pid > 1:
        yield pid
        _, _, rest = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")
        pid = int(rest.split()[1])


def _end(site: Site, work: list[Holder], grace: float, until: float) -> list[Holder]:
    """Signal these processes and wait for their end; return those that were theirs to signal."""
    with ExitStack() as stack:
        taken = [(holder, stack.enter_context(_taken(site, holder))) for holder in work]
        ours = {descriptor: holder for holder, descriptor in taken if descriptor >= 0}
        _signal(ours, signal.SIGTERM)
        left = _wait(ours, min(until, time.monotonic() + grace))
        _signal(left, signal.SIGKILL)
        _wait(left, min(until, time.monotonic() + _MARGIN_SECONDS))
        return list(ours.values())


@contextmanager
def _taken(site: Site, holder: Holder) -> Iterator[int]:
    """Hold on to a process: a pidfd, or -1 where it is gone or another has its number now."""
    try:
        descriptor = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        yield -1
        return
    try:
        same = start_ticks(Path(site.place.proc) / str(holder.pid)) == holder.start_ticks
        yield descriptor if same else -1
    finally:
        os.close(descriptor)


def _signal(processes: dict[int, Holder], number: signal.Signals) -> None:
    for descriptor in processes:
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            continue


def _wait(processes: dict[int, Holder], until: float) -> dict[int, Holder]:
    """Return the processes that have not ended when `until` (monotonic) has come."""
    left = dict(processes)
    poll = select.poll()
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    while left and (seconds := until - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(seconds * 1000):
            poll.unregister(descriptor)
            del left[descriptor]
    return left


def _names(holders: list[Holder]) -> str:
    return ", ".join(str(holder) for holder in holders[:8]) + (" and more" if len(holders) > 8 else "")
