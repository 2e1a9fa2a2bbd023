"""The NVML worker, the one process that calls the driver: `python -m gpuwarden.nvml.worker`, frames on its pipes.

It ends when its stdin does, at once and without waiting for anybody: a thread that hangs must not keep it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from gpuwarden import __version__
from gpuwarden.model.observation import WorkerState
from gpuwarden.nvml.codes import SUCCESS, state_of
from gpuwarden.nvml.events import EventsThread
from gpuwarden.nvml.gpm import free
from gpuwarden.nvml.session import Session, open_session
from gpuwarden.nvml.sleepers import SYSFS, driven
from gpuwarden.nvml.sleepers import addresses as addresses_of
from gpuwarden.nvml.threads import GpuThread, boottime
from gpuwarden.nvml.wire import (
    PROTOCOL,
    Beat,
    Busy,
    FromWorker,
    Hello,
    InitFailed,
    Mig,
    Opened,
    Processes,
    Quiet,
    Quieted,
    Sample,
    Start,
    encode,
    read_command,
    write_all,
)

SESSION_INDEX = -1
EXIT_SESSION_DEAD = 75  # EX_TEMPFAIL: only a new process can go on
_QUEUE_FRAMES = 10_000
_BEAT_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_LEAVE_SECONDS = 0.2
_ASIDE_SECONDS = 3600.0  # at most, for what it is worth: a new worker ends it


class Worker:
    """The threads of one worker and what they share: the way out."""

    def __init__(self, start: Start, out_fd: int, sysfs: Path = SYSFS) -> None:
        self._start = start
        self._sysfs = sysfs
        self._out_fd = out_fd
        self._frames: queue.Queue[bytes] = queue.Queue(_QUEUE_FRAMES)
        self._gpus: list[GpuThread] = []
        self._events = EventsThread(self.tell)
        self._init_since: float | None = None

    def tell(self, message: FromWorker) -> None:
        """Put one message on its way. A parent that does not read costs samples first; anything else waits for it."""
        frame = encode(message)
        if isinstance(message, Sample | Mig | Processes | Beat):
            with contextlib.suppress(queue.Full):
                self._frames.put_nowait(frame)
        else:
            self._frames.put(frame)

    def run(self) -> None:
        """Start every thread; returns at once."""
        self.tell(Hello(protocol=PROTOCOL, version=__version__))
        for name, work in (("out", self._write), ("beat", self._beat), ("session", self._open)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def obey(self, command: Quiet) -> None:
        """Do what the parent asks."""
        for gpu in self._gpus:
            if gpu.bdf == command.bdf:
                gpu.quiet(command.seconds)

    def leave(self) -> None:
        """Give the sample buffers back that no call is using, and end the process; waits for nobody who hangs."""
        freeing = threading.Thread(target=self._free, daemon=True)
        freeing.start()
        freeing.join(_LEAVE_SECONDS)
        os._exit(0)

    def _free(self) -> None:
        for gpu in self._gpus:
            free(gpu.memory)

    def _write(self) -> None:
        while True:
            try:
                write_all(self._out_fd, self._frames.get())
            except OSError:  # nobody reads any more
                os._exit(0)

    def _beat(self) -> None:
        while True:
            init = self._init_since
            session = [] if init is None else [Busy(index=SESSION_INDEX, bdf="", call="nvmlInit_v2", since=init)]
            self.tell(Beat(threads=(*session, *(gpu.busy() for gpu in self._gpus))))
            threading.Event().wait(_BEAT_SECONDS)

    def _open(self) -> None:
        """Open the session, trying again for as long as there is no driver; then one thread per GPU."""
        told = SUCCESS
        while True:
            self._init_since = boottime()
            session = open_session()
            self._init_since = None
            if session.code == SUCCESS:
                break
            if session.code != told:
                told = session.code
                self.tell(InitFailed(code=session.code, where=session.where))
            if state_of(session.code) is WorkerState.LIBRARY_MISMATCH:
                self._end_for_a_new_process()
            threading.Event().wait(_RETRY_SECONDS)
        self._serve(session)

    def _serve(self, session: Session) -> None:
        self.tell(Opened(driver=session.driver, nvml=session.nvml, cuda=session.cuda, count=session.count))
        addresses = self._addresses(session.count)
        if addresses is None:
            return
        self._gpus = [
            GpuThread(
                index,
                self._start,
                self.tell,
                self._events.add,
                lambda _: self._end_for_a_new_process(),
                address=addresses[index] if addresses else "",
                sysfs=self._sysfs,
            )
            for index in range(session.count)
            if not (addresses and addresses[index] in self._start.aside)
        ]
        for gpu in self._gpus:
            gpu.start()
        self._events.start()

    def _addresses(self, count: int) -> tuple[str, ...] | None:
        """Return the address by which to open each GPU, () where by index will do, None where none may be opened.

        GPUs that are set aside are told of as left alone. Where nothing says which index is theirs, all are.
        """
        aside = self._start.aside
        if not aside:
            return addresses_of(self._sysfs, count)
        found = driven(self._sysfs)
        known = len(found) == count
        for index, bdf in enumerate(found if known else aside):
            if not known or bdf in aside:
                self.tell(Quieted(index=index if known else -1, bdf=bdf, until=boottime() + _ASIDE_SECONDS))
        return found if known else None

    def _end_for_a_new_process(self) -> None:
        """End once what was told is on its way: this process holds a library or session that is of no use any more."""
        deadline = boottime() + 1.0
        while not self._frames.empty() and boottime() < deadline:
            threading.Event().wait(0.01)
        os._exit(EXIT_SESSION_DEAD)


def main(sysfs: Path = SYSFS) -> None:
    """Serve the parent until stdin ends."""
    out_fd = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not print between frames
    stdin: Any = sys.stdin.buffer
    start = read_command(stdin)
    if not isinstance(start, Start) or start.protocol != PROTOCOL:
        sys.exit("the NVML worker is started by gpuwarden itself")
    worker = Worker(start, out_fd, sysfs)
    worker.run()
    while (command := read_command(stdin)) is not None:
        if isinstance(command, Quiet):
            worker.obey(command)
    worker.leave()


if __name__ == "__main__":
    main()
