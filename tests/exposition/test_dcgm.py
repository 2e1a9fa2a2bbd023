"""The dcgm dialect: names, types, units, label order and absence as its dashboards know them."""

from __future__ import annotations

import math
import timeit
from collections import Counter as Count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gpuwarden.exposition.dcgm import Dialect, default_dialect, render
from gpuwarden.exposition.dcgm_events import EVENT_ROW_BY_KEY, EVENT_ROWS
from gpuwarden.exposition.dcgm_fields import default_counters, fields, keys
from gpuwarden.exposition.dcgm_rows import ROW_BY_KEY, ROWS
from gpuwarden.exposition.dcgm_subject import Subject
from gpuwarden.exposition.gpu_rows import SHOWN
from gpuwarden.model.gpu import READINGS, VECTOR_READINGS, GpuIdentity, GpuReading, Missing
from gpuwarden.model.mig import MigInstance, MigReading
from gpuwarden.model.snapshot import Held, LinkWindow, NodeState, Presence, Window
from gpuwarden.model.tally import NO_INSTANCE, Tally
from gpuwarden.model.workload import GpuProcess, Holder, Owner, PodDevices, ProcessKind, Source
from support.dcgm import counters, every_counter, labels, lines, text, values
from support.nodes import H100, NOW, PRODUCTS, gpu, node, product_node

GOLDEN = Path(__file__).parent / "golden_dcgm"
DEFAULT_SET = """
DCGM_FI_DEV_SM_CLOCK DCGM_FI_DEV_MEM_CLOCK DCGM_FI_DEV_MEMORY_TEMP DCGM_FI_DEV_GPU_TEMP DCGM_FI_DEV_POWER_USAGE
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION DCGM_FI_DEV_PCIE_REPLAY_COUNTER DCGM_FI_DEV_GPU_UTIL DCGM_FI_DEV_MEM_COPY_UTIL
DCGM_FI_DEV_ENC_UTIL DCGM_FI_DEV_DEC_UTIL DCGM_FI_DEV_XID_ERRORS DCGM_FI_DEV_FB_FREE DCGM_FI_DEV_FB_USED
DCGM_FI_DEV_FB_RESERVED DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS
DCGM_FI_DEV_ROW_REMAP_FAILURE DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL DCGM_FI_DEV_VGPU_LICENSE_STATUS
DCGM_FI_DRIVER_VERSION DCGM_FI_PROF_GR_ENGINE_ACTIVE DCGM_FI_PROF_PIPE_TENSOR_ACTIVE DCGM_FI_PROF_DRAM_ACTIVE
DCGM_FI_PROF_PCIE_TX_BYTES DCGM_FI_PROF_PCIE_RX_BYTES
"""
OF_COUNTER_TYPE = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",
}


def all_present() -> NodeState:
    """Return a node with one GPU that reports everything there is."""
    full = {field: (1, 1, 1, 1, 1) if field in VECTOR_READINGS else 1 for field in READINGS} | {"vgpu_licensed": 1}
    full |= {"memory_size_bytes": 100}
    known = dict.fromkeys(GpuIdentity.__struct_fields__, "x") | {"bdf": "0000:1b:00.0", "minor": 0}
    return node(gpu(0, readings=GpuReading(**full), identity=GpuIdentity(**known)))


@pytest.mark.parametrize("product", sorted(PRODUCTS))
def test_golden_default_set(product: str, update_golden: bool) -> None:
    """What a healthy node of each product exposes with the default set, byte for byte."""
    golden = GOLDEN / f"{product}.prom"
    found = text(product_node(product, 2))
    if update_golden:
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_goldens_are_those_of_the_products() -> None:
    """A golden without a product, or a product without one, is a mistake."""
    assert {path.stem for path in GOLDEN.iterdir()} == set(PRODUCTS)


def test_the_default_set_is_the_documented_one() -> None:
    """25 families and the driver's version as a label, gauges but for the known counters."""
    found = {each.name: each.type for each in default_counters()}
    assert sorted(found) == sorted(DEFAULT_SET.split())
    assert {name for name, kind in found.items() if kind == "counter"} == OF_COUNTER_TYPE
    assert {name for name, kind in found.items() if kind == "label"} == {"DCGM_FI_DRIVER_VERSION"}


