"""What the simulated driver answers about a card's links: PCIe, NVLink and its fabric. Keys and units as in `sheet`."""

from __future__ import annotations

from gpuwarden.model.gpu import fabric_faults
from gpuwarden.sim.answers import Answers
from gpuwarden.sim.card import Card

ALL_LINKS = 0xFFFFFFFF
_D = "nvmlDeviceGet"
_HOPPER, _BLACKWELL = 9, 10  # nvmlDeviceArchitecture_t
_FABRIC_COMPLETED = 3
_HEALTHY, _UNHEALTHY = 1, 2  # NVML_GPU_FABRIC_HEALTH_SUMMARY_*
_TOTALS = {"crc_flit": 38, "crc_data": 45, "replay": 52, "recovery": 59}
_SCOPED = {"replay": 161, "recovery": 162, "crc": 163}  # Hopper; the link is the scope
_NUMBERED = {"replay": (46, 108), "recovery": (53, 114), "crc_flit": (32, 96), "crc_data": (39, 102)}  # before it
_NVLINK5 = {
    "overrun": 207,
    "receive": 208,
    "integrity": 211,
    "discard": 212,
    "recovery": 213,
    "recovery_failed": 214,
    "effective": 219,
    "symbol": 221,
}
NVLINK_ERRORS = tuple(dict.fromkeys((*_SCOPED, *_NUMBERED, *_NVLINK5)))
"""The errors a link can be made to count; a product shows those of its own generation."""


def _pcie(card: Card, found: Answers) -> None:
    generation = link_generation(card)
    found[_D + "CurrPcieLinkGeneration"] = generation
    found[_D + "CurrPcieLinkWidth"] = link_width(card)
    found[_D + "MaxPcieLinkGeneration"] = min(card.product.pcie_generation_max, slot_generation(card))
    found[_D + "GpuMaxPcieLinkGeneration"] = card.product.pcie_generation_max
    found[_D + "MaxPcieLinkWidth"] = card.product.pcie_width_lanes
    found[_D + "PcieReplayCounter"] = int(card.counters.replays)
    found["FI:94"] = int(card.counters.replays)
    moved = card.share("pcie_bytes_per_second") * link_width(card) / card.product.pcie_width_lanes
    found[_D + "PcieThroughput:0"] = round(0.12 * moved / 1024)
    found[_D + "PcieThroughput:1"] = round(moved / 1024)


def slot_generation(card: Card) -> int:
    """Return the highest PCIe generation that the card's slot can do."""
    return card.knobs.slot_generation or card.product.pcie_generation_max


def link_generation(card: Card) -> int:
    """Return the PCIe generation the card's link runs at now: lower at idle by design."""
    return min(card.point.pcie_generation, slot_generation(card), card.knobs.link_generation or 8)


def link_width(card: Card) -> int:
    """Return the lanes the card's link runs with now."""
    return card.knobs.link_width_lanes or card.product.pcie_width_lanes


def _nvlink(card: Card, found: Answers) -> None:
    links = card.product.nvlinks
    if not links:
        return
    for link in range(links):
        up = link not in card.knobs.links_down
        found[f"{_D}NvLinkState:{link}"] = int(up)
        found[f"FI:164:{link}"] = card.product.nvlink_megabytes_per_second if up else 0
    found["FI:91"] = links
    found["FI:90"] = card.product.nvlink_megabytes_per_second
    fields, unit = ((202, 204), 1) if card.product.architecture >= _BLACKWELL else ((138, 139), 1024)
    for field, moved in zip(fields, (card.counters.nvlink_tx_bytes, card.counters.nvlink_rx_bytes), strict=True):
        found[f"FI:{field}:{ALL_LINKS}"] = int(moved / unit)
        for link in range(links):
            found[f"FI:{field}:{link}"] = int(moved / unit / links)
    _nvlink_errors(card, found)


def _nvlink_errors(card: Card, found: Answers) -> None:
    architecture = card.product.architecture
    fields = _NVLINK5 if architecture >= _BLACKWELL else _SCOPED
    for kind, id_ in _TOTALS.items() if architecture < _BLACKWELL else ():
        found[f"FI:{id_}"] = int(sum(n for (of, _), n in card.counters.nvlink_errors.items() if of == kind))
    for link in range(card.product.nvlinks):
        counts = card.counters.nvlink_errors
        if architecture >= _HOPPER:
            found[f"FI:165:{link}"] = int(link not in card.knobs.links_down)
            found.update({f"FI:{id_}:{link}": int(counts.get((kind, link), 0)) for kind, id_ in fields.items()})
        elif link < 12:
            for kind, (first, second) in _NUMBERED.items():
                number = first + link if link < 6 else second + link - 6
                found[f"FI:{number}"] = int(counts.get((kind, link), 0))


def _fabric(card: Card, found: Answers) -> None:
    if card.product.fabric:
        knobs = card.knobs
        state = _FABRIC_COMPLETED if knobs.fabric_state is None else knobs.fabric_state
        found[_D + "GpuFabricInfoV"] = {
            "state": state,
            "status": 0,
            "cliqueId": 0,
            "healthMask": knobs.fabric_health,
            "healthSummary": _UNHEALTHY if fabric_faults(knobs.fabric_health) else _HEALTHY,
        }


LINK_PARTS = (_pcie, _nvlink, _fabric)
