"""Which batch jobs run on which GPU, as a scheduler's prolog writes it: one file per GPU, one job id a line.

The convention is dcgm-exporter's `--hpc-job-mapping-dir`: a file is named by the GPU's index, or by `index.instance`
for a MIG instance. The directory may be on a file system that hangs, so a thread of its own looks, with a deadline.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import structlog

from gpuwarden.sidethread import BusyError, SideThread

Jobs: TypeAlias = dict[str, tuple[str, ...]]

_NAME = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4})?")
_MOST_FILES = 1024
_MOST_BYTES = 64 << 10
_MOST_JOBS = 256  # per GPU
_LONGEST = 256


def read_jobs(directory: Path) -> Jobs:
    """Return the jobs by file name. A directory that is not there, other names and empty files mean no job.

    Raises: OSError for a directory that is there and cannot be listed.
    """
    try:
        found = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    named = [path for path in found if _NAME.fullmatch(path.name) and path.is_file()]
    return {path.name: jobs for path in named[:_MOST_FILES] if (jobs := _jobs(path))}


def _jobs(path: Path) -> tuple[str, ...]:
    """Return the lines of a file, each once; none where it vanished: the epilog deletes what the prolog wrote."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ()
    lines = (line.strip()[:_LONGEST] for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in lines if line))[:_MOST_JOBS]


class JobFiles:
    """Looks every `period_seconds` and tells when something changed. What cannot be read in time is no job."""

    def __init__(
        self,
        directory: Callable[[], str],
        changed: Callable[[Jobs], None],
        *,
        look: Callable[[Path], Jobs] = read_jobs,
        period_seconds: float = 1.0,
        deadline_seconds: float = 2.0,
    ) -> None:
        self._directory = directory
        self._changed = changed
        self._look_into = look
        self._period_seconds = period_seconds
        self._deadline_seconds = deadline_seconds
        self._told: Jobs = {}
        self._failed = ""
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Look until cancelled; "" for a directory means that nothing is to be looked at."""
        thread = SideThread("hpc-jobs", depth=1)
        try:
            while True:
                found = await self._look(thread)
                if found != self._told:
                    self._told = found
                    self._changed(found)
                await asyncio.sleep(self._period_seconds)
        finally:
            thread.close()

    async def _look(self, thread: SideThread) -> Jobs:
        named = self._directory()
        if not named:
            return {}
        failed, found = "", {}
        try:
            found = await thread.call(lambda: self._look_into(Path(named)), self._deadline_seconds)
        except (OSError, TimeoutError, BusyError) as error:
            failed = str(error) or f"no answer in {self._deadline_seconds} s"
        if failed and not self._failed:
            self._log.warning("hpc_jobs.unreadable", directory=named, reason=failed)
        self._failed = failed
        return found
