"""The running totals behind a simulated card's GPM samples: they follow what the card does.

A metric's total grows by its value per second, so that the difference of two totals over the time between is its
average. Ids and units are the driver's (percent, MiB). Source: nvml.h, nvmlGpmMetricId_t.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gpuwarden.sim.card import Card

_HOPPER = 9  # nvmlDeviceArchitecture_t: the first that has GPM
_MEBI = float(1 << 20)
_WORK = {  # metric id -> percent at full work, as of a transformer in training
    1: 100.0,  # graphics
    2: 94.0,  # SM
    3: 41.0,  # occupancy
    4: 13.0,  # integer
    5: 52.0,  # any tensor
    6: 0.0,  # DFMA
    7: 49.0,  # HMMA
    8: 0.0,  # DMMA
    9: 3.0,  # IMMA
    10: 38.0,  # DRAM
    11: 0.0,  # FP64
    12: 17.0,  # FP32
    13: 6.0,  # FP16
}
_PCIE_TX, _PCIE_RX, _NVLINK_RX, _NVLINK_TX = 20, 21, 60, 61
_SENT_SHARE, _RECEIVED_SHARE = 0.12, 0.97


@dataclasses.dataclass(slots=True)
class Totals:
    """What has been done since some moment."""

    seconds: float = 0.0
    work_seconds: float = 0.0
    pcie_bytes: float = 0.0
    nvlink_bytes: float = 0.0


class GpmSheet(msgspec.Struct, frozen=True, array_like=True):
    """What a sample taken now would hold. `rates` is what the totals grow by in a second, for no time between two."""

    seconds: float
    totals: dict[int, float]
    rates: dict[int, float]


def has_gpm(card: Card) -> bool:
    """Return whether the product has GPM."""
    return card.product.architecture >= _HOPPER


def work_of(card: Card) -> float:
    """Return how hard a card works now, 0 to 1."""
    return card.load.intensity if card.point is not card.product.points["idle"] else 0.0


def count(card: Card, seconds: float) -> None:
    """Add what a card does for some seconds to its totals."""
    totals = card.totals
    totals.seconds += seconds
    totals.work_seconds += work_of(card) * seconds
    totals.pcie_bytes += card.share("pcie_bytes_per_second") * seconds
    totals.nvlink_bytes += card.share("nvlink_bytes_per_second") * seconds


def sheet_of(card: Card) -> GpmSheet:
    """Return what a sample of the whole card would hold."""
    totals = card.totals
    now = Totals(1.0, work_of(card), card.share("pcie_bytes_per_second"), card.share("nvlink_bytes_per_second"))
    return GpmSheet(totals.seconds, _traffic(card, totals) | work(totals), _traffic(card, now) | work(now))


def work(totals: Totals) -> dict[int, float]:
    """Return the totals of the metrics that follow work."""
    return {metric: percent * totals.work_seconds for metric, percent in _WORK.items()}


def _traffic(card: Card, totals: Totals) -> dict[int, float]:
    found = {
        _PCIE_TX: _SENT_SHARE * totals.pcie_bytes / _MEBI,
        _PCIE_RX: totals.pcie_bytes / _MEBI,
    }
    if card.product.nvlinks:
        found[_NVLINK_TX] = totals.nvlink_bytes / _MEBI
        found[_NVLINK_RX] = _RECEIVED_SHARE * totals.nvlink_bytes / _MEBI
    return found
