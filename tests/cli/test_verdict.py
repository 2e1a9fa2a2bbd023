"""From a node's status to a verdict: critical before unknown before warning."""

from __future__ import annotations

from typing import Any

import pytest

from gpuwarden.cli.check import exit_code
from gpuwarden.cli.verdict import Verdict, reasons_of, refused_readings, verdict_of
from gpuwarden.exposition import api
from gpuwarden.model.finding import Health, Incident
from gpuwarden.model.gpu import Missing
from gpuwarden.model.observation import WorkerState
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import GpuState, NodeState, NvmlState, Presence
from support.nodes import EXTRAS, gpu, incident, node, reading, with_incidents

HOT = incident("thermal.core_near_limit", gpu(0).identity.uuid, Severity.WARNING)
LOST = incident("presence.gpu_lost", gpu(1).identity.uuid)
UNSEEN = gpu(2, health=Health.UNKNOWN, presence=Presence.UNSEEN)
NO_DRIVER = NvmlState(state=WorkerState.NO_DRIVER, detail="no libnvidia-ml.so.1")


def verdict(state: NodeState, **options: Any) -> tuple[Verdict, list[str]]:
    """Return the verdict on a node and the kinds of its reasons."""
    reasons = reasons_of(api.status(state, EXTRAS), **options)
    return verdict_of(reasons), [each.kind for each in reasons]


def two(*incidents: Incident, more: tuple[GpuState, ...] = ()) -> NodeState:
    """Return two healthy GPUs with these incidents."""
    return with_incidents(node(gpu(0), gpu(1), *more), *incidents)


@pytest.mark.parametrize(
    ("state", "expected", "kinds"),
    [
        pytest.param(two(), Verdict.OK, [], id="healthy"),
        pytest.param(two(HOT), Verdict.WARNING, ["thermal.core_near_limit"], id="warning"),
        pytest.param(two(HOT, LOST), Verdict.CRITICAL, ["presence.gpu_lost", "thermal.core_near_limit"], id="worst"),
        pytest.param(
            two(HOT, more=(UNSEEN,)), Verdict.UNKNOWN, ["health_unknown", "thermal.core_near_limit"], id="may-hide"
        ),
        pytest.param(two(LOST, more=(UNSEEN,)), Verdict.CRITICAL, ["presence.gpu_lost", "health_unknown"], id="sure"),
        pytest.param(
            two(incident("power.capped_below_default", None, Severity.INFO)),
            Verdict.OK,
            ["power.capped_below_default"],
            id="info-is-worth-knowing",
        ),
        pytest.param(
            two(incident("presence.gpu_lost", None, drill=True)), Verdict.CRITICAL, ["presence.gpu_lost"], id="drill"
        ),
        pytest.param(node(nvml=NO_DRIVER), Verdict.UNKNOWN, ["nvml"], id="nothing-to-see"),
        pytest.param(
            with_incidents(node(nvml=NO_DRIVER), incident("presence.driver_not_loaded")),
            Verdict.CRITICAL,
            ["presence.driver_not_loaded"],
            id="driver-missing",
        ),
        pytest.param(node(), Verdict.UNKNOWN, ["no_gpus"], id="no-gpus"),
        pytest.param(
            node(gpu(0), gpu(1, health=Health.UNKNOWN, presence=Presence.BOUND_ELSEWHERE)),
            Verdict.OK,
            [],
            id="passed-through",
        ),
    ],
)
def test_verdicts(state: NodeState, expected: Verdict, kinds: list[str]) -> None:
    """What is certain and bad counts most; what is not known is never ok."""
    assert verdict(state) == (expected, kinds)


def test_fewer_gpus_than_expected_are_critical() -> None:
    """Only those count that answer."""
    lost = node(gpu(0), gpu(1, presence=Presence.LOST, health=Health.UNHEALTHY))
    assert verdict(lost, expected_gpus=2) == (Verdict.CRITICAL, ["expected_gpus"])
    assert verdict(lost, expected_gpus=1) == (Verdict.OK, [])


def test_what_was_not_read_in_time_is_unknown() -> None:
    """A time-out is never ok."""
    assert verdict(two(), late="not read within 8 s: NVML (starting)") == (Verdict.UNKNOWN, ["timed_out"])


@pytest.mark.parametrize(
    ("fail_on", "codes"),
    [("critical", [0, 0, 2, 3]), ("warning", [0, 1, 2, 3]), ("unknown", [0, 0, 0, 3])],
)
def test_the_exit_code_is_the_verdict_from_a_threshold_on(fail_on: str, codes: list[int]) -> None:
    """0 below --fail-on, the verdict's number otherwise."""
    assert [exit_code(number, fail_on) for number in range(4)] == codes


def test_refused_readings_are_named_once() -> None:
    """On whichever GPU; unsupported ones are none."""
    refused = gpu(0, readings=reading(sram_threshold_exceeded=Missing.NO_PERMISSION, core_celsius=41.0))
    assert refused_readings(api.status(node(refused, gpu(1)), EXTRAS)) == ("sram_threshold_exceeded",)
