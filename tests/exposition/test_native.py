"""The metric table: names, labels, absence, and what stays when a GPU goes."""

from __future__ import annotations

import math
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gpuwarden.exposition import dcgm
from gpuwarden.exposition.gpu_rows import COUNTED_XIDS, GPU_ROWS, HIDDEN_AS, SHOWN
from gpuwarden.exposition.host_rows import HOST_ROWS, INCIDENT_ROWS, PROCESS_ROWS
from gpuwarden.exposition.mig_rows import MIG_ROWS
from gpuwarden.exposition.native import PREFIX, Extras, families
from gpuwarden.exposition.reading_rows import READING_ROWS
from gpuwarden.exposition.render import Format, render_family
from gpuwarden.model.finding import Health
from gpuwarden.model.gpu import READINGS, VECTOR_READINGS, GpuReading, Missing
from gpuwarden.model.kinds import KINDS
from gpuwarden.model.observation import WorkerState
from gpuwarden.model.settings import Settings
from gpuwarden.model.severity import Severity
from gpuwarden.model.snapshot import GpuState, Held, NodeState, NvmlState, Presence, XidCount
from support.dcgm import every_counter
from support.nodes import EXTRAS, H100, NOW, PRODUCTS, SETTINGS, gpu, incident, node, product_node, with_incidents

GOLDEN = Path(__file__).parent / "golden"
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def expose(state: NodeState, wanted: Format = Format.TEXT, extras: Extras = EXTRAS) -> str:
    """Return the whole exposition of a state."""
    body = b"".join(render_family(metric, wanted) for metric in families(state, extras))
    return body.decode() + ("# EOF\n" if wanted is Format.OPENMETRICS else "")


def series(state: NodeState, wanted: Format = Format.TEXT) -> Series:
    """Return every sample of the parsed exposition; fails on a series that is there twice."""
    text = expose(state, wanted)
    parse = parse_text if wanted is Format.TEXT else parse_openmetrics
    found = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in parse(text)
        for sample in family.samples
    ]
    twice = [key for key, times in Counter(key for key, _ in found).items() if times > 1]
    assert twice == []
    return dict(found)


def pick(found: Series, name: str, **labels: str) -> list[float]:
    """Return the values of a family's series that carry these labels."""
    return [value for (have, pairs), value in found.items() if have == name and labels.items() <= dict(pairs).items()]


@pytest.mark.parametrize("product", sorted(PRODUCTS))
@pytest.mark.parametrize(("wanted", "suffix"), [(Format.TEXT, "prom"), (Format.OPENMETRICS, "openmetrics")])
def test_golden_exposition(product: str, wanted: Format, suffix: str, update_golden: bool) -> None:
    """What a healthy node of each product exposes, byte for byte."""
    golden = GOLDEN / f"{product}.{suffix}"
    text = expose(product_node(product, 2), wanted)
    if update_golden:
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_goldens_are_those_of_the_products() -> None:
    """A golden without a product, or a product without one, is a mistake."""
    assert {path.name for path in GOLDEN.iterdir()} == {
        f"{product}.{suffix}" for product in PRODUCTS for suffix in ("prom", "openmetrics")
    }


@pytest.mark.real
@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.prom")), ids=lambda path: path.name)
def test_promtool_has_nothing_to_say(golden: Path) -> None:
    """`promtool check metrics` is clean."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=golden.read_bytes(), capture_output=True, check=False, timeout=30
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.real
def test_promtool_has_nothing_to_say_on_a_bad_day() -> None:
    """Findings, Xids, lost GPUs and NVSwitch errors are clean, too."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=expose(bad_day()).encode(), capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def bad_day() -> NodeState:
    """Return a node on which much is wrong."""
    lost = gpu(0, presence=Presence.LOST, health=Health.UNHEALTHY)
    storm = gpu(
        1,
        xids=(
            XidCount(xid=63, source="driver", total=2, last=NOW.wall - 5),
            XidCount(xid=79, source="user", total=1, last=NOW.wall - 9),
        ),
        rejected={"core_celsius": 4},
        blocked_since=NOW.boottime - 7,
    )
    state = replace(node(lost, storm, gpu(2)), sxids={(12028, "no"): 3, (20034, "yes"): 1}, drill=True)
    return with_incidents(
        state,
        incident("presence.gpu_lost", lost.identity.uuid),
        incident("presence.nvml_blocked", severity=Severity.WARNING),
    )


