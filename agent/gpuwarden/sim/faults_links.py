"""The faults of links: NVLink and its fabric."""

from __future__ import annotations

from gpuwarden.errors import InputError
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import Fault, Options
from gpuwarden.sim.sheet_links import NVLINK_ERRORS


def _link_down(knobs: Knobs, card: Card, options: Options) -> None:
    link = int(options["link"])
    knobs.links_down |= set(range(card.product.nvlinks)) if link < 0 else {link}


def _link_errors(knobs: Knobs, _: Card, options: Options) -> None:
    error = str(options["error"])
    if error not in NVLINK_ERRORS:
        raise InputError(f"nvlink_errors: error is one of {', '.join(NVLINK_ERRORS)}, not {error!r}")
    knobs.nvlink_errors_per_second[error, int(options["link"])] = float(options["per_second"])


def _fabric(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.fabric_state, knobs.fabric_health = int(options["state"]), int(options["health"])


def _needs_links(card: Card) -> str:
    return "" if card.product.nvlinks else "has no NVLink"


def _needs_fabric(card: Card) -> str:
    return "" if card.product.fabric else "has no fabric"


ROWS = (
    Fault(
        name="nvlink_down",
        what="one NVLink is down (-1: all of the card's, as on a board without a bridge)",
        options={"link": 0},
        card=_link_down,
        usable=_needs_links,
    ),
    Fault(
        name="nvlink_errors",
        what=f"one NVLink counts errors ({', '.join(NVLINK_ERRORS)})",
        options={"error": "replay", "link": 0, "per_second": 1.0},
        card=_link_errors,
        usable=_needs_links,
    ),
    Fault(
        name="fabric",
        what="the GPU has not joined its fabric: state 1 not started, 2 in progress; 3 and a health mask: badly joined",
        gpu="any",
        options={"state": 2, "health": 0},
        card=_fabric,
        usable=_needs_fabric,
    ),
)
