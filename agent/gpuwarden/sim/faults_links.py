"""The faults of links, and of what keeps them up: NVLink, its fabric, InfiniBand, service units, persistence."""

from __future__ import annotations

from gpuwarden.errors import InputError
from gpuwarden.model.host import UNITS
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import Fault, NodeKnobs, Options
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


def _service(knobs: NodeKnobs, options: Options) -> None:
    unit, state = str(options["unit"]), str(options["state"])
    name = unit if unit.endswith(".service") else f"{unit}.service"
    if name not in UNITS:
        raise InputError(f"service_stopped: unit is one of {', '.join(UNITS)}, not {unit!r}")
    knobs.units[name] = state


def _port_down(knobs: NodeKnobs, options: Options) -> None:
    knobs.ports_down[str(options["device"])] = str(options["phys_state"])


def _persistence_off(knobs: Knobs, _: Card, __: Options) -> None:
    knobs.persistence_off = True


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
    Fault(
        name="service_stopped",
        what=f"a service unit does not run ({', '.join(UNITS)}; state inactive or failed)",
        gpu="none",
        options={"unit": "nvidia-fabricmanager", "state": "failed"},
        node=_service,
    ),
    Fault(
        name="ib_port_down",
        what="the InfiniBand port of an adapter is down (phys_state Disabled: switched off by somebody)",
        gpu="none",
        options={"device": "mlx5_0", "phys_state": "Polling"},
        node=_port_down,
    ),
    Fault(name="persistence_off", what="persistence mode is off", gpu="any", card=_persistence_off),
)