def test_every_reading_is_exposed() -> None:
    """A reading that no family shows, native or dcgm's, would be read for nothing; locations hide ECC totals."""
    unshown = []
    everything = dcgm.Dialect(counters=every_counter())
    for field in READINGS:
        changed = dict.fromkeys(READINGS, Missing.NOT_SUPPORTED) | {field: (1,) if field in VECTOR_READINGS else 1}
        card = replace(gpu(0), readings=GpuReading(**changed), pci=None)
        blank = replace(card, readings=GpuReading(**dict.fromkeys(READINGS, Missing.NOT_SUPPORTED)))
        same = series(node(card)).keys() == series(node(blank)).keys()
        if same and dcgm.render(node(card), everything) == dcgm.render(node(blank), everything):
            unshown.append(field)
    assert unshown == ["ecc_mode_default", "pcie_generation_gpu_max"]  # used by checks only: what the product can do


def test_series_budget_of_an_h100() -> None:
    """At most 150 series a GPU with GPM, those of single links left out."""
    found = [
        name
        for (name, labels) in series(product_node("h100", 1))
        if name.startswith("gpuwarden_gpu_") and "link" not in dict(labels)
    ]
    assert found.count("gpuwarden_gpu_activity_ratio") == 13
    assert 90 < len(found) <= 150
    assert len([labels for _, labels in series(product_node("h100", 1)) if "link" in dict(labels)]) == 18 * (1 + 3)


def test_mig_instances_are_series_of_their_own() -> None:
    """Each instance has its labels; the parent's families hold the parent alone."""
    found = series(product_node("h100mig", 2))
    mine = {(name, pairs): value for (name, pairs), value in found.items() if name.startswith("gpuwarden_mig_")}
    assert {name for name, _ in mine} == {PREFIX + row.name for row in MIG_ROWS}
    assert all({"gpu", "uuid", "gi", "ci", "profile"} <= dict(pairs).keys() for _, pairs in mine)
    assert pick(mine, "gpuwarden_mig_info", gpu="1", gi="1", mig_uuid="MIG-1", placement="0:4") == [1]
    assert pick(mine, "gpuwarden_mig_activity_ratio", gpu="0", gi="1", unit="sm") == [0.25]
    assert not [pairs for (name, pairs) in found if "gi" in dict(pairs) and not name.startswith("gpuwarden_mig_")]
    assert pick(found, "gpuwarden_gpu_power_watts", gpu="0") == [H100.power_watts]
    assert pick(found, "gpuwarden_gpu_activity_ratio") == []


def test_what_instances_share_is_counted_once() -> None:
    """Two compute instances of one GPU instance: memory and activity stand on the first, sizes on each."""
    found = series(product_node("h100mig", 1))
    assert len(pick(found, "gpuwarden_mig_info", gi="2")) == 2
    assert sum(pick(found, "gpuwarden_mig_multiprocessors", gi="2")) == 32
    assert pick(found, "gpuwarden_mig_memory_bytes", gi="2", state="used") == [9e9]
    assert pick(found, "gpuwarden_mig_memory_bytes", gi="2", ci="1") == []
    assert pick(found, "gpuwarden_mig_activity_ratio", gi="2", unit="tensor_imma") == []


def test_instances_go_with_their_gpu() -> None:
    """A GPU that does not answer shows none."""
    found = series(node(gpu(0, "h100mig", presence=Presence.BLOCKED), gpu(1)))
    assert not [name for (name, _) in found if name.startswith("gpuwarden_mig_")]


@pytest.mark.parametrize("presence", sorted(set(Presence) - SHOWN, key=lambda each: each.value))
def test_readings_go_with_their_gpu(presence: Presence) -> None:
    """A GPU that does not answer keeps info, health, last sample, findings and counters, and no reading at all."""
    sick = gpu(0, presence=presence, health=Health.UNKNOWN)
    state = with_incidents(node(sick, gpu(1)), incident("presence.gpu_lost", sick.identity.uuid))
    found = series(state)
    for row in READING_ROWS:
        assert pick(found, PREFIX + row.name, gpu="0") == []
    assert pick(found, "gpuwarden_gpu_temperature_celsius", gpu="1", sensor="core") == [41.0]
    assert pick(found, "gpuwarden_gpu_info", gpu="0", serial="1653223000000") == [1]
    assert pick(found, "gpuwarden_gpu_health", gpu="0", state="unknown") == [1]
    assert pick(found, "gpuwarden_gpu_last_sample_timestamp_seconds", gpu="0") == [NOW.wall - 0.25]
    assert pick(found, "gpuwarden_gpu_xid_errors_total", gpu="0", xid="79") == [0]
    assert pick(found, "gpuwarden_gpu_pcie_aer_errors_total", gpu="0", severity="correctable") == [2]
    assert pick(found, "gpuwarden_finding_active", gpu="0", kind="presence.gpu_lost") == [1]
    expected = HIDDEN_AS.get(presence)
    statuses = {dict(labels)["status"] for (name, labels) in found if name == "gpuwarden_gpu_reading_status"}
    assert statuses == ({expected.value} if expected else set())


