"""What the actuator refuses by itself, whoever asks and whatever the main process thinks of it."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from gpuwarden.actuators.door import Device, Visit, malformed, refusal
from gpuwarden.config import Actions, Config
from gpuwarden.model.case import GIVES_BACK, ActionKind, Intent
from gpuwarden.model.stamp import Stamp
from support.actuatorlab import ALL_ENFORCED

BDF, UUID = "0000:3b:00.0", "GPU-1"
NOW = Stamp("boot", 50_000.0, 1_790_000_000.0)
CONFIG = replace(Config(), mode="enforce", actions=ALL_ENFORCED)


def intent(action: ActionKind = ActionKind.RESET, **changes: object) -> Intent:
    fields = {"id": "c1/0.0.0/x", "case": "c1", "uuid": UUID, "bdf": BDF, "made": NOW, **changes}
    return Intent(action=action, **fields)


def visit(what: Intent, **changes: object) -> Visit:
    plain = Visit(what, CONFIG, NOW, False, "", Device(bdf=BDF, nvidia=True, uuid=UUID), 0, 0)
    return plain._replace(**changes)


@pytest.mark.parametrize("action", list(ActionKind))
def test_the_way_is_free_where_nothing_speaks_against_it(action: ActionKind) -> None:
    """The table refuses nothing by itself."""
    assert refusal(visit(intent(action))) == ""


@pytest.mark.parametrize(
    ("found", "why"),
    [
        pytest.param(visit(intent(), stopped=True, stop_detail="it is on"), "it is on", id="stop-switch"),
        pytest.param(visit(intent(), stopped=None), "cannot be read", id="stop-switch-unreadable"),
        pytest.param(visit(intent(), config=replace(CONFIG, mode="shadow")), "shadow", id="shadow-mode"),
        pytest.param(visit(intent(), config=replace(CONFIG, actions=Actions(reset="shadow"))), "shadow", id="shadow"),
        pytest.param(visit(intent(), device=None), "no GPU at", id="nothing-there"),
        pytest.param(visit(intent(), device=Device(bdf=BDF, nvidia=False)), "no NVIDIA GPU", id="a-disk"),
        pytest.param(visit(intent(), device=Device(bdf=BDF, nvidia=True, uuid="GPU-2")), "not GPU-1", id="another"),
        pytest.param(visit(intent(), device=Device(bdf=BDF, nvidia=True)), "does not say", id="driver-silent"),
        pytest.param(visit(intent(), on_gpu_today=3), "3 of 3 actions", id="gpu-rate"),
        pytest.param(visit(intent(ActionKind.REBOOT), reboots_today=1), "1 of 1 reboots", id="reboot-rate"),
        pytest.param(
            visit(intent(ActionKind.REBOOT, made=Stamp("boot", 900.0, NOW.wall)), now=Stamp("boot", 900.0, NOW.wall)),
            "less than 3600 s", id="just-booted",
        ),
        pytest.param(visit(intent(made=Stamp("older", 50_000.0, NOW.wall))), "another boot", id="other-boot"),
        pytest.param(visit(intent(made=Stamp("boot", 40_000.0, NOW.wall))), "10000 s ago", id="stale"),
        pytest.param(visit(intent(made=Stamp("boot", 60_000.0, NOW.wall))), "ago", id="from-the-future"),
        pytest.param(visit(intent(bdf="../../etc")), "bdf", id="a-path-as-address"),
    ],
)  # fmt: skip
def test_each_row_refuses_with_its_reason(found: Visit, why: str) -> None:
    """The reason is what the case shows."""
    assert why in refusal(found)


@pytest.mark.parametrize("action", sorted(GIVES_BACK, key=lambda each: each.value))
def test_what_gives_back_is_held_by_its_form_alone(action: ActionKind) -> None:
    """Neither the stop switch nor shadow mode nor age keeps us from taking back what is ours."""
    old = Stamp("older", 1.0, 1.0)
    plain = visit(intent(action, made=old), stopped=None, config=replace(CONFIG, mode="shadow"), device=None)
    assert refusal(plain) == ""
    assert "mark" in refusal(plain._replace(intent=intent(action, mark="a\nb")))


@pytest.mark.parametrize("action", [ActionKind.ISOLATE, ActionKind.REBOOT, ActionKind.COMMAND])
def test_a_gpu_that_is_gone_keeps_nobody_from_treating_its_host(action: ActionKind) -> None:
    """A lost card is the reason to isolate and reboot, not a reason to refuse."""
    assert refusal(visit(intent(action), device=None)) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""}, {"id": "a b"}, {"id": "x" * 201}, {"case": "c1;id"}, {"uuid": "GPU-$(id)"}, {"uuid": "--help"},
        {"bdf": "0000:3B:00.0"}, {"serial": "1 2"}, {"command": "../x"}, {"command": "-x"}, {"mark": "m" * 201},
        {"mark": "a\tb"}, {"deadline_seconds": math.nan}, {"deadline_seconds": 0.0}, {"deadline_seconds": 3601.0},
        {"made": Stamp("boot", math.inf, 0.0)},
    ],
)  # fmt: skip
def test_fields_that_are_not_of_their_form(changes: dict[str, object]) -> None:
    """Nothing of an intent is taken for more than the word it should be."""
    assert malformed(intent(**changes)) != ""
