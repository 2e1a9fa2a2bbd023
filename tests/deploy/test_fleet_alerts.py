"""Alerts about what one host cannot see or say of itself: they fire, spare the look-alike, outlast a gap, resolve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from support.rules import Firing, alert_test, promtool_test

pytestmark = pytest.mark.real

ON_HOST = {"host": "h1"}


class Case(NamedTuple):
    """One story: series over minutes, and what fires when. `by`: the labels that tell its alerts apart."""

    alert: str
    series: Mapping[str, str]
    firing: tuple[Firing, ...]
    by: str = "host"


def up(host: str, values: str = "1x100", room: str = "") -> dict[str, str]:
    """Return the scrape result of a host."""
    return {f'up{{job="gpuwarden", cluster="c", room="{room}", host="{host}", instance="{host}:9878"}}': values}


def on(host: str, metric: str, values: str, /, **labels: str) -> dict[str, str]:
    """Return one series of a host."""
    told = "".join(f', {label}="{value}"' for label, value in labels.items())
    return {f'{metric}{{job="gpuwarden", cluster="c", host="{host}", instance="{host}:9878"{told}}}': values}


def finding(host: str, kind: str, values: str, **labels: str) -> dict[str, str]:
    """Return one critical finding of GPU 0 of a host."""
    about = {"gpu": "0", "uuid": f"GPU-{host}", "kind": kind, "severity": "critical"}
    return on(host, "gpuwarden_finding_active", values, **(about | labels))


def began(host: str, kind: str, values: str) -> dict[str, str]:
    """Return since when a finding is open."""
    return on(host, "gpuwarden_incident_start_timestamp_seconds", values, gpu="0", uuid=f"GPU-{host}", kind=kind)


def case(state: str, values: str) -> dict[str, str]:
    """Return an open case of a host in a state."""
    return on("h1", "gpuwarden_case_info", values, case="c1", kind="xid.xid_79", rung="reboot", state=state)


def since(values: str) -> dict[str, str]:
    """Return since when that case is in its state."""
    return on("h1", "gpuwarden_case_state_since_timestamp_seconds", values, case="c1")


def out(host: str, values: str, by: str = "gpuwarden") -> dict[str, str]:
    """Return whether a host is out of service by somebody."""
    return on(host, "gpuwarden_host_out_of_service", values, by=by)


def busy(host: str, clock: str, work: str = "1x100", name: str = "H100") -> dict[str, str]:
    """Return a GPU at work at some clock, in MHz."""
    about = {"gpu": "0", "uuid": f"GPU-{host}"}
    return (
        on(host, "gpuwarden_gpu_clock_hertz", clock, domain="sm", **about)
        | on(host, "gpuwarden_gpu_utilization_ratio", work, engine="gpu", **about)
        | on(host, "gpuwarden_gpu_info", "1x100", name=name, **about)
    )


def merged(*series: Mapping[str, str]) -> dict[str, str]:
    """Return all series of a story."""
    return {one: values for some in series for one, values in some.items()}


HOSTS = [f"h{number}" for number in range(1, 6)]
ROOM = {"room": "r1"}
HOT = "thermal.core_near_limit"
SLOW_CLOCKS = [busy(host, "1980x100") for host in HOSTS[1:]]
DOWN = "GpuwardenDown"
FIVE_UP = [up(host, room="r1") for host in HOSTS]

CASES = [
    pytest.param(
        Case(DOWN, up("h1", "1x5 0x10 1x60"), (Firing("8m"), Firing("12m", (ON_HOST,)), Firing("70m"))),
        id="down-fires-and-resolves",
    ),
    pytest.param(Case(DOWN, up("h1", "1x5 0x3 1x20"), (Firing("8m"), Firing("15m"))), id="down-spares-a-short-restart"),
    pytest.param(
        Case(
            DOWN,
            up("h1", "1x5 0x10 1x60") | on("h1", "gpuwarden_reboot_expected_until_timestamp_seconds", "1800x4 _x70"),
            (Firing("12m"), Firing("15m")),
        ),
        id="down-spares-our-own-reboot",
    ),
    pytest.param(
        Case(
            DOWN,
            up("h1", "1x5 0x60") | on("h1", "gpuwarden_reboot_expected_until_timestamp_seconds", "1200x4 _x70"),
            (Firing("15m"), Firing("30m", (ON_HOST,))),
        ),
        id="down-fires-when-the-announced-reboot-takes-too-long",
    ),
    pytest.param(
        Case(DOWN, up("h1", "1x5 0x10 _x20"), (Firing("12m", (ON_HOST,)), Firing("30m", (ON_HOST,)), Firing("60m"))),
        id="down-keeps-firing-when-the-target-goes-too",
    ),
    pytest.param(
        Case(
            "GpuwardenTargetsGone",
            up("h1", "1x10 _x60") | up("h2", "1x70"),
            (Firing("12m"), Firing("40m", ({"host": "h1"},))),
        ),
        id="gone-fires-for-the-host-that-left",
    ),
    pytest.param(
        Case("GpuwardenTargetsGone", up("h1", "1x10 0x60"), (Firing("40m"),)), id="gone-spares-a-host-that-is-down"
    ),
    pytest.param(
        Case("GpuwardenTargetsGone", up("h1", "1x10 _x30 1x60"), (Firing("36m", (ON_HOST,)), Firing("45m"))),
        id="gone-resolves-when-it-is-back",
    ),
    pytest.param(
        Case(
            "GpuwardenAbsent",
            up("h1", "1x10 _x30 1x60"),
            (Firing("12m"), Firing("30m", ({"job": "gpuwarden"},)), Firing("50m")),
            by="job",
        ),
        id="absent-fires-and-resolves",
    ),
    pytest.param(
        Case("GpuwardenAbsent", up("h1", "0x60"), (Firing("50m"),), by="job"), id="absent-spares-hosts-that-are-down"
    ),
    pytest.param(
        Case(
            "GpuRoomHotAcrossHosts",
            merged(*FIVE_UP, *(finding(host, HOT, "1x20 _x60", room="r1") for host in HOSTS[:3])),
            (Firing("1m"), Firing("5m", (ROOM,)), Firing("45m", (ROOM,)), Firing("70m")),
            by="room",
        ),
        id="room-fires-outlasts-the-gap-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuRoomHotAcrossHosts",
            merged(*FIVE_UP[:3], *(finding(host, HOT, "1x20", room="r1") for host in HOSTS[:2])),
            (Firing("15m"),),
            by="room",
        ),
        id="room-spares-two-hot-hosts-of-three",
    ),
    pytest.param(
        Case(
            "GpuRoomHotAcrossHosts",
            merged(
                *(up(f"h{number}", room="r1") for number in range(1, 9)),
                *(finding(host, HOT, "1x20", room="r1") for host in HOSTS[:3]),
            ),
            (Firing("15m"),),
            by="room",
        ),
        id="room-spares-three-hot-hosts-of-eight",
    ),
    pytest.param(
        Case(
            "GpuRoomHotAcrossHosts",
            merged(*FIVE_UP, *(finding(host, "thermal.fan_suspect", "1x20", room="r1") for host in HOSTS)),
            (Firing("15m"),),
            by="room",
        ),
        id="room-spares-fans-that-look-broken",
    ),
    pytest.param(
        Case(
            "GpuRoomHot",
            finding("h1", "thermal.room_hot", "1x10 _x50", room="r1", gpu="", uuid=""),
            (Firing("5m", (ROOM,)), Firing("30m", (ROOM,)), Firing("50m")),
            by="room",
        ),
        id="room-by-one-host-fires-outlasts-the-gap-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuHostFinding",
            finding("h1", "thermal.room_hot", "1x10", room="r1", gpu="", uuid=""),
            (Firing("5m"),),
            by="room",
        ),
        id="a-hot-room-does-not-page-twice",
    ),
    pytest.param(
        Case(
            "GpuHostFinding",
            finding("h1", "host.journal_unwritable", "1x10 _x50", gpu="", uuid=""),
            (Firing("5m", (ON_HOST,)), Firing("30m", (ON_HOST,)), Firing("50m")),
        ),
        id="a-journal-that-is-down-pages",
    ),
    pytest.param(
        Case(
            "GpuCorrelatedFault",
            merged(
                *FIVE_UP,
                *(began(host, "xid.xid_79", f"{60 * minute}x30 _x70") for minute, host in enumerate(HOSTS[:3], 1)),
            ),
            (Firing("5m", ({"kind": "xid.xid_79"},)), Firing("30m", ({"kind": "xid.xid_79"},)), Firing("60m")),
            by="kind",
        ),
        id="correlated-fires-outlasts-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuCorrelatedFault",
            merged(
                *FIVE_UP,
                began("h1", "xid.xid_79", "0x90"),
                began("h2", "xid.xid_79", "_x29 1800x60"),
                began("h3", "xid.xid_79", "_x59 3600x30"),
            ),
            (Firing("35m"), Firing("65m")),
            by="kind",
        ),
        id="correlated-spares-faults-half-an-hour-apart",
    ),
    pytest.param(
        Case(
            "GpuCorrelatedFault",
            merged(*FIVE_UP, *(began(host, kind, "60x30") for host, kind in zip(HOSTS, "abcde", strict=True))),
            (Firing("5m"),),
            by="kind",
        ),
        id="correlated-spares-different-faults",
    ),
    pytest.param(
        Case(
            "GpuHostSlowerThanItsPeers",
            merged(busy("h1", "1980x5 1500x40 1980x60"), *SLOW_CLOCKS),
            (Firing("12m"), Firing("30m", (ON_HOST,)), Firing("70m", (ON_HOST,)), Firing("90m")),
        ),
        id="slower-fires-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuHostSlowerThanItsPeers",
            merged(busy("h1", "1500x100", "0.2x100"), *SLOW_CLOCKS),
            (Firing("40m"),),
        ),
        id="slower-spares-an-idle-host",
    ),
    pytest.param(
        Case(
            "GpuHostSlowerThanItsPeers",
            merged(busy("h1", "1500x100", name="A100"), *SLOW_CLOCKS),
            (Firing("40m"),),
        ),
        id="slower-spares-another-model",
    ),
    pytest.param(
        Case(
            "GpuHostSlowerThanItsPeers",
            merged(busy("h1", "1500x100"), busy("h2", "1980x100")),
            (Firing("40m"),),
        ),
        id="slower-needs-three-hosts-to-compare",
    ),
    pytest.param(
        Case(
            "GpuwardenDrillLeftOn",
            on("h1", "gpuwarden_drill_active", "0x5 1x150 0x60"),
            (Firing("60m"), Firing("150m", (ON_HOST,)), Firing("170m")),
        ),
        id="drill-fires-after-two-hours-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuwardenDrillLeftOn",
            on("h1", "gpuwarden_drill_active", "0x5 1x60 0x5 1x90"),
            (Firing("150m"),),
        ),
        id="drill-spares-two-drills-in-a-row",
    ),
    pytest.param(
        Case(
            "GpuwardenConfigurationRefused",
            on("h1", "gpuwarden_config_last_reload_successful", "1x5 0x30 1x20"),
            (Firing("10m"), Firing("20m", (ON_HOST,)), Firing("40m")),
        ),
        id="configuration-fires-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuwardenKernelLogLost",
            on("h1", "gpuwarden_kmsg_records_lost_total", "0x5 120x90"),
            (Firing("4m"), Firing("10m", (ON_HOST,)), Firing("30m", (ON_HOST,)), Firing("60m")),
        ),
        id="kernel-log-lost-fires-and-resolves",
    ),
    pytest.param(
        Case("GpuwardenKernelLogLost", on("h1", "gpuwarden_kmsg_records_lost_total", "7x60"), (Firing("30m"),)),
        id="kernel-log-lost-spares-an-old-loss",
    ),
    pytest.param(
        Case(
            "GpuwardenNvmlDown",
            on("h1", "gpuwarden_nvml_up", "1x5 0x10 _x20 1x60"),
            (Firing("8m"), Firing("12m", (ON_HOST,)), Firing("30m", (ON_HOST,)), Firing("75m")),
        ),
        id="nvml-fires-outlasts-the-gap-and-resolves",
    ),
    pytest.param(
        Case("GpuwardenNvmlDown", on("h1", "gpuwarden_nvml_up", "1x5 0x3 1x60"), (Firing("9m"),)),
        id="nvml-spares-a-driver-reload",
    ),
    pytest.param(
        Case(
            "GpuwardenReadingsStale",
            on("h1", "gpuwarden_gpu_last_sample_timestamp_seconds", "0+60x5 300x30 2100+60x90", gpu="0", uuid="u"),
            (Firing("4m"), Firing("20m", (ON_HOST,)), Firing("90m")),
        ),
        id="stale-fires-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuwardenKernelLogUnreadable",
            on("h1", "gpuwarden_kmsg_up", "1x5 0x30 1x30"),
            (Firing("10m"), Firing("20m", (ON_HOST,)), Firing("45m")),
        ),
        id="kernel-log-fires-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuwardenCaseHeld",
            case("held", "_x4 1x10 _x60"),
            (Firing("4m"), Firing("10m", (ON_HOST,)), Firing("35m", (ON_HOST,)), Firing("60m")),
        ),
        id="held-fires-outlasts-the-gap-and-resolves",
    ),
    pytest.param(Case("GpuwardenCaseHeld", case("soaking", "1x60"), (Firing("30m"),)), id="held-spares-a-case-at-work"),
    pytest.param(
        Case(
            "GpuwardenCaseWaitsLong",
            case("waiting", "1x1500 _x100") | since("0x1500 _x100"),
            (Firing("1400m"), Firing("1460m", (ON_HOST,)), Firing("1520m", (ON_HOST,)), Firing("1550m")),
        ),
        id="waits-long-fires-outlasts-the-gap-and-resolves",
    ),
    pytest.param(
        Case("GpuwardenCaseWaitsLong", case("held", "1x1600") | since("0x1600"), (Firing("1500m"),)),
        id="waits-long-spares-a-held-case",
    ),
    pytest.param(
        Case(
            "GpuwardenApprovalWaits",
            on("h1", "gpuwarden_approvals_waiting", "0x5 1x40 _x20 0x60"),
            (Firing("30m"), Firing("40m", (ON_HOST,)), Firing("65m", (ON_HOST,)), Firing("100m")),
        ),
        id="approval-fires-outlasts-the-gap-and-resolves",
    ),
    pytest.param(
        Case("GpuwardenApprovalWaits", on("h1", "gpuwarden_approvals_waiting", "0x5 1x20 0x60"), (Firing("40m"),)),
        id="approval-spares-one-that-was-given",
    ),
    *(
        param
        for alert, metric in (
            ("GpuwardenStopLeftOn", "gpuwarden_stopped"),
            ("GpuwardenPauseLeftOn", "gpuwarden_paused"),
        )
        for param in (
            pytest.param(
                Case(
                    alert,
                    on("h1", metric, "0x5 1x300 0x60"),
                    (Firing("200m"), Firing("260m", (ON_HOST,)), Firing("320m")),
                ),
                id=f"{alert}-fires-and-resolves",
            ),
            pytest.param(
                Case(alert, on("h1", metric, "0x5 1x150 0x5 1x150"), (Firing("280m"),)),
                id=f"{alert}-spares-two-short-ones",
            ),
        )
    ),
    pytest.param(
        Case(
            "GpuwardenActuatorDown",
            on("h1", "gpuwarden_actuator_up", "1x5 0x10 _x20 1x60")
            | on("h1", "gpuwarden_mode", "1x100", mode="enforce"),
            (Firing("8m"), Firing("14m", (ON_HOST,)), Firing("35m", (ON_HOST,)), Firing("70m")),
        ),
        id="actuator-fires-outlasts-the-gap-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuwardenActuatorDown",
            on("h1", "gpuwarden_actuator_up", "0x60")
            | on("h1", "gpuwarden_mode", "0x60", mode="enforce")
            | on("h1", "gpuwarden_mode", "1x60", mode="shadow"),
            (Firing("40m"),),
        ),
        id="actuator-spares-shadow-mode",
    ),
    pytest.param(
        Case(
            "GpuwardenHostsOut",
            merged(*FIVE_UP, *(out(host, "0x5 1x20 0x60") for host in HOSTS[:3])),
            (Firing("10m"), Firing("20m", ({"cluster": "c"},)), Firing("50m", ({"cluster": "c"},)), Firing("70m")),
            by="cluster",
        ),
        id="hosts-out-fires-outlasts-and-resolves",
    ),
    pytest.param(
        Case(
            "GpuwardenHostsOut",
            merged(*FIVE_UP, *(out(host, "1x60", by) for host in HOSTS[:2] for by in ("gpuwarden", "other"))),
            (Firing("40m"),),
            by="cluster",
        ),
        id="hosts-out-counts-a-host-once",
    ),
]


@pytest.mark.parametrize("case", CASES)
def test_alert(tmp_path: Path, case: Case) -> None:
    """At each moment of the story exactly the named alerts fire."""
    promtool_test(tmp_path, [alert_test(case.alert, case.series, case.firing, case.by)])