@pytest.mark.parametrize("product", sorted(PRODUCTS))
def test_the_body_parses_and_no_family_is_there_twice(product: str) -> None:
    """Every name at once: what Prometheus' own parser reads is what was meant, each series once."""
    body = text(product_node(product, 8), Dialect(counters=every_counter(), host="rig7"))
    heads = [line.split()[2] for line in body.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    samples = [s for family in parse_text(body) for s in family.samples]
    assert max(Count((s.name, *sorted(s.labels.items())) for s in samples).values()) == 1
    assert {s.name for s in samples} == set(heads)


def test_the_labels_stand_in_their_order() -> None:
    """gpu, UUID, pci_bus_id, device, modelName, the host, label-type fields by name, then attributes by name."""
    dialect = Dialect(
        counters=(
            *counters("DCGM_FI_DEV_VBIOS_VERSION", "DCGM_FI_DRIVER_VERSION", "DCGM_FI_DEV_SERIAL", kind="label"),
            *counters("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_XID_ERRORS"),
        ),
        host="node-a",
        jobs={"0": ("4711",)},
    )
    state = node(gpu(0))
    base = (
        'gpu="0",UUID="GPU-00000000-1111-2222-3333-444444444444",pci_bus_id="00000000:1B:00.0",device="nvidia0",'
        'modelName="NVIDIA H100 80GB HBM3",Hostname="node-a",DCGM_FI_DEV_SERIAL="1653223000000",'
        'DCGM_FI_DEV_VBIOS_VERSION="96.00.89.00.01",DCGM_FI_DRIVER_VERSION="580.82.07"'
    )
    assert lines(state, "DCGM_FI_DEV_GPU_TEMP", dialect) == [f'DCGM_FI_DEV_GPU_TEMP{{{base},hpc_job="4711"}} 41']
    assert lines(state, "DCGM_FI_DEV_XID_ERRORS", dialect) == [
        f'DCGM_FI_DEV_XID_ERRORS{{{base},err_code="0",err_msg="No Error",hpc_job="4711"}} 0'
    ]


@pytest.mark.parametrize(("label", "shown"), [("Hostname", "Hostname"), ("hostname", "hostname"), ("", None)])
def test_the_host_label_is_spelt_as_wanted(label: str, shown: str | None) -> None:
    """Both spellings, or none at all."""
    dialect = Dialect(counters=counters("DCGM_FI_DEV_GPU_TEMP"), host="h", host_label=label)
    found = labels(lines(node(gpu(0)), "DCGM_FI_DEV_GPU_TEMP", dialect)[0])
    assert {name: value for name, value in found.items() if name.lower() == "hostname"} == (
        {shown: "h"} if shown else {}
    )


def test_blanks_in_model_names_can_be_replaced() -> None:
    """As the exporter's own switch does."""
    dialect = Dialect(counters=counters("DCGM_FI_DEV_GPU_TEMP"), replace_blanks=True)
    found = labels(lines(node(gpu(0)), "DCGM_FI_DEV_GPU_TEMP", dialect)[0])
    assert found["modelName"] == "NVIDIA-H100-80GB-HBM3"


def test_heads_are_as_the_counters_file_has_them() -> None:
    """Name, type and help are the file's; an empty help keeps its blank."""
    dialect = Dialect(counters=counters("dcgm_gpu_temp", kind="summary"))
    head = text(node(gpu(0)), dialect).splitlines()[:2]
    assert head == ["# HELP dcgm_gpu_temp ", "# TYPE dcgm_gpu_temp summary"]


def test_old_and_new_names_print_as_they_are_asked_for() -> None:
    """One field under three names is three families; the printed name is the file's."""
    names = ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP_CELSIUS", "dcgm_gpu_temp")
    assert values(node(gpu(0)), *names) == ["41"] * 3


def test_label_values_are_escaped() -> None:
    """A quote, a backslash and a line end in a name come out of the parser as they went in."""
    odd = 'a"b\\c\nd'
    state = node(gpu(0, identity=replace(gpu(0).identity, name=odd)))
    (line,) = lines(state, "DCGM_FI_DEV_GPU_TEMP")
    assert labels(line)["modelName"] == odd


def test_what_is_not_there_is_left_out_with_its_head() -> None:
    """No sample, no HELP, no TYPE, and never a sentinel."""
    body = text(product_node("rtx4090", 1))
    assert "DCGM_FI_DEV_MEMORY_TEMP" not in body
    assert "REMAPPED" not in body
    assert "NVLINK" not in body
    assert "9223372036854775" not in body


@pytest.mark.parametrize("why", sorted(Missing, key=lambda each: each.value))
def test_an_absent_reading_is_never_a_number(why: Missing) -> None:
    """Whatever the reason: nothing is left of a GPU without readings but its identity, Xids and licence."""
    blank = gpu(0, readings=GpuReading(**dict.fromkeys(READINGS, why)))
    body = text(node(blank), Dialect(counters=every_counter()))
    named = {keys()[line.split()[2]] for line in body.splitlines() if line.startswith("# TYPE")}
    ours = {row.key for row in EVENT_ROWS} | {4, 52, 55}  # how many GPUs, index, minor
    assert named == ours | ({526} if why is Missing.NOT_SUPPORTED else set())


def test_a_label_field_without_a_value_is_no_label() -> None:
    """GeForce has no serial number."""
    dialect = Dialect(
        counters=(*counters("DCGM_FI_DEV_SERIAL", kind="label"), *counters("DCGM_FI_DEV_GPU_TEMP")), host="rig7"
    )
    assert "DCGM_FI_DEV_SERIAL" in text(product_node("h100", 1), dialect)
    assert "DCGM_FI_DEV_SERIAL" not in text(product_node("rtx4090", 1), dialect)


def test_text_is_shown_as_a_label_only() -> None:
    """A serial number asked for as a gauge has no family; a number asked for as a label is one."""
    assert lines(node(gpu(0)), "DCGM_FI_DEV_SERIAL") == []
    dialect = Dialect(
        counters=(*counters("DCGM_FI_DEV_PSTATE", kind="label"), *counters("DCGM_FI_DEV_GPU_TEMP")), host="h"
    )
    assert labels(lines(node(gpu(0)), "DCGM_FI_DEV_GPU_TEMP", dialect)[0])["DCGM_FI_DEV_PSTATE"] == "0"


def test_every_row_has_the_value_format_of_its_field() -> None:
    """`int` is printed as a whole number, `float` with six decimals, `label` is text."""
    state = all_present()
    subject = Subject(state, next(iter(state.gpus.values())), next(iter(state.gpus.values())).readings)
    expected = {"int": int, "float": float, "label": str}
    for field in fields().values():
        row = ROW_BY_KEY.get(field.key)
        if row is not None:
            assert type(row.value(subject)) is expected[field.value_format], field.name


def test_one_fact_has_one_row() -> None:
    """Keys are unique, and each has a name."""
    all_keys = [row.key for row in (*ROWS, *EVENT_ROWS)]
    assert len(all_keys) == len(set(all_keys))
    assert set(all_keys) <= set(keys().values())
    assert set(ROW_BY_KEY) & set(EVENT_ROW_BY_KEY) == set()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DCGM_FI_DEV_SM_CLOCK", "1980"),
        ("DCGM_FI_DEV_SM_CLOCK_HERTZ", "1980000000"),
        ("DCGM_FI_DEV_POWER_USAGE", "412.500000"),
        ("DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX", "700.000000"),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "1234567891"),
        ("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", "1234567.891000"),
        ("DCGM_FI_DEV_GPU_UTIL", "100"),
        ("DCGM_FI_DEV_MEM_COPY_UTIL", "35"),
        ("DCGM_FI_DEV_FB_USED", "57220"),
        ("DCGM_FI_DEV_FB_TOTAL", "81558"),
        ("DCGM_FI_DEV_FB_USED_PERCENT", "0.705882"),
        ("DCGM_FI_DEV_BAR1_FREE", "131070"),
        ("DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP_NS", "3500000000"),
        ("DCGM_FI_DEV_POWER_VIOLATION", "3500000000"),
        ("DCGM_FI_DEV_PCIE_TX_THROUGHPUT", "1171"),
        ("DCGM_FI_PROF_PCIE_TX_BYTES", "1200000"),
        ("DCGM_FI_DEV_GPU_TEMP_LIMIT", "46"),
        ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "4"),
        ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "9"),
        ("DCGM_FI_DEV_BANKS_REMAP_ROWS_AVAIL_MAX", "2559"),
        ("DCGM_FI_DEV_COUNT", "1"),
    ],
)
def test_units_are_dcgms(name: str, expected: str) -> None:
    """MHz, mJ, MiB, percent, nanoseconds: each field in the unit its dashboards divide by."""
    assert values(node(gpu(0)), name) == [expected]


