"""Giving leases back without anybody who holds them: from the ledger alone."""

from __future__ import annotations

from pathlib import Path

from gpuwarden.actuators.cards import ChildHands
from gpuwarden.actuators.holder import LeaseHolder
from gpuwarden.actuators.leaseholder import SIMULATED, boottime, lease_file
from gpuwarden.model.heat import Lease


async def give_back_alone(directory: Path, *, everything: bool) -> tuple[Lease, ...]:
    """Give back what is unsafe to keep, or everything, and return what could not be."""
    if not (directory / "leases.json").exists():
        return ()
    simulated = directory / SIMULATED
    hands = ChildHands()
    if simulated.exists():
        hands = ChildHands("gpuwarden.sim.setter", {"GPUWARDEN_SIM_SOCKET": simulated.read_text(encoding="utf-8")})
    holder = LeaseHolder(lease_file(directory), hands, boottime, 0.0, _nobody)
    return await holder.give_back(everything=everything)


def _nobody() -> None:
    """Nobody is told."""
