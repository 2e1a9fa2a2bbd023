"""The real worker on one simulated H100 of its own, which says `freed` for each sample buffer it is given back."""

from __future__ import annotations

import sys
from typing import Any

from gpuwarden.nvml import session, worker
from gpuwarden.sim.inprocess import InProcess
from gpuwarden.sim.nvml import SimLibrary
from gpuwarden.sim.products import products
from gpuwarden.sim.world import World


class Telling(SimLibrary):
    """A library that tells of each buffer that is freed."""

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if name != "nvmlGpmSampleFree":
            return found

        def told(buffer: Any) -> Any:
            sys.stderr.write("freed\n")
            sys.stderr.flush()
            return found(buffer)

        return told


if __name__ == "__main__":
    session.use_library(Telling(InProcess(World(products()["h100"], 1))))
    worker.main()