def test_reading_status_names_what_failed() -> None:
    """Only readings that are neither there nor unsupported have a status; one bad fan makes its vector tell."""
    readings = replace(
        PRODUCTS["rtx4090"][1],
        core_celsius=Missing.IMPLAUSIBLE,
        power_watts=Missing.TIMED_OUT,
        fan_speed_ratio=(0.6, Missing.NO_PERMISSION),
    )
    found = series(node(gpu(0, "rtx4090", readings=readings)))
    assert {
        (dict(labels)["reading"], dict(labels)["status"])
        for (name, labels) in found
        if name == "gpuwarden_gpu_reading_status"
    } == {("core_celsius", "implausible"), ("power_watts", "timed_out"), ("fan_speed_ratio", "no_permission")}
    assert pick(found, "gpuwarden_gpu_fan_speed_ratio") == [0.6]


NO_MORE = dict.fromkeys(("l1_cache", "texture_memory", "texture_shm", "cbu"), Missing.NOT_SUPPORTED)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"dram": 2, "sram": 1, "": 9}, {"dram": 2, "sram": 1}, id="both-locations-are-the-sum"),
        pytest.param({"dram": 2, "": 3}, {"unspecified": 3}, id="one-location-hides-errors"),
        pytest.param({"dram": 2}, {"dram": 2}, id="one-location-is-all"),
        pytest.param({"": 3}, {"unspecified": 3}, id="total-only"),
        pytest.param(
            {"dram": 2, "sram": Missing.NOT_SUPPORTED, "l2_cache": 3, "register_file": 1, "": 6, **NO_MORE},
            {"dram": 2, "sram": 4},
            id="on-chip-memories-one-by-one",
        ),
        pytest.param(
            {"dram": 2, "sram": Missing.NOT_SUPPORTED, "l2_cache": 3, "": 6},
            {"unspecified": 6},
            id="an-on-chip-memory-that-cannot-be-read",
        ),
        pytest.param({}, {}, id="nothing"),
    ],
)
def test_ecc_errors_add_up(values: dict[str, Any], expected: dict[str, int]) -> None:
    """The sum over `memory` is the number of errors: a total is never shown beside its parts."""
    fields = {f"ecc_corrected_volatile{'_' + place if place else ''}": n for place, n in values.items()}
    readings = replace(GpuReading(), **fields)
    found = series(node(gpu(0, readings=readings)))
    shown = {
        dict(labels)["memory"]: value
        for (name, labels), value in found.items()
        if name == "gpuwarden_gpu_ecc_errors_total" and dict(labels)["type"] == "corrected"
    }
    assert shown == expected


def test_closed_sets_export_every_member() -> None:
    """One state is 1 and all others are 0, whichever it is; a bit or code from the future is "unknown"."""
    readings = replace(PRODUCTS["h100"][1], clocks_event_reasons=0x8 | 0x40 | 0x8000, recovery_action=99)
    found = series(node(gpu(0, readings=readings, health=Health.DEGRADED)))
    active = {
        dict(labels)["reason"]: value
        for (name, labels), value in found.items()
        if name == "gpuwarden_gpu_clocks_event_active"
    }
    assert len(active) == 10
    assert {reason for reason, value in active.items() if value} == {"hw_slowdown", "hw_thermal_slowdown", "unknown"}
    assert sum(pick(found, "gpuwarden_gpu_health")) == 1
    assert len(pick(found, "gpuwarden_gpu_health")) == 4
    assert pick(found, "gpuwarden_gpu_recovery_action", action="unknown") == [1]
    assert sum(pick(found, "gpuwarden_gpu_recovery_action")) == 1
    assert sorted(pick(found, "gpuwarden_mode")) == [0, 1]


