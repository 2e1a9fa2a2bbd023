"""The setter through the real binding on the simulated library: what it reads, sets, and is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pynvml
import pytest

from gpuwarden.model.card import SetAsk
from gpuwarden.model.heat import Setting
from gpuwarden.nvml.session import close_session, handle_of, open_session
from gpuwarden.nvml.setter import apply, settings_of
from gpuwarden.sim.inprocess import InProcess
from gpuwarden.sim.nvml import SimLibrary
from gpuwarden.sim.products import products
from gpuwarden.sim.world import World
from support.fakenvml import library

NOT_SUPPORTED, INVALID_ARGUMENT = 3, 2


def world_of(product: str) -> Iterator[World]:
    world = World(products()[product], 2)
    with library(SimLibrary(InProcess(world))):
        assert open_session().code == 0
        yield world
        close_session()


@pytest.fixture
def rig() -> Iterator[World]:
    yield from world_of("rtx4090")


@pytest.fixture
def board() -> Iterator[World]:
    yield from world_of("h100")


def card() -> Any:
    return handle_of(0)[0]


def test_it_reads_what_can_be_set_and_its_limits(rig: World) -> None:
    """In base units."""
    found = settings_of(card())
    assert (found.power_watts, found.power_min_watts, found.power_max_watts) == (450.0, 150.0, 600.0)
    assert (found.fans, found.fans_manual, found.fan_min_ratio, found.fan_max_ratio) == (2, False, 0.3, 1.0)
    assert found.clock_max_hertz == 3.105e9
    assert found.celsius == round(rig.cards[0].core_celsius)


def test_a_board_without_fans_has_none(board: World) -> None:
    """Nothing about fans is made up; setting them does nothing to the board."""
    found = settings_of(card())
    assert (found.fans, found.fans_manual, found.fan_ratio) == (0, None, None)
    assert apply(card(), SetAsk(Setting.FAN, 0.8)) == NOT_SUPPORTED
    assert board.cards[0].manual_fans == {}


def test_settings_take_effect_and_go_back(rig: World) -> None:
    """Each of the three; the other card is left as it is."""
    first, second = rig.cards
    assert apply(card(), SetAsk(Setting.POWER, 300.0)) == 0
    assert apply(card(), SetAsk(Setting.CLOCK, 1.5e9)) == 0
    assert apply(card(), SetAsk(Setting.FAN, 0.8)) == 0
    assert (first.power_limit_watts, first.locked_clock_hertz, first.manual_fans) == (300.0, 1.5e9, {0: 0.8, 1: 0.8})
    found = settings_of(card())
    assert (found.power_watts, found.fans_manual, found.fan_ratio) == (300.0, True, 0.8)
    assert (second.power_limit_watts, second.locked_clock_hertz, second.manual_fans) == (450.0, None, {})
    assert apply(card(), SetAsk(Setting.CLOCK, None)) == 0
    assert apply(card(), SetAsk(Setting.FAN, None)) == 0
    assert (first.locked_clock_hertz, first.manual_fans) == (None, {})


def test_what_the_driver_refuses_changes_nothing(rig: World) -> None:
    """Outside the card's limits, and where the card does not let it be set at all."""
    assert apply(card(), SetAsk(Setting.POWER, 100.0)) == INVALID_ARGUMENT
    assert apply(card(), SetAsk(Setting.FAN, 0.1)) == INVALID_ARGUMENT
    rig.inject("refuses", 0, {"setting": "clock"})
    assert apply(card(), SetAsk(Setting.CLOCK, 1e9)) == NOT_SUPPORTED
    first = rig.cards[0]
    assert (first.power_limit_watts, first.locked_clock_hertz, first.manual_fans) == (450.0, None, {})


def test_both_forms_of_the_power_limit_are_simulated(rig: World) -> None:
    """The newer one takes a structure."""
    pynvml.nvmlDeviceSetPowerManagementLimit_v2(card(), 0, 333_000)
    assert rig.cards[0].power_limit_watts == 333.0