def test_a_limit_is_cut_to_whole_watts() -> None:
    """412.9 W is a limit of 412.000000."""
    card = gpu(0, readings=replace(H100, power_limit_enforced_watts=412.9))
    assert values(node(card), "DCGM_FI_DEV_ENFORCED_POWER_LIMIT") == ["412.000000"]


def test_nvlink_bandwidth_is_a_rate_of_both_directions() -> None:
    """KiB a second over 1000, 0 before there are two samples, absent without NVLink."""
    moving = Window(
        last=0, last_at=0, base=0, base_at=0, previous_base=0, previous_base_at=0, grown=1024 * 1000 * 600.0,
        span_seconds=30.0,
    )  # fmt: skip
    card = gpu(0, windows={"nvlink_tx_bytes": moving, "nvlink_rx_bytes": moving})
    assert values(node(card), "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL") == ["40"]
    assert values(node(card), "DCGM_FI_PROF_NVLINK_TX_BYTES") == ["2500000000"]  # GPM's own average is better
    without = replace(card, readings=replace(H100, nvlink_tx_bytes_per_second=Missing.NOT_SUPPORTED))
    assert values(node(without), "DCGM_FI_PROF_NVLINK_TX_BYTES") == [str(1024 * 1000 * 20)]
    assert values(node(gpu(0)), "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL") == ["0"]
    assert values(product_node("t4", 1), "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL") == []


