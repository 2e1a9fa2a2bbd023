"""The simulated host beside its cards: what its files say is what a scenario on virtual time observes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuwarden.collectors import infiniband
from gpuwarden.collectors.pci import scan
from gpuwarden.collectors.services import parse
from gpuwarden.errors import InputError
from gpuwarden.model.host import FABRIC_MANAGER, PERSISTENCED
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.observation import PciScanned
from gpuwarden.model.settings import Settings
from gpuwarden.sim import host
from gpuwarden.sim.products import products
from gpuwarden.sim.scenario import load
from gpuwarden.sim.sysfs import SysfsTree
from gpuwarden.sim.virtual import VirtualNode
from gpuwarden.sim.world import World


def world(product: str = "h100", count: int = 4) -> World:
    return World(products()[product], count)


def test_pci_devices_and_the_ports_above_them_read_as_they_are_observed(tmp_path: Path) -> None:
    """The tree that the daemon scans and the observation of virtual time are the same devices, errors included."""
    virtual = VirtualNode(load("h100x4"), Settings(kinds=default_settings()))
    first = next(each for each in virtual.observations() if isinstance(each, PciScanned))
    tree = SysfsTree(tmp_path / "sys", virtual.world)
    assert scan(tmp_path / "sys").devices == first.devices
    virtual.world.inject("aer", 1, {"at": "root", "severity": "fatal", "count": 2})
    tree.update()
    shared = [gpu.upstream[0].aer_fatal for gpu in scan(tmp_path / "sys").devices]
    assert sorted(count or 0 for count in shared) == [0, 0, 2, 2]


def test_a_card_that_is_gone_leaves_its_port(tmp_path: Path) -> None:
    """Off the bus and back again; its sibling under the same root port is untouched."""
    node = world()
    tree = SysfsTree(tmp_path / "sys", node)
    node.inject("missing", 0)
    tree.update()
    assert len(scan(tmp_path / "sys").devices) == 3
    node.clear("missing", 0)
    tree.update()
    back = scan(tmp_path / "sys").devices
    assert len(back) == 4
    assert all(len(gpu.upstream) == 2 and gpu.driver == "nvidia" for gpu in back)


def test_infiniband_ports_read_as_they_are(tmp_path: Path) -> None:
    """One a card on a server with a fabric, none on a rig; a fault shows in state and physical state."""
    node = world()
    tree = SysfsTree(tmp_path / "sys", node)
    assert infiniband.scan(tmp_path / "sys") == host.ports(node)
    node.inject("ib_port_down", options={"device": "mlx5_3", "phys_state": "Disabled"})
    tree.update()
    down = infiniband.scan(tmp_path / "sys")[3]
    assert (down.name, down.state, down.phys_state) == ("mlx5_3:1", "DOWN", "Disabled")
    SysfsTree(tmp_path / "rig", world("rtx4090"))
    assert infiniband.scan(tmp_path / "rig") == ()


@pytest.mark.parametrize(
    ("product", "installed"),
    [
        ("h100", {FABRIC_MANAGER, PERSISTENCED}),
        ("a100", {FABRIC_MANAGER, PERSISTENCED}),
        ("l40s", {PERSISTENCED}),
        ("rtx4090", set()),
    ],
)
def test_units_are_installed_where_servers_have_them(product: str, installed: set[str]) -> None:
    """What is shown parses to what is observed."""
    node = world(product)
    assert parse(host.shown(node)) == host.units(node)
    assert {unit.name for unit in host.units(node) if unit.exists} == installed
    assert all(unit.runs for unit in host.units(node) if unit.exists)


def test_a_stopped_unit_is_shown_and_an_unknown_one_refused_before_anything_changes() -> None:
    """A fault of a unit nobody looks at would be silent."""
    node = world()
    node.inject("service_stopped", options={"unit": "nvidia-persistenced", "state": "inactive"})
    states = {unit.name: unit.active for unit in host.units(node)}
    assert (states[FABRIC_MANAGER], states[PERSISTENCED]) == ("active", "inactive")
    with pytest.raises(InputError, match="unit is one of"):
        node.inject("service_stopped", options={"unit": "sshd"})
    with pytest.raises(InputError, match="at is one of"):
        node.inject("aer", 0, {"at": "moon"})
    with pytest.raises(InputError, match="error is one of"):
        node.inject("nvlink_errors", 0, {"error": "typo"})
    assert [on.fault for on in node.active] == ["service_stopped"]
