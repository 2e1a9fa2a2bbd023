"""`gpuwarden simulate`: the case log, the expectations, and an exit code that tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuwarden.sim.scenario import builtin
from support.rig import Rig

NEVER = """
version = 1
product = "rtx4090x2"
seconds = 20.0
only_expected = false
[[at]]
seconds = 2.0
fault = "fallen_off"
gpu = 1
[[expect]]
within_seconds = 20.0
incident = "presence.gpu_lost"
gpu = 1
[[expect]]
within_seconds = 20.0
incident = "memory.ecc_uncorrected"
gpu = 0
"""


def test_a_scenario_prints_its_case_log_and_what_came_of_it(rig: Rig) -> None:
    """What was found, when and on which GPU; each expectation; exit 0."""
    result = rig.run("simulate", "fallen-off")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("fallen-off: ")
    assert any("critical  opened      gpu3   presence.gpu_lost" in line for line in lines)
    assert lines[-1].startswith("as expected: ")


def test_the_same_scenario_gives_the_same_log(rig: Rig) -> None:
    """Virtual time has no chance in it."""
    assert rig.run("simulate", "hung").stdout == rig.run("simulate", "hung").stdout


def test_what_was_expected_and_did_not_come_fails_it(rig: Rig, tmp_path: Path) -> None:
    """Exit 1, the missing thing named, the other one with its time; as text and as JSON."""
    path = tmp_path / "never.toml"
    path.write_text(NEVER)
    result = rig.run("simulate", str(path))
    assert result.exit_code == 1
    assert "NOT SEEN: memory.ecc_uncorrected of gpu0 within 20 s" in result.stdout
    assert "NOT as expected: 1 of 2" in result.stdout
    found = json.loads(rig.run("simulate", str(path), "--format", "json").stdout)
    assert found["ok"] is False
    came = {row["incident"]: row["came_after_seconds"] for row in found["expected"]}
    assert came["memory.ecc_uncorrected"] is None
    assert 2.0 <= came["presence.gpu_lost"] <= 5.0
    assert found["log"][0]["incident"] == "xid.xid_79"


def test_what_nobody_expected_fails_it_too(rig: Rig, tmp_path: Path) -> None:
    """Unless the scenario says otherwise."""
    path = tmp_path / "quiet.toml"
    text = NEVER.replace("only_expected = false\n", "").partition("[[expect]]")[0]
    path.write_text(text)
    result = rig.run("simulate", str(path))
    assert result.exit_code == 1
    assert "NOT EXPECTED" in result.stdout


def test_thresholds_of_a_configuration_can_be_tried(rig: Rig, tmp_path: Path) -> None:
    """A kind that is switched off there is not found; without --config the defaults count, whatever the host has."""
    rig.config.write_text('[checks."presence.gpu_lost"]\nenabled = false\n')
    assert rig.run("simulate", "fallen-off").exit_code == 0
    result = rig.run("simulate", "fallen-off", "--config", str(rig.config))
    assert result.exit_code == 1
    assert "NOT SEEN: presence.gpu_lost" in result.stdout


def test_the_built_in_scenarios_are_listed(rig: Rig) -> None:
    """With what happens in each."""
    assert [each["scenario"] for each in rig.json("simulate", "--list")] == list(builtin())
    assert all(name in rig.run("simulate", "--list").stdout for name in builtin())


@pytest.mark.parametrize("arguments", [[], ["no-such"], ["/nowhere/x.toml"], ["rtx9999x8"]])
def test_what_is_no_scenario_is_the_users_mistake(rig: Rig, arguments: list[str]) -> None:
    """Exit 2, with what there is."""
    result = rig.run("simulate", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