def test_nvlink_errors_are_the_drivers_sum_or_ours() -> None:
    """The driver's sum where it keeps one; else the links' together, unless one that counts cannot be read."""
    blind = Missing.TIMED_OUT
    gone = Missing.NOT_SUPPORTED
    for count, by_link, expected in (
        (7, (1, 2), ["7"]),
        (gone, (1, 2, gone), ["3"]),
        (gone, (1, blind), []),
        (gone, gone, []),
        (gone, (gone,), []),
    ):
        readings = replace(H100, nvlink_replay_count=count, nvlink_replay_errors=by_link)
        card = gpu(0, readings=readings)
        assert values(node(card), "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL") == expected
    links = gpu(0, readings=replace(H100, nvlink_replay_errors=tuple(range(18))))
    names = (f"DCGM_FI_DEV_NVLINK_REPLAY_ERROR_L{link}_TOTAL" for link in range(18))
    assert values(node(links), *names) == [str(link) for link in range(18)]


def test_nvlink_bandwidth_by_link_is_a_rate() -> None:
    """From the link's own window; 0 before there are two samples."""
    moved = 1024 * 1000 * 60.0
    window = LinkWindow(
        last=(moved, 2 * moved), last_at=60.0, base=(0.0, 0.0), base_at=0.0, previous_base=(0.0, 0.0),
        previous_base_at=0.0,
    )  # fmt: skip
    readings = replace(H100, nvlink_link_tx_bytes=(1, 1), nvlink_link_rx_bytes=(1, 1))
    names = ("DCGM_FI_DEV_NVLINK_BANDWIDTH_L0", "DCGM_FI_DEV_NVLINK_BANDWIDTH_L1", "DCGM_FI_DEV_NVLINK_BANDWIDTH_L2")
    windows = {"nvlink_link_tx_bytes": window, "nvlink_link_rx_bytes": window}
    assert values(node(gpu(0, readings=readings, link_windows=windows)), *names) == ["2", "4"]
    assert values(node(gpu(0, readings=readings)), *names) == ["0", "0"]


