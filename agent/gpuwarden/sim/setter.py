"""The setter on a simulated node: the real one, with the simulated library in the place of the driver's.

`python -m gpuwarden.sim.setter BDF` with GPUWARDEN_SIM_SOCKET naming the node's socket.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gpuwarden.nvml import session, setter
from gpuwarden.sim.client import SocketSource
from gpuwarden.sim.nvml import SimLibrary


def main() -> None:
    """Put the simulated library in, then be the setter."""
    path = os.environ.get("GPUWARDEN_SIM_SOCKET")
    if not path:
        sys.exit("GPUWARDEN_SIM_SOCKET is not set: this setter belongs to a simulated node")
    session.use_library(SimLibrary(SocketSource(Path(path))))
    setter.main()


if __name__ == "__main__":
    main()
