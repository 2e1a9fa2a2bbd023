"""The actuator as a process of its own on a laid-out host: `python actuatorproc.py SITE [IDLE_SECONDS]`."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from gpuwarden import log
from gpuwarden.actuators.process import run_actuator
from gpuwarden.actuators.site import Site

if __name__ == "__main__":
    log.configure("info", "logfmt")
    run_actuator(
        msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Site),
        idle_seconds=float(sys.argv[2]) if len(sys.argv) > 2 else None,
    )