def test_counters_exist_before_the_first_event() -> None:
    """Every finding kind and the Xids worth a page are counted from the first scrape: `increase()` sees no birth."""
    catalogue = Settings(kinds={name: kind.defaults for name, kind in KINDS.items()})
    found = series(node(gpu(0), settings=catalogue))
    for name, kind in KINDS.items():
        severity = kind.defaults.severity.value
        assert pick(found, "gpuwarden_incidents_total", kind=name, severity=severity) == [0]
    for xid in COUNTED_XIDS:
        assert pick(found, "gpuwarden_gpu_xid_errors_total", xid=str(xid), source="driver") == [0]
    assert len(pick(found, "gpuwarden_nvml_worker_restarts_total")) == 6
    assert pick(found, "gpuwarden_polls_total", lane="slow", result="failed") == [0]


def test_findings_carry_a_gpu_only_where_they_are_about_one() -> None:
    """Series about the host carry neither gpu nor uuid."""
    found = series(bad_day())
    labels = [dict(pairs) for (name, pairs) in found if name == "gpuwarden_finding_active"]
    assert [sorted(each) for each in labels] == [["gpu", "kind", "severity", "uuid"], ["kind", "severity"]]
    assert pick(found, "gpuwarden_incident_start_timestamp_seconds", kind="presence.gpu_lost") == [NOW.wall - 60]


def test_user_lines_are_counted_apart() -> None:
    """An Xid line that the kernel did not write has its own source and no time stamp of the driver's."""
    found = series(bad_day())
    assert pick(found, "gpuwarden_gpu_xid_errors_total", gpu="1", xid="79", source="user") == [1]
    assert pick(found, "gpuwarden_gpu_xid_errors_total", gpu="1", xid="79", source="driver") == [0]
    assert pick(found, "gpuwarden_gpu_xid_last_timestamp_seconds", gpu="1") == [NOW.wall - 5]


def test_what_is_not_known_is_absent() -> None:
    """Before anything answered there is no driver, no NVML count, no PCI count and no kernel-log verdict."""
    found = series(NodeState(now=NOW, started=NOW, settings=SETTINGS))
    names = {name for (name, _) in found}
    assert not names & {"gpuwarden_driver_info", "gpuwarden_kmsg_up", "gpuwarden_gpu_info", "gpuwarden_stopped"}
    assert {dict(pairs)["source"] for (name, pairs) in found if name == "gpuwarden_gpus"} == {"inventory", "expected"}
    assert pick(found, "gpuwarden_nvml_up") == [0]


def test_a_blocked_worker_has_a_duration() -> None:
    """The worker's silence grows in seconds; 0 while it talks."""
    blocked = NvmlState(state=WorkerState.BLOCKED, since=NOW.boottime - 12.5)
    assert pick(series(node(nvml=blocked)), "gpuwarden_nvml_blocked_seconds") == [12.5]
    assert pick(series(node()), "gpuwarden_nvml_blocked_seconds") == [0]
    assert pick(series(bad_day()), "gpuwarden_gpu_blocked_seconds", gpu="1") == [7]


def test_the_poll_histogram_is_cumulative() -> None:
    """Counts per bucket become counts up to each bound; the last is the number of polls."""
    found = series(node())
    fast = {dict(p)["le"]: v for (n, p), v in found.items() if n.endswith("_bucket") and dict(p)["lane"] == "fast"}
    assert (fast["0.001"], fast["0.0025"], fast["0.005"], fast["+Inf"]) == (0, 3000, 3900, 4000)
    assert pick(found, "gpuwarden_poll_duration_seconds_count", lane="fast") == [4000]


def test_one_fact_has_one_row() -> None:
    """Family names are unique, prefixed by the renderer, and named by the rules of their type."""
    rows = (*HOST_ROWS, *GPU_ROWS, *READING_ROWS, *MIG_ROWS, *INCIDENT_ROWS, *PROCESS_ROWS)
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.help.endswith(".") for row in rows)


# ---- any state at all

odd_numbers = st.one_of(
    st.integers(min_value=-(2**63), max_value=2**64),
    st.floats(),
    st.just(-0.0),
)
scalars = st.one_of(odd_numbers, st.sampled_from(Missing))
masks = st.one_of(st.integers(min_value=0, max_value=2**64 - 1), st.sampled_from(Missing))
vectors = st.one_of(st.lists(scalars, max_size=5).map(tuple), st.sampled_from(Missing))
names = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@st.composite
def readings_of_any_kind(draw: st.DrawFn) -> GpuReading:
    """Draw readings, also such as a broken driver would give."""
    chosen = draw(st.lists(st.sampled_from(READINGS), max_size=25, unique=True))
    special = {"clocks_event_reasons": masks, "recovery_action": masks}
    values = {name: draw(vectors if name in VECTOR_READINGS else special.get(name, scalars)) for name in chosen}
    return GpuReading(**(dict.fromkeys(READINGS, Missing.NOT_SUPPORTED) | values))


