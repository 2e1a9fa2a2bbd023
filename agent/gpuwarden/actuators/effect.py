"""The child that brings one effect about, or takes one look: a frame in on stdin, a frame out on stdout.

`python -P -m gpuwarden.actuators.effect`. It dies with the actuator. It may block as it likes: whoever started it
has the deadline.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys

import msgspec

from gpuwarden.actuators.backend import Answer, failed, unknown
from gpuwarden.actuators.commands import CommandError
from gpuwarden.actuators.means import BACKENDS, MEANS
from gpuwarden.actuators.notes import NotesError
from gpuwarden.actuators.reset import put_back
from gpuwarden.actuators.site import Site
from gpuwarden.actuators.surroundings import look_around
from gpuwarden.actuators.wire import Answered, Ask, Look, Seen, framed
from gpuwarden.actuators.work import Job, Tidy
from gpuwarden.model.case import Intent, Outcome

_PR_SET_PDEATHSIG = 1


def bring_about(site: Site, intent: Intent) -> Answer:
    """Return what becomes of an intent here. Errors at the edge become outcomes: late may have had its effect."""
    try:
        return MEANS[intent.action](site, intent)
    except CommandError as error:
        return unknown(str(error)) if error.late else failed(str(error))
    except NotesError as error:
        return failed(str(error))


def answer_to(job: Job) -> Answered | Seen:
    """Do the job and return what to say about it."""
    match job.task:
        case Ask(intent=intent):
            outcome, detail = bring_about(job.site, intent)
            return Answered(outcome, detail)
        case Look():
            return Seen(look_around(job.site, BACKENDS[job.site.config.isolation.backend](job.site)))
        case Tidy():
            return Answered(Outcome.DONE, "; ".join(put_back(job.site)))


def main() -> None:
    """Read the job, do it, say what became of it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.dup(1)
    os.dup2(2, 1)  # nothing that is printed on the way becomes part of the answer
    (length,) = struct.unpack("!I", sys.stdin.buffer.read(4))
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(length), type=Job)
    with os.fdopen(out, "wb") as answer:
        answer.write(framed(answer_to(job)))


if __name__ == "__main__":
    main()
