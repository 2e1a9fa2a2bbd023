"""What Slurm 22.05 really printed, and the records it becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuwarden.actuators.slurm_words import (
    Reservation,
    SlurmNode,
    hosts,
    parse_job_gpus,
    parse_job_ids,
    parse_nodes,
    parse_reservations,
    parse_setting,
    standing_mark,
)

SHOWN = Path(__file__).parents[2] / "data" / "slurm"
MARK = "gpuwarden 9f3c-4 xid.xid_79 gpu3"


def shown(name: str) -> str:
    return (SHOWN / name).read_text("utf-8")


@pytest.fixture(scope="module")
def nodes() -> dict[str, SlurmNode]:
    return {node.name: node for node in parse_nodes(shown("show_node.txt"))}


def test_a_drained_node_has_its_reason_to_the_letter(nodes: dict[str, SlurmNode]) -> None:
    """Reason, who set it and when are three facts; the record beside them is whole."""
    node = nodes["n1"]
    assert (node.reason, node.by) == (MARK, "root")
    assert node.reason_time == pytest.approx(1795534594, abs=86_400)
    assert node.boot_time is not None and node.boot_time < node.reason_time
    assert node.hostname == "gpu07" and node.gpus == 4 and node.partitions == ("main",)
    assert {"MIXED", "DRAIN", "MAINTENANCE", "RESERVED"} == node.states
    assert node.drained and not node.broken and node.ours
    assert node.extra == "gpuwarden case=9f3c-4 rung=1 attempt=0 held=0 rest=2@1790000000"


def test_words_of_people_are_no_fields(nodes: dict[str, SlurmNode]) -> None:
    """A reason or a comment that looks like a state, or like who set it, changes neither."""
    node = nodes["n2"]
    assert node.reason == "RAM [DIMM 3] swap = Tue, see State=IDLE"
    assert node.drained and not node.ours and "IDLE" not in node.states


@pytest.mark.parametrize(
    ("name", "drained", "broken"),
    [
        pytest.param("n3", False, False, id="at-work"),
        pytest.param("n4", False, True, id="down-by-an-admin"),
        pytest.param("far", False, True, id="never-heard-of"),
    ],
)
def test_states(nodes: dict[str, SlurmNode], name: str, drained: bool, broken: bool) -> None:
    """Drain and down are two things; a node that nobody has heard of is out too."""
    assert (nodes[name].drained, nodes[name].broken) == (drained, broken)


def test_what_slurm_does_not_know_is_none(nodes: dict[str, SlurmNode]) -> None:
    """A node that never registered has no boot time, and no reason."""
    assert nodes["far"].boot_time is None and nodes["far"].reason == "" and nodes["far"].reason_time is None


def test_reservations(nodes: dict[str, SlurmNode]) -> None:
    """Slots are known by their names; other people's reservations are none."""
    first, rested, school = parse_reservations(shown("show_reservation.txt"))
    assert (first.slot, first.nodes) == (0, "n1")
    assert first.start is not None and first.end is not None and first.end - first.start == 365 * 86_400
    assert rested.slot == 3 and rested.end is not None and rested.start is not None
    assert rested.end - rested.start == 1800
    assert (school.slot, school.nodes) == (None, "n[2-3]")
    assert parse_reservations("No reservations in the system\n") == ()


@pytest.mark.parametrize(
    ("name", "slot"),
    [("gpuwarden-slot-12", 12), ("gpuwarden-slot-", None), ("gpuwarden-slot-x", None), ("gpuwarden-slot-1a", None)],
)
def test_slot_names(name: str, slot: int | None) -> None:
    """Only a number after the prefix is a slot."""
    assert Reservation(name=name).slot == slot


@pytest.mark.parametrize(
    ("name", "node", "gpus"),
    [
        pytest.param("show_job_gpus.txt", "n1", (0, 1), id="two-gpus"),
        pytest.param("show_job_gpus.txt", "n2", None, id="gpus-but-none-named-here"),
        pytest.param("show_job_two_nodes.txt", "n3", (0,), id="several-nodes-in-one-line"),
        pytest.param("show_job_cpus.txt", "n1", (), id="no-gpu"),
        pytest.param("show_job_completing.txt", "n1", None, id="completing-does-not-tell"),
    ],
)
def test_gpus_of_a_job(name: str, node: str, gpus: tuple[int, ...] | None) -> None:
    """Indices of the node asked about; a job with GPUs that Slurm does not name is not known."""
    assert parse_job_gpus(shown(name), node) == gpus


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:a100:3(IDX:0,2-3)", (0, 2, 3)),
        ("gpu:2(IDX:4-5),craynetwork:1", (4, 5)),
        ("gpu:a100:1(IDX:0),gpu:v100:1(IDX:6)", (0, 6)),
        ("shard:4(0/4,0/4)", None),
        ("gpu:1", None),
    ],
)
def test_forms_of_gres(gres: str, gpus: tuple[int, ...] | None) -> None:
    """Types, lists and other resources beside; shares of a GPU and bare counts name no GPU."""
    assert parse_job_gpus(f"     Nodes=n1 CPU_IDs=0-1 Mem=0 GRES={gres} \n", "n1") == gpus


def test_job_ids() -> None:
    """Each id once."""
    assert parse_job_ids(shown("squeue.txt")) == ("1", "3")
    assert parse_job_ids("7\n7\nslurm_load_jobs error\n") == ("7",)


def test_settings() -> None:
    """A setting that is not set is empty."""
    config = shown("show_config.txt")
    assert parse_setting(config, "RebootProgram") == "/srv/lab/reboot.sh"
    assert parse_setting(config, "ResumeProgram") == ""
    assert parse_setting(config, "NoSuchThing") == ""


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("n1", ("n1",)),
        ("a,b[1-2]", ("a", "b1", "b2")),
        ("n[08-10,3]-x", ("n08-x", "n09-x", "n10-x", "n3-x")),
        ("r[1-2]n[1-2]", ("r1n1", "r1n2", "r2n1", "r2n2")),
        ("", ()),
    ],
)
def test_host_lists(nodes: str, names: tuple[str, ...]) -> None:
    """Slurm's lists, widths kept."""
    assert hosts(nodes) == names


@pytest.mark.parametrize(
    ("reason", "stands"),
    [
        (MARK, True),
        (f"{MARK} : reboot issued", True),
        (f"{MARK} : reboot issued : reboot complete", True),
        (f"{MARK}3", False),
        (f"{MARK} and the fan", False),
        (MARK.upper(), False),
        ("", False),
    ],
)
def test_a_mark_stands_to_the_letter(reason: str, stands: bool) -> None:
    """But for what Slurm itself appends, every letter counts."""
    assert standing_mark(reason, MARK) is stands


def test_no_mark_stands_nowhere() -> None:
    """An intent without a mark owns nothing, least of all a node without a reason."""
    assert not standing_mark("", "") and not standing_mark("x", "")