@st.composite
def gpus_of_any_kind(draw: st.DrawFn) -> tuple[GpuState, ...]:
    """Draw up to three GPUs, also with odd names and the same index."""
    count = draw(st.integers(min_value=0, max_value=3))
    made = []
    for number in range(count):
        card = gpu(
            number,
            readings=draw(readings_of_any_kind()),
            presence=draw(st.sampled_from(Presence)),
            health=draw(st.sampled_from(Health)),
            last_sample=draw(st.one_of(st.none(), st.floats())),
            rejected=draw(st.dictionaries(st.sampled_from(READINGS), st.integers(min_value=0), max_size=3)),
        )
        made.append(replace(card, index=draw(st.integers(0, 1)), identity=replace(card.identity, name=draw(names))))
    return tuple(made)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(gpus=gpus_of_any_kind())
def test_any_state_exposes_well(gpus: tuple[GpuState, ...]) -> None:
    """Whatever was read: it parses in both formats to the same series, without twins, NaN, infinity, negative zero."""
    state = node(*gpus)
    found = series(state)
    assert found == series(state, Format.OPENMETRICS)
    for (name, _), value in found.items():
        assert math.isfinite(value), name
        assert not (value == 0 and math.copysign(1, value) < 0), name
    for card in gpus:
        if card.presence in SHOWN and card.readings.power_watts is Missing.NOT_SUPPORTED:
            assert pick(found, "gpuwarden_gpu_power_watts", uuid=card.identity.uuid) == []


def test_xids_of_an_address_without_a_gpu_are_exposed() -> None:
    """A kernel line about a GPU that nobody knows is no reason to hide it: it has its address for a name."""
    counts = (XidCount(xid=79, source="driver", total=2, last=NOW.wall),)
    found = series(replace(product_node("h100"), unclaimed_xids={"0000:99:00": counts}))
    assert pick(found, "gpuwarden_gpu_xid_errors_total", gpu="", uuid="PCI-0000:99:00", xid="79") == [2]


def test_codes_beyond_the_bound_are_counted_as_other() -> None:
    """What came after the bound on different codes keeps the sums right, under a label that is no number."""
    card = replace(gpu(0), xids=(XidCount(xid=0, source="driver", total=7, last=NOW.wall),))
    found = series(node(card, sxids={(0, "yes"): 3, (20034, "yes"): 1}))
    assert pick(found, "gpuwarden_gpu_xid_errors_total", xid="other", source="driver") == [7]
    assert pick(found, "gpuwarden_gpu_xid_last_timestamp_seconds", xid="other") == [NOW.wall]
    assert pick(found, "gpuwarden_sxid_errors_total", sxid="other", fatal="yes") == [3]
    assert sum(pick(found, "gpuwarden_sxid_errors_total")) == 4


def test_owners_stand_on_one_info_metric_alone() -> None:
    """Of several holders the first; no label of an owner on any other series; processes only where asked for."""
    state = product_node("h100", 1)
    found = series(state)
    assert pick(found, "gpuwarden_workload_info", gpu="0", source="slurm", job="4200", user="ada") == [1]
    carriers = {name for name, labels in found if {"pod", "job", "user", "namespace"} & dict(labels).keys()}
    assert carriers == {"gpuwarden_workload_info"}
    held = state.gpus[gpu(0).identity.uuid].held
    shared = replace(held, holders=held.holders * 3, workloads=3)
    several = series(node(gpu(0, held=shared)))
    assert len(pick(several, "gpuwarden_workload_info")) == 1
    assert pick(several, "gpuwarden_gpu_workloads", gpu="0") == [3]
    assert "gpuwarden_gpu_process_memory_bytes" not in expose(state)
    text = expose(state, extras=replace(EXTRAS, gpu_processes=True))
    assert 'command="python3",gpu="0",kind="compute",pid="20000",user="ada"' in text


def test_where_owners_cannot_be_told_nothing_is_said() -> None:
    """No count of zero, no empty name."""
    found = series(node(gpu(0, held=Held())))
    assert pick(found, "gpuwarden_workload_info") == []
    assert pick(found, "gpuwarden_gpu_workloads") == []
