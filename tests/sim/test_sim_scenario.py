"""Scenario files: what they say, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuwarden.errors import InputError
from gpuwarden.sim.scenario import Timeline, builtin, load, parse, world_of

HEAD = 'version = 1\nproduct = "a100x2"\n'


@pytest.mark.parametrize("name", builtin())
def test_every_built_in_scenario_is_whole(name: str) -> None:
    """Each reads, its steps can be done on its product, and each row is expected within the scenario."""
    scenario = load(name)
    assert scenario.name == name
    assert scenario.title
    assert all(step.seconds < scenario.seconds for step in scenario.at)
    assert all(row.within_seconds <= scenario.seconds for row in scenario.expect)


def test_the_promised_scenarios_are_there() -> None:
    """What the documentation names can be run."""
    assert set(builtin()) >= {"bad-hour", "healthy", "hot-room", "fallen-off", "hung", "ecc"}


def test_a_product_is_a_scenario_in_which_nothing_happens() -> None:
    """`rtx4090x8` needs no file."""
    scenario = load("rtx4090x8")
    assert (scenario.product, scenario.at, scenario.expect) == ("rtx4090x8", (), ())
    assert len(world_of(scenario).cards) == 8


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    """A scenario of one's own has its file's name."""
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + '[[at]]\nseconds = 1\nfault = "xid"\ngpu = 1\noptions = { code = 48 }\n')
    assert load(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version = 2\nproduct = 'a100'\n", "version 2 is not 1"),
        ("product = 'a100'\n", "version"),
        (HEAD + "colour = 'red'\n", "colour"),
        ("version = 1\nproduct = 'a1000'\n", "known are"),
        (HEAD + "[[at]]\nseconds = 1\nfault = 'meteor'\n", "step 1: unknown fault"),
        (HEAD + "[[at]]\nseconds = 1\nfault = 'lost'\ngpu = 7\n", "step 1: no GPU 7"),
        (HEAD + "[[expect]]\nwithin_seconds = 1\n", "expect 1: one of"),
        (HEAD + "[[expect]]\nwithin_seconds = 1\nincident = 'mood.bad'\n", "no kind is called"),
        ("version = ", "scenario x"),
    ],
)
def test_a_mistake_is_said_with_its_row(text: str, says: str) -> None:
    """A scenario that cannot be run says why before it starts."""
    with pytest.raises(InputError, match=says):
        parse(text, "x")


@pytest.mark.parametrize("spec", ["nothing", "no/such.toml", "rtx9090x2"])
def test_an_unknown_spec_names_what_there_is(spec: str) -> None:
    """Products, built-in scenarios, files: one of them has to be it."""
    with pytest.raises(InputError, match=r"bad-hour|cannot read"):
        load(spec)


def test_steps_come_in_time_and_once() -> None:
    """A fault comes at its second, and goes at its own."""
    text = HEAD + (
        '[[at]]\nseconds = 4\nfault = "lost"\ngpu = 0\nclear = true\n[[at]]\nseconds = 2\nfault = "lost"\ngpu = 0\n'
    )
    scenario = parse(text, "x")
    world, timeline = world_of(scenario), Timeline(scenario)
    seen = []
    for _ in range(6):
        world.advance(1.0)
        timeline.play(world)
        seen.append(len(world.active))
    assert seen == [0, 1, 1, 0, 0, 0]