@pytest.mark.parametrize(("state", "status", "expected"), [(1, 0, "1"), (2, 0, "2"), (3, 0, "3"), (3, 999, "4")])
def test_the_fabric_status_is_dcgms(state: int, status: int, expected: str) -> None:
    """Not started, in progress, success; joining that ended badly is a failure."""
    card = gpu(0, readings=replace(H100, fabric_state=state, fabric_status=status))
    assert values(node(card), "DCGM_FI_DEV_FABRIC_MANAGER_STATUS") == [expected]


scalars = st.one_of(st.integers(-(2**63), 2**64), st.floats(), st.sampled_from(Missing))
vectors = st.one_of(st.lists(scalars, max_size=20).map(tuple), st.sampled_from(Missing))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_reading_leaves_a_body_that_parses(data: st.DataObject) -> None:
    """Whatever a broken driver gives: no exception, no NaN, nothing that is no sample."""
    chosen = data.draw(st.lists(st.sampled_from(READINGS), max_size=25, unique=True))
    drawn = {name: data.draw(vectors if name in VECTOR_READINGS else scalars) for name in chosen}
    name = data.draw(st.text(st.characters(exclude_categories=("Cs",)), max_size=12))
    card = gpu(0, readings=replace(H100, **drawn), identity=replace(gpu(0).identity, name=name))
    body = text(node(card), Dialect(counters=every_counter(), host="rig7"))
    for family in parse_text(body):
        for sample in family.samples:
            assert sample.labels["modelName"] == name
            assert math.isfinite(sample.value)


# ---- GPUs that do not answer


@pytest.mark.parametrize("presence", sorted(set(Presence) - SHOWN, key=lambda each: each.value))
def test_a_gpu_that_is_gone_takes_its_series_along(presence: Presence) -> None:
    """Dropped, never zeroed; the healthy ones stay, so that `absent` and `unless` rules hold."""
    body = text(node(gpu(0, presence=presence), gpu(1)), Dialect(counters=every_counter()))
    assert 'gpu="0"' not in body
    assert 'DCGM_FI_DEV_GPU_TEMP{gpu="1"' in body


def test_the_xid_of_a_lost_gpu_stays() -> None:
    """An alert on err_code 79 must not lose its series because the GPU is gone: that is what it is about."""
    lost = gpu(0, presence=Presence.LOST, xid_tallies={(NO_INSTANCE, 79): Tally().plus(1, NOW.boottime - 5)})
    body = text(node(lost, gpu(1)))
    about_lost = [line for line in body.splitlines() if 'gpu="0"' in line]
    assert [line.partition("{")[0] for line in about_lost] == ["DCGM_FI_DEV_XID_ERRORS"]
    assert labels(about_lost[0])["err_code"] == "79"
    assert about_lost[0].endswith("} 79")


# ---- Xids and clock events


def test_the_last_xid_stays() -> None:
    """The value is the last Xid, whatever came before; its text is the catalogue's; an unknown code says so."""
    tallies = {(NO_INSTANCE, 31): Tally().plus(1, 1000.0), (NO_INSTANCE, 79): Tally().plus(2, 1200.0)}
    (line,) = lines(node(gpu(0, xid_tallies=tallies)), "DCGM_FI_DEV_XID_ERRORS")
    assert line.endswith("} 79")
    assert labels(line)["err_code"] == "79"
    assert "PCIe" in labels(line)["err_msg"]
    (line,) = lines(node(gpu(0, xid_tallies={(NO_INSTANCE, 9999): Tally()})), "DCGM_FI_DEV_XID_ERRORS")
    assert labels(line)["err_msg"] == "Unknown Error"


def test_xids_are_counted_in_a_window() -> None:
    """Per code in the last five minutes; a GPU without any has one sample 0 without a code."""
    tallies = {
        (NO_INSTANCE, 31): Tally().plus(3, NOW.boottime - 100),
        (NO_INSTANCE, 79): Tally().plus(1, NOW.boottime - 900),
    }
    found = lines(node(gpu(0, xid_tallies=tallies), gpu(1)), "DCGM_EXP_XID_ERRORS_COUNT")
    assert [(labels(line).get("xid"), line.rpartition(" ")[2]) for line in found] == [("31", "3"), (None, "0")]
    assert {labels(line)["window_size_in_ms"] for line in found} == {"300000"}
    totals = lines(node(gpu(0, xid_tallies=tallies)), "DCGM_EXP_XID_ERRORS_TOTAL")
    assert [(labels(line)["xid"], line.rpartition(" ")[2]) for line in totals] == [("31", "3"), ("79", "1")]


