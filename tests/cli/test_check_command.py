"""`gpuwarden check` where a daemon answers: its verdict, its reasons, what cannot be seen."""

from __future__ import annotations

import pytest

from gpuwarden.model.finding import Health
from gpuwarden.model.gpu import Missing
from gpuwarden.model.severity import Severity
from support.nodes import gpu, incident, node, reading, with_incidents
from support.rig import Rig


def test_a_healthy_node_is_ok(live: Rig) -> None:
    """Exit 0, the verdict first, the GPUs below it."""
    result = live.run("check", "--expect-gpus", "8")
    assert result.exit_code == 0
    assert result.stdout.startswith("ok (as the running daemon knows it)\n")
    assert result.stdout.count("NVIDIA H100") == 8
    assert "Not seen" not in result.stdout


def test_json_has_verdict_code_and_reasons(live: Rig) -> None:
    """Stable names for programs, and the whole status."""
    live.source.state = with_incidents(
        node(gpu(0, health=Health.UNHEALTHY)), incident("presence.gpu_lost", gpu(0).identity.uuid)
    )
    result = live.run("check", "--format", "json")
    assert result.exit_code == 2
    live.source.state = node(gpu(0))
    assert live.json("check")["verdict"] == "ok"


@pytest.mark.parametrize(("fail_on", "exit_code"), [("critical", 0), ("warning", 1), ("unknown", 0)])
def test_fail_on_says_from_where_on_it_fails(live: Rig, fail_on: str, exit_code: int) -> None:
    """A warning fails only where warnings are asked for; it is shown always."""
    live.source.state = with_incidents(
        node(gpu(0)), incident("thermal.core_near_limit", gpu(0).identity.uuid, Severity.WARNING)
    )
    result = live.run("check", "--fail-on", fail_on)
    assert result.exit_code == exit_code
    assert result.stdout.startswith("warning (")
    assert result.stdout.count("thermal.core_near_limit") == 1


def test_missing_gpus_fail_it(live: Rig) -> None:
    """The ninth of eight."""
    result = live.run("check", "--expect-gpus", "9")
    assert result.exit_code == 2
    assert "9 GPUs are expected, 8 answer" in result.stdout


def test_a_drill_counts_and_is_called_one(live: Rig) -> None:
    """Game day shows what would happen."""
    live.source.state = with_incidents(node(gpu(0)), incident("xid.xid_79", gpu(0).identity.uuid, drill=True))
    result = live.run("check")
    assert result.exit_code == 2
    assert "xid.xid_79 (drill)" in result.stdout


def test_what_the_daemon_cannot_see_is_said(live: Rig) -> None:
    """The kernel log, and readings that the driver refuses."""
    refused = gpu(0, readings=reading(core_celsius=40.0, sram_threshold_exceeded=Missing.NO_PERMISSION))
    live.source.state = node(refused, kmsg_up=False, kmsg_detail="Operation not permitted")
    lines = live.run("check").stdout.splitlines()
    at = lines.index("Not seen:")
    assert "No kernel log: Operation not permitted" in lines[at + 1]
    assert "sram_threshold_exceeded" in lines[at + 2]
