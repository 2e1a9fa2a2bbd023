"""The simulated node's hands, and the whole loop on virtual time."""

from __future__ import annotations

from gpuwarden.config import from_document, settings_of
from gpuwarden.model.case import ActionKind, Intent, Outcome
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.observation import Stamp
from gpuwarden.model.settings import Settings
from gpuwarden.sim.card import Load
from gpuwarden.sim.hands import Hands
from gpuwarden.sim.judge import judge
from gpuwarden.sim.scenario import Scenario, config_of, load, world_of
from gpuwarden.sim.world import World


def node(product: str = "a100x2") -> tuple[World, Hands]:
    """Return a world of busy cards and its hands."""
    world = world_of(Scenario(version=1, product=product))
    return world, Hands(world)


def intent(action: ActionKind, world: World, *, name: str = "c1", mark: str = "gpuwarden c1 x gpu0") -> Intent:
    """Return an intent about the first card."""
    return Intent(
        id=f"{name}/0.0.0/{action.value}",
        case=name,
        action=action,
        made=Stamp("b", 1.0, 1.0),
        bdf=world.cards[0].identity.bdf,
        mark=mark,
    )


def test_an_intent_is_done_once() -> None:
    """Asked again, the recorded outcome comes, and nothing happens a second time."""
    world, hands = node()
    world.cards[0].load = Load("idle")
    wanted = intent(ActionKind.RESET, world)
    assert hands.ask(wanted)[0] is Outcome.DONE
    session = world.session
    assert hands.ask(wanted)[0] is Outcome.DONE
    assert world.session == session


def test_a_gpu_in_use_is_not_reset() -> None:
    """The driver would answer `in use`: nothing changes."""
    world, hands = node()
    session = world.session
    assert hands.ask(intent(ActionKind.RESET, world)) == (Outcome.REFUSED, "in use by another client")
    assert world.session == session


def test_somebody_elses_mark_is_neither_overwritten_nor_taken_away() -> None:
    """An admin's drain stays an admin's."""
    world, hands = node()
    hands.mark = "admin: disk swap"
    assert hands.ask(intent(ActionKind.ISOLATE, world))[0] is Outcome.REFUSED
    assert hands.ask(intent(ActionKind.RELEASE, world))[0] is Outcome.REFUSED
    assert hands.mark == "admin: disk swap"


def test_jobs_end_on_an_isolated_node_and_come_back_after_it() -> None:
    """A drain takes no job away; it lets none come."""
    world, hands = node()
    hands.ask(intent(ActionKind.ISOLATE, world))
    hands.pass_time()
    assert hands.look().jobs == 2
    world.advance(16.0)
    hands.pass_time()
    assert hands.look().jobs == 0
    hands.ask(intent(ActionKind.RELEASE, world))
    assert (hands.look().jobs, hands.look().isolated) == (2, False)


def test_a_reset_cures_what_a_reset_cures() -> None:
    """A pending remap is gone, a GPU off the bus is not."""
    world, hands = node()
    world.inject("remap", 0, {})
    world.inject("fallen_off", 1, {})
    world.cards[0].load = Load("idle")
    assert hands.ask(intent(ActionKind.RESET, world))[0] is Outcome.DONE
    assert [on.fault for on in world.active] == ["fallen_off"]


def test_the_whole_loop_ends_as_its_scenarios_say() -> None:
    """Isolated, treated, proven, soaked and given back, on a simulated node in another boot where that is needed."""
    for name in ("fallen-off-treated", "reset-treated"):
        scenario = load(name)
        outcome = judge(scenario, settings_of(config_of(scenario)))
        assert outcome.ok, (name, outcome.rows, outcome.unexpected)
        assert outcome.state.remedy.cases == {}


def test_in_shadow_the_same_is_decided_and_nothing_done() -> None:
    """The first rung and step of each case are the same as when it is let act; no effect is asked for."""
    scenario = load("fallen-off-treated")
    acting = judge(scenario, settings_of(config_of(scenario)))
    watching = judge(scenario, settings_of(from_document({**scenario.config, "mode": "shadow"})))
    would = [(line.gpu, line.incident) for line in watching.log if (line.kind, line.state) == ("action", "would")]
    opened = [(line.gpu, line.evidence["rung"]) for line in acting.log if (line.kind, line.state) == ("case", "opened")]
    assert would == opened
    assert not [line for line in watching.log if line.kind == "action" and line.state not in ("would", "held")]


def test_by_default_nothing_is_done() -> None:
    """A node nobody configured tells what it would do."""
    outcome = judge(load("fallen-off"), Settings(kinds=default_settings()))
    assert {line.state for line in outcome.log if line.kind == "action"} <= {"would", "held"}
