"""The NVML worker on a simulated node: the real worker, with the simulated library in the place of the driver's.

`python -m gpuwarden.sim.worker` with GPUWARDEN_SIM_SOCKET naming the node's socket; GPUWARDEN_SIM_CALL_SECONDS is what
each call costs (the driver's own take about 0.0001).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gpuwarden.nvml import session, worker
from gpuwarden.sim.client import SocketSource
from gpuwarden.sim.nvml import SimLibrary


def main() -> None:
    """Put the simulated library in, then be the worker."""
    path = os.environ.get("GPUWARDEN_SIM_SOCKET")
    if not path:
        sys.exit("GPUWARDEN_SIM_SOCKET is not set: this worker belongs to a simulated node")
    cost = float(os.environ.get("GPUWARDEN_SIM_CALL_SECONDS", "0"))
    session.use_library(SimLibrary(SocketSource(Path(path), call_seconds=cost)))
    worker.main(Path(path).with_name("sys"))


if __name__ == "__main__":
    main()
