"""A partitioned node on virtual time through the real engine, and what can be said wrongly about a partition."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpuwarden.errors import InputError
from gpuwarden.exposition.native import families
from gpuwarden.model.gpu import Missing
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import GpuState
from gpuwarden.sim.judge import Outcome, judge
from gpuwarden.sim.mig import profiles
from gpuwarden.sim.products import products
from gpuwarden.sim.scenario import load, parse
from gpuwarden.sim.world import World
from support.nodes import EXTRAS


def run(seconds: float) -> Outcome:
    """Play the built-in scenario for so long."""
    return judge(replace(load("mig"), seconds=seconds), Settings(kinds=default_settings()))


def cards(outcome: Outcome) -> list[GpuState]:
    """Return the GPUs as the engine knows them at the end."""
    return list(outcome.state.gpus.values())


def profiles_of(gpu: GpuState) -> list[tuple[int, str]]:
    """Return GPU instance and profile of each instance."""
    return [(each.gi, each.profile) for each in gpu.mig]


def test_the_scenario_ends_as_it_says() -> None:
    """The Xid is an incident of its GPU, and keeps which instance it was of; the rest raises nothing."""
    outcome = judge(load("mig"), Settings(kinds=default_settings()))
    assert outcome.ok, (outcome.rows, outcome.unexpected)
    (line,) = [line for line in outcome.log if (line.kind, line.state) == ("incident", "opened")]
    assert (line.evidence["gi"], line.evidence["ci"]) == (3, 0)


def test_instances_are_followed_from_cut_to_cut() -> None:
    """Before, after, and without MIG at all: always those that there are, within a look."""
    first, second = cards(run(35.0))
    assert profiles_of(first) == profiles_of(second) == [(1, "3g.40gb"), (3, "2g.20gb"), (7, "1g.10gb")]
    first, second = cards(run(58.0))
    assert profiles_of(first) == [(1, "3g.40gb"), (3, "2g.20gb"), (7, "1g.10gb")]
    assert profiles_of(second) == [(1, "4g.40gb"), (7, "1g.10gb"), (8, "1g.10gb")]
    assert second.readings.mig_instances == 3
    _, whole = cards(run(88.0))
    assert (whole.mig, whole.readings.mig_instances, whole.readings.mig_mode) == ((), 0, 0)
    assert isinstance(whole.readings.sm_activity_ratio, float)


def test_pcie_traffic_is_there_with_and_without_mig() -> None:
    """GPM's figure goes with MIG and comes back without it; in between the sampling has it."""
    for seconds in (35.0, 58.0, 88.0):
        for gpu in cards(run(seconds)):
            assert not isinstance(gpu.readings.pcie_rx_bytes_per_second, Missing), seconds


def test_series_of_removed_instances_vanish() -> None:
    """An instance that is gone has no series left in any family."""
    outcome = run(58.0)
    second = cards(outcome)[1]
    labels = [
        sample.labels
        for metric in families(outcome.state, EXTRAS)
        if metric.name.startswith("gpuwarden_mig_")
        for sample in metric.samples
        if sample.labels["uuid"] == second.identity.uuid
    ]
    assert {(each["gi"], each["profile"]) for each in labels} == {("1", "4g.40gb"), ("7", "1g.10gb"), ("8", "1g.10gb")}


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        ("a100", ["1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"]),
        ("h100", ["1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"]),
        ("h200", ["1g.18gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"]),
    ],
)
def test_profiles_have_the_names_of_the_product(product: str, expected: list[str]) -> None:
    """What an administrator of that card would type."""
    assert list(profiles(World(products()[product], 1).cards[0])) == expected


@pytest.mark.parametrize(
    ("product", "wanted", "why"),
    [
        ("rtx4090", "1g.10gb", "has no MIG"),
        ("h100", "1g.5gb", "has no profile '1g.5gb': its profiles are 1g.10gb"),
        ("h100", "4g.40gb,4g.40gb", "no room for 4g.40gb beside 4g.40gb"),
        ("h100", "7g.80gb,1g.10gb", "no room"),
        ("h100", "1g.10gb," * 8, "no room"),
    ],
)
def test_what_cannot_be_cut_is_said(product: str, wanted: str, why: str) -> None:
    """And nothing has changed then."""
    world = World(products()[product], 1)
    with pytest.raises(InputError, match=why):
        world.inject("mig", 0, {"profiles": wanted})
    assert not world.cards[0].mig.instances


def test_a_scenario_with_a_partition_that_does_not_fit_is_refused() -> None:
    """When it is read, not when it runs."""
    with pytest.raises(InputError, match="no room"):
        parse('version = 1\nproduct = "h100x2"\nmig = ["7g.80gb", "7g.80gb"]\n', "mine")
