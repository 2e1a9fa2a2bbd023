"""What the simulated driver answers about memory errors and repairs. Keys and units: see `sheet`."""

from __future__ import annotations

from gpuwarden.sim.answers import Answers
from gpuwarden.sim.card import Card

_D = "nvmlDeviceGet"
_AMPERE = 7
_SRAM_THRESHOLD = 4


def ecc(card: Card, found: Answers) -> None:
    """Fill in ECC modes and counts."""
    mode = {"none": None, "off": 0, "on": 1}[card.product.ecc]
    if mode is None:
        return
    found[_D + "DefaultEccMode"] = mode
    mode = 0 if card.knobs.ecc_off else mode
    found[_D + "EccMode"] = [mode, mode]
    if not mode:
        return
    places = {2: "dram", 7: "sram"} if card.product.architecture >= _AMPERE else {2: "dram"}
    for counter, counts in enumerate((card.counters, card.lifetime)):
        for kind, by_place in enumerate((counts.corrected, counts.uncorrected)):
            found[f"{_D}TotalEccErrors:{kind}:{counter}"] = int(sum(by_place.values()))
            found[f"FI:{3 + kind + 2 * counter}"] = int(sum(by_place.values()))
            for location, place in places.items():
                found[f"{_D}MemoryErrorCounter:{kind}:{counter}:{location}"] = int(by_place[place])


def sram(card: Card, found: Answers) -> None:
    """Fill in the SRAM error status: cards answer it that have no ECC to switch on, an RTX 4080 SUPER for one."""
    if card.product.sram_status:
        exceeded = card.knobs.sram_exceeded or card.lifetime.uncorrected["sram"] >= _SRAM_THRESHOLD
        found[_D + "SramEccErrorStatus"] = {
            "aggregateCor": int(card.lifetime.corrected["sram"]),
            "aggregateUncSecDed": int(card.lifetime.uncorrected["sram"]),
            "volatileCor": int(card.counters.corrected["sram"]),
            "volatileUncSecDed": int(card.counters.uncorrected["sram"]),
            "bThresholdExceeded": int(exceeded),
        }


def rows(card: Card, found: Answers) -> None:
    """Fill in remapped rows and repairs, or retired pages on boards before Ampere."""
    if card.product.row_remap_banks:
        _remapper(card, found)
    if card.product.repairs:
        found[_D + "RepairStatus"] = {"bChannelRepairPending": int(card.knobs.channel_repair), "bTpcRepairPending": 0}
        found[_D + "UnrepairableMemoryFlag_v1"] = {"unrepairableMemory": int(card.knobs.unrepairable)}
    if card.product.retired_pages:
        for cause, times in enumerate(card.retired.values()):
            pages = [[0x1000 * (page + 1), int(1e6 * time)] for page, time in enumerate(times)]
            found[f"{_D}RetiredPages:{cause}"] = pages
            found[f"{_D}RetiredPages_v2:{cause}"] = pages
            found[f"FI:{29 + cause}"] = len(times)
        pending = int(card.knobs.retirement_pending)
        found[_D + "RetiredPagesPendingStatus"] = pending
        found["FI:31"] = pending


def _remapper(card: Card, found: Answers) -> None:
    knobs = card.knobs
    remapped = [card.remapped_corrected, card.remapped_uncorrected, int(knobs.remap_pending), int(knobs.remap_failed)]
    found[_D + "RemappedRows"] = remapped
    found.update({f"FI:{142 + number}": row for number, row in enumerate(remapped)})
    without = knobs.banks_without + int(knobs.remap_failed)
    left = card.product.row_remap_banks - without - knobs.banks_low
    used = min(left, card.remapped_corrected + card.remapped_uncorrected)
    found[_D + "RowRemapperHistogram"] = {
        "max": left - used,
        "high": used,
        "partial": 0,
        "low": knobs.banks_low,
        "none": without,
    }
