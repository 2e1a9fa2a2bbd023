"""The faults of links and of what keeps them up: NVLink, fabric, PCIe errors, InfiniBand, services, persistence."""

from __future__ import annotations

from gpuwarden.errors import InputError
from gpuwarden.model.host import UNITS
from gpuwarden.sim import kernel_lines
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import Fault, Node, NodeKnobs, Options
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


def _aer_place(card: Card, options: Options) -> str:
    """Return the device an AER fault is at. Raises: InputError."""
    places = {"gpu": card.identity.bdf, "port": card.identity.ports[-1], "root": card.identity.ports[0]}
    at, severity = str(options["at"]), str(options["severity"])
    if at not in places:
        raise InputError(f"aer: at is one of {', '.join(places)}, not {at!r}")
    if severity not in kernel_lines.AER_SEVERITIES:
        raise InputError(f"aer: severity is one of {', '.join(kernel_lines.AER_SEVERITIES)}, not {severity!r}")
    return places[at]


def _aer(knobs: Knobs, card: Card, options: Options) -> None:
    place = _aer_place(card, options)
    knobs.aer_by_place[place, str(options["severity"])] = float(options["per_second"])


def _aer_begin(node: Node, card: Card | None, options: Options) -> None:
    assert card is not None
    place, severity, count = _aer_place(card, options), str(options["severity"]), int(options["count"])
    if count > 0:
        card.pcie_errors(place, severity, count)
        node.log(kernel_lines.aer("nvidia" if place == card.identity.bdf else "pcieport", place, severity))


def _slot(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.slot_generation = max(1, int(options["generation"]))


def _needs_links(card: Card) -> str:
    return "" if card.product.nvlinks else "has no NVLink"


def _needs_fabric(card: Card) -> str:
    return "" if card.product.fabric else "has no fabric"


ROWS = (
    Fault(
        name="nvlink_down",
        cure="reset",
        what="one NVLink is down (-1: all of the card's, as on a board without a bridge)",
        options={"link": 0},
        card=_link_down,
        usable=_needs_links,
    ),
    Fault(
        name="nvlink_errors",
        cure="reset",
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
    Fault(
        name="aer",
        cure="reset",
        what="PCIe errors at the GPU, the port above it or its root port: `count` at once with a kernel line, and more "
        f"a second ({', '.join(kernel_lines.AER_SEVERITIES)})",
        options={"at": "port", "severity": "nonfatal", "count": 1, "per_second": 0.0},
        card=_aer,
        begin=_aer_begin,
    ),
    Fault(
        name="slow_slot",
        what="the slot is of an older PCIe generation than the card: no fault, but slower",
        gpu="any",
        options={"generation": 3},
        card=_slot,
    ),
    Fault(name="persistence_off", what="persistence mode is off", gpu="any", card=_persistence_off),
)
