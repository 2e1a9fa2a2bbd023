"""A simulated node in a process of its own, that outlives the daemon on it, and what its cards are set to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from gpuwarden.sim import client
from gpuwarden.sim.sheet import CardSheet
from gpuwarden.sim.wire import AskCard, SetOn


class HeatRig:
    """The node. Use as a context manager."""

    def __init__(self, directory: Path, spec: str = "rtx4090x2", speed: float = 10.0) -> None:
        self.directory = directory
        self.socket = directory / "sim.sock"
        self._command = ["--spec", spec, "--dir", str(directory), "--speed", str(speed)]

    def __enter__(self) -> HeatRig:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gpuwarden.sim.server", *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=5)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def card(self, slot: int = 0) -> CardSheet:
        """Return what the driver says of a card."""
        return client._once(self.socket, AskCard(slot), CardSheet)

    def set(self, slot: int, function: str, *numbers: int) -> int:
        """Call a setter, as another tool on the host would."""
        return client._once(self.socket, SetOn(slot, function, list(numbers)), int)

    def watts(self, slot: int = 0) -> float:
        """Return a card's power limit."""
        limit = self.card(slot).answers["nvmlDeviceGetPowerManagementLimit"]
        return msgspec.convert(limit, float) / 1000

    def manual(self, slot: int = 0) -> bool:
        """Return whether a card's fans stand at a speed that somebody set."""
        return self.card(slot).answers["nvmlDeviceGetFanControlPolicy_v2:0"] == 1
