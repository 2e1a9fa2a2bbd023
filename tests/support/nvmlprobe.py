"""Run as a script: one session with whatever libnvidia-ml.so.1 the loader finds, told as JSON."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from gpuwarden.model.gpu import Lane
from gpuwarden.nvml.driver import GpuMemory, LaneResult, identify, read_lane
from gpuwarden.nvml.session import close_session, handle_of, open_session


def look(index: int) -> dict[str, Any]:
    """Return what one GPU says: its identity or why there is none, and its lanes."""
    handle, code = handle_of(index)
    if code:
        return {"handle": code}
    memory = GpuMemory()
    identity = identify(handle, memory)
    if isinstance(identity, LaneResult):
        return {"identity": identity}
    return {"identity": identity, "lanes": {lane.value: read_lane(handle, lane, memory) for lane in Lane}}


if __name__ == "__main__":
    session = open_session()
    told = {"session": session, "gpus": [look(index) for index in range(session.count)]}
    close_session()
    sys.stdout.buffer.write(msgspec.json.encode(told))