def test_clock_events_are_counted_in_a_window() -> None:
    """Samples per reason under the exporter's own names."""
    card = gpu(
        0, clock_events={0x4: Tally().plus(7, NOW.boottime), 0x40: Tally().plus(1, 0.0)}, clock_event_edges={4: 2}
    )
    found = lines(node(card), "DCGM_EXP_CLOCK_EVENTS_COUNT")
    assert [(labels(line)["clock_event"], line.rpartition(" ")[2]) for line in found] == [("power_cap", "7")]
    assert values(node(card), "DCGM_EXP_CLOCK_EVENTS_TOTAL") == ["2"]
    assert values(node(gpu(0)), "DCGM_EXP_CLOCK_EVENTS_COUNT") == ["0"]


# ---- jobs


def test_a_gpu_of_two_jobs_is_shown_for_each() -> None:
    """The whole sample is repeated per job; a GPU without jobs is unchanged."""
    dialect = Dialect(counters=counters("DCGM_FI_DEV_GPU_TEMP"), jobs={"0": ("11", "12_3"), "1.2": ("13",)})
    found = lines(node(gpu(0), gpu(1)), "DCGM_FI_DEV_GPU_TEMP", dialect)
    assert [(labels(line)["gpu"], labels(line).get("hpc_job")) for line in found] == [
        ("0", "11"),
        ("0", "12_3"),
        ("1", None),
    ]


# ---- MIG


def split_gpu() -> NodeState:
    """Return a node whose GPU 0 is cut in two GPU instances, one of them shared by two compute instances."""
    memory = {"memory_used_bytes": 10 << 20, "memory_free_bytes": 30 << 20, "memory_size_bytes": 40 << 20}
    first = MigReading(**memory, sm_activity_ratio=0.25)
    second = MigReading(**dict.fromkeys(memory, 20 << 20))
    return node(
        gpu(
            0,
            mig=(
                MigInstance(gi=2, ci=1, uuid="MIG-c", profile="1c.3g.40gb", readings=second),
                MigInstance(gi=2, ci=0, uuid="MIG-b", profile="1c.3g.40gb", readings=second),
                MigInstance(gi=1, ci=0, uuid="MIG-a", profile="3g.40gb", readings=first),
            ),
            xid_tallies={(1, 94): Tally().plus(1, NOW.boottime), (NO_INSTANCE, 63): Tally().plus(1, NOW.boottime)},
        ),
        gpu(1),
    )


def test_a_split_gpu_is_shown_by_gpu_instance() -> None:
    """One sample per GPU instance, labelled before the host; what belongs to the whole GPU is repeated."""
    state = split_gpu()
    found = lines(state, "DCGM_FI_DEV_GPU_TEMP")
    assert [labels(line).get("GPU_I_ID") for line in found] == ["1", "2", None]
    assert '",GPU_I_PROFILE="3g.40gb",GPU_I_ID="2",Hostname="rig7"' in found[1]
    assert values(state, "DCGM_FI_DEV_GPU_TEMP") == ["41"] * 3
    assert {labels(line)["UUID"] for line in found[:2]} == {gpu(0).identity.uuid}


def test_an_instance_has_its_own_memory_and_activity() -> None:
    """And no reserved memory; no utilisation at all; what it has no reading of is absent, never the GPU's."""
    state = split_gpu()
    assert values(state, "DCGM_FI_DEV_FB_USED")[:2] == ["10", "20"]
    assert values(state, "DCGM_FI_DEV_FB_RESERVED")[:2] == ["0", "0"]
    assert values(state, "DCGM_FI_DEV_FB_USED_PERCENT")[:2] == ["0.250000", "1.000000"]
    active = lines(state, "DCGM_FI_PROF_SM_ACTIVE")
    assert [labels(line).get("GPU_I_ID") for line in active] == ["1", None]
    for name in ("GPU_UTIL", "MEM_COPY_UTIL", "ENC_UTIL", "DEC_UTIL"):
        assert [labels(line)["gpu"] for line in lines(state, f"DCGM_FI_DEV_{name}")] == ["1"]


