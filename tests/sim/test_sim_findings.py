"""One scenario per finding kind, and its healthy look-alike, on virtual time through the real engine."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpuwarden.model.kinds import KINDS, default_settings
from gpuwarden.model.settings import Settings
from gpuwarden.sim.judge import judge
from gpuwarden.sim.products import products
from gpuwarden.sim.scenario import Work, load, of_findings

HEALTHY = ".healthy"
FAULTY = [name for name in of_findings() if not name.endswith(HEALTHY)]


@pytest.mark.parametrize("kind", FAULTY)
def test_the_finding_comes_and_nothing_unexpected_with_it(kind: str) -> None:
    """A scenario named after a kind expects that kind, and the engine comes to exactly what it expects."""
    scenario = load(kind)
    assert kind in KINDS
    assert kind in {row.incident for row in scenario.expect}
    assert scenario.only_expected
    outcome = judge(scenario, Settings(kinds=default_settings()))
    assert outcome.ok, (outcome.rows, outcome.unexpected)


@pytest.mark.parametrize("kind", FAULTY)
def test_the_healthy_look_alike_stays_silent(kind: str) -> None:
    """What only looks like the fault raises nothing at all."""
    scenario = load(kind + HEALTHY)
    assert (scenario.expect, scenario.only_expected) == ((), True)
    outcome = judge(scenario, Settings(kinds=default_settings()))
    assert outcome.log == ()


def test_every_look_alike_belongs_to_a_kind() -> None:
    """No healthy scenario without the fault it resembles."""
    assert {name.removesuffix(HEALTHY) for name in of_findings()} == set(FAULTY)


@pytest.mark.parametrize("product", products())
def test_an_idle_and_a_busy_card_of_every_product_raise_nothing(product: str) -> None:
    """As they were captured, a desktop's memory included."""
    scenario = replace(load(f"{product}x2"), seconds=200.0, load=(Work(point="idle"), Work()))
    assert judge(scenario, Settings(kinds=default_settings())).log == ()
