"""The simulated host beside its cards: service units and InfiniBand ports, as a server of the product has them."""

from __future__ import annotations

from gpuwarden.model.host import FABRIC_MANAGER, PERSISTENCED, UNITS, IbPort, ServiceUnit
from gpuwarden.sim.world import World

_SWITCHED_LINKS = 12  # a product with that many NVLinks sits behind NVSwitches
_RATE_BITS_PER_SECOND = 400e9
_SUB = {"active": "running", "failed": "failed", "activating": "start"}


def units(world: World) -> tuple[ServiceUnit, ...]:
    """Return the units that are looked at, with what faults did to them."""
    product = world.product
    installed = {
        FABRIC_MANAGER: product.fabric or product.nvlinks >= _SWITCHED_LINKS,
        PERSISTENCED: product.persistence,
    }
    return tuple(_unit(name, installed.get(name, False), world.node_knobs.units.get(name, "active")) for name in UNITS)


def _unit(name: str, installed: bool, active: str) -> ServiceUnit:
    if not installed:
        return ServiceUnit(name=name, load="not-found", active="inactive", sub="dead")
    return ServiceUnit(name=name, load="loaded", active=active, sub=_SUB.get(active, "dead"), enabled="enabled")


def shown(world: World) -> str:
    """Return the units as `systemctl show` prints them."""
    return "\n".join(
        f"Id={unit.name}\nLoadState={unit.load}\nActiveState={unit.active}\nSubState={unit.sub}\n"
        f"UnitFileState={unit.enabled}\n"
        for unit in units(world)
    )


def ports(world: World) -> tuple[IbPort, ...]:
    """Return the ports: one adapter a card on the servers that are built into clusters, none elsewhere."""
    if not world.product.fabric:
        return ()
    return tuple(_port(f"mlx5_{card.slot}", world) for card in world.cards)


def _port(device: str, world: World) -> IbPort:
    phys_state = world.node_knobs.ports_down.get(device)
    return IbPort(
        device=device,
        port=1,
        state="ACTIVE" if phys_state is None else "DOWN",
        phys_state=phys_state or "LinkUp",
        rate_bits_per_second=_RATE_BITS_PER_SECOND if phys_state is None else 10e9,
        link_layer="InfiniBand",
    )