def test_an_xid_is_its_instances() -> None:
    """One about the whole GPU is about each of them; the newest counts."""
    state = split_gpu()
    assert [labels(line)["err_code"] for line in lines(state, "DCGM_FI_DEV_XID_ERRORS")] == ["63", "63", "0"]
    seen = lines(state, "DCGM_EXP_XID_ERRORS_COUNT")
    assert [(labels(line).get("GPU_I_ID"), labels(line).get("xid")) for line in seen] == [
        ("1", "94"),
        ("1", "63"),
        ("2", "63"),
        (None, None),
    ]


def test_a_job_file_of_an_instance_is_about_it_alone() -> None:
    """`0.2` is GPU instance 2 of GPU 0; the file of the whole GPU says nothing about instances."""
    dialect = Dialect(counters=counters("DCGM_FI_DEV_GPU_TEMP"), jobs={"0": ("1",), "0.2": ("2",)})
    found = lines(split_gpu(), "DCGM_FI_DEV_GPU_TEMP", dialect)
    assert [labels(line).get("hpc_job") for line in found] == [None, "2", None]


# ---- pods


def owner(pod: str) -> Owner:
    """Return a Kubernetes owner in namespace ml, container train."""
    return Owner(source=Source.KUBERNETES, workload=pod, namespace="ml", pod=pod, container="train")


def test_a_gpu_of_a_pod_is_labelled_with_it() -> None:
    """container, namespace and pod, by name among the attributes; only on GPUs that a pod has."""
    holders = (
        Holder(owner=Owner(source=Source.PROCESS, workload="top")),
        Holder(owner=owner("job-7")),
        Holder(owner=owner("other")),
    )
    dialect = Dialect(counters=counters("DCGM_FI_DEV_GPU_TEMP"), jobs={"0": ("4711",)})
    found = lines(node(gpu(0, held=Held(holders=holders)), gpu(1)), "DCGM_FI_DEV_GPU_TEMP", dialect)
    assert ',container="train",hpc_job="4711",namespace="ml",pod="job-7"} 41' in found[0]
    assert "pod=" not in found[1]


def test_a_pod_known_by_its_uid_only_is_no_label() -> None:
    """A `pod` label that holds a uid would join with nothing."""
    holders = (Holder(owner=replace(owner("3f1c"), pod="")),)
    assert "container=" not in lines(node(gpu(0, held=Held(holders=holders))), "DCGM_FI_DEV_GPU_TEMP")[0]


@pytest.mark.parametrize(
    "device", ["MIG-b", "MIG-c", f"MIG-{gpu(0).identity.uuid}/2/0", "nvidia0/gi2", "nvidia0/gi2::3"]
)
def test_an_instance_is_labelled_with_its_own_pod(device: str) -> None:
    """By what the kubelet gave out, in each form of a device id."""
    state = replace(
        split_gpu(), pods=(PodDevices(namespace="ml", pod="job-7", container="train", device_ids=(device,)),)
    )
    found = lines(state, "DCGM_FI_DEV_GPU_TEMP")
    assert [labels(line).get("pod") for line in found] == [None, "job-7", None]


def test_without_the_kubelet_an_instances_processes_tell() -> None:
    """The owner of a process in the instance."""
    state = split_gpu()
    card = next(iter(state.gpus.values()))
    process = GpuProcess(pid=7, kind=ProcessKind.COMPUTE, gi=1, ci=0)
    card = replace(card, held=Held(processes=(process,), owners={7: owner("job-8")}))
    found = lines(node(card), "DCGM_FI_DEV_GPU_TEMP")
    assert [labels(line).get("pod") for line in found] == ["job-8", None]


def test_rendering_is_cheap() -> None:
    """Well under 10 ms for the default set of eight GPUs; about 0.2 ms on a slow core."""
    state, dialect = product_node("h100", 8), default_dialect("rig7")
    assert min(timeit.repeat(lambda: render(state, dialect), number=5, repeat=5)) / 5 < 0.005
