"""The operator's own figure: whose it is, when it counts, and what is said while nobody tells it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gpuwarden.checks.rooms import verdicts
from gpuwarden.exposition.native import families
from gpuwarden.model.finding import Health, Unsure
from gpuwarden.model.gpu import Missing
from gpuwarden.model.observation import BaselineRow, Figure, Restored, ThroughputSeen
from gpuwarden.model.rows import baseline_rows
from gpuwarden.model.speed import Sketch, clock_bucket, figure_bucket
from gpuwarden.policy.keeping import KEEP_SECONDS
from gpuwarden.policy.speed import HISTORY_SECONDS
from support.nodes import EXTRAS
from support.story import Story, bdf, uuid
from support.working import at_work, work

DROP = "speed.throughput_drop"
USUAL = 100.0


def told(story: Story, *values: float, up: bool = True) -> None:
    """Have the endpoint answer, GPU by GPU."""
    figures = tuple(Figure(gpu=str(number), metric="fps", value=value) for number, value in enumerate(values))
    story.take(ThroughputSeen(at=story.at, up=up, figures=figures if up else ()))


def working(story: Story, seconds: int, *values: float, up: bool = True, **differs: Any) -> None:
    """Let all GPUs work while the endpoint is asked every ten seconds."""
    for _ in range(0, seconds, 10):
        told(story, *values, up=up)
        work(story, 10, *([differs] * len(story.node.gpus)))


def rig(count: int = 1, *, remembered: float = 2 * HISTORY_SECONDS) -> Story:
    """Return GPUs at work with a configured endpoint and, where some time is remembered, a past of 100 a second."""
    story = at_work(count)
    story.node = replace(story.node, settings=replace(story.node.settings, throughput_metric="fps"))
    history = Sketch({figure_bucket(USUAL): remembered})
    rows = tuple(
        BaselineRow(uuid=uuid(n), figure="workload:fps", history=history) for n in range(count if remembered else 0)
    )
    story.take(Restored(at=story.at, inventory=(), latches=(), counters=(), baselines=rows))
    return story


def exposed(story: Story, name: str) -> dict[str, float]:
    """Return a family's values by GPU index."""
    return {
        sample.labels["gpu"]: sample.value
        for family in families(story.node, EXTRAS)
        for sample in family.samples
        if sample.name == name
    }


def test_a_fall_below_the_usual_for_five_minutes_is_a_finding_and_ends_when_it_is_back() -> None:
    """Against the GPU's own past; its sibling is as usual."""
    story = rig(2)
    working(story, 120, 100.0, 100.0)
    working(story, 290, 80.0, 100.0)
    assert not story.open()
    working(story, 60, 80.0, 100.0)
    assert story.open() == {(DROP, uuid(0))}
    found = story.node.incidents[DROP, uuid(0)].evidence
    assert found["metric"] == "fps"
    assert found["throughput_ratio"] == pytest.approx(0.8, abs=0.01)
    assert exposed(story, "gpuwarden_workload_throughput") == {"0": 80.0, "1": 100.0}
    working(story, 180, 100.0, 100.0)
    assert not story.open()


def test_a_spread_of_eight_per_cent_is_life() -> None:
    """GPUs of one model differ by that much."""
    story = rig()
    working(story, 600, 92.0)
    assert not story.open()


def test_without_a_past_of_an_hour_there_is_nothing_to_fall_below() -> None:
    """No verdict, and no doubt either: the figure is there."""
    story = rig(remembered=0)
    working(story, 600, 5.0)
    assert not story.open()
    assert story.gpu(0).health is Health.HEALTHY


def test_an_idle_gpu_may_get_nothing_done() -> None:
    """Only while loaded; nor is what an idle GPU does its usual."""
    story = rig()
    before = story.gpu(0).work["fps"].history
    working(story, 600, 1.0, gpu_utilization_ratio=0.2)
    assert not story.open()
    assert story.gpu(0).work["fps"].history == before


@pytest.mark.parametrize("silence", ["away", "mute", "no-figure"])
def test_a_working_gpu_without_its_figure_is_unknown_and_never_healthy(silence: str) -> None:
    """The endpoint is away, no longer polled, or no longer names the GPU; an idle GPU is not in doubt."""
    story = rig(2)
    working(story, 120, 100.0, 100.0)
    assert story.gpu(0).health is Health.HEALTHY
    match silence:
        case "away":
            working(story, 10, up=False)
            assert Unsure(kind=DROP, uuid=uuid(0)) in list(verdicts(story.node))
            working(story, 30, up=False)
        case "mute":
            work(story, 40)
        case _:
            working(story, 40)
    assert Unsure(kind=DROP, uuid=uuid(0)) in list(verdicts(story.node))
    assert story.gpu(0).health is Health.UNKNOWN
    assert exposed(story, "gpuwarden_workload_throughput") == {}
    work(story, 2, *([{"gpu_utilization_ratio": 0.0}] * 2))
    assert story.gpu(0).health is Health.HEALTHY


def test_a_gpu_whose_load_is_unknown_is_in_doubt_and_one_that_cannot_tell_is_not() -> None:
    """As with every reading."""
    story = rig()
    working(story, 120, 100.0)
    work(story, 1, {"gpu_utilization_ratio": Missing.UNKNOWN})
    assert Unsure(kind=DROP, uuid=uuid(0)) in list(verdicts(story.node))
    work(story, 1, {"gpu_utilization_ratio": Missing.NOT_SUPPORTED})
    assert not [verdict for verdict in verdicts(story.node) if verdict.kind == DROP]


def test_without_an_endpoint_nothing_is_said() -> None:
    """No `[workload]`, no verdict."""
    story = at_work(1)
    work(story, 120)
    assert not [verdict for verdict in verdicts(story.node) if verdict.kind == DROP]


@pytest.mark.parametrize(
    "name", [uuid(1), "1", "nvidia1", "/dev/nvidia1", "cuda:1", bdf(1), bdf(1).upper(), f"0000{bdf(1)}"]
)
def test_a_gpu_is_found_by_every_name_it_has(name: str) -> None:
    """uuid, index, device node, CUDA name, PCI address in NVML's and the kernel's spelling."""
    story = rig(2, remembered=0)
    story.take(ThroughputSeen(at=story.at, up=True, figures=(Figure(gpu=name, metric="fps", value=3.0),)))
    assert exposed(story, "gpuwarden_workload_throughput") == {"1": 3.0}


@pytest.mark.parametrize("name", ["", "7", "GPU-ffffffff", "²", "x", "99999999999999999999"])
def test_a_name_of_no_gpu_is_nobody_s(name: str) -> None:
    """A figure that names no GPU is only clear where there is one."""
    story = rig(2, remembered=0)
    story.take(ThroughputSeen(at=story.at, up=True, figures=(Figure(gpu=name, metric="fps", value=3.0),)))
    assert exposed(story, "gpuwarden_workload_throughput") == {}
    alone = rig(1, remembered=0)
    alone.take(ThroughputSeen(at=alone.at, up=True, figures=(Figure(gpu="", metric="fps", value=3.0),)))
    assert exposed(alone, "gpuwarden_workload_throughput") == {"0": 3.0}


def test_what_is_usual_survives_a_restart() -> None:
    """The rows of one node, restored into another, judge there as they did here."""
    story = rig(1)
    working(story, 120, 100.0)
    rows = tuple(baseline_rows(story.node))
    assert {row.figure for row in rows} == {"sm_clock_hertz", "workload:fps"}
    later = rig(1, remembered=0)
    later.take(Restored(at=later.at, inventory=(), latches=(), counters=(), baselines=rows))
    assert later.gpu(0).work["fps"].usual == story.gpu(0).work["fps"].usual
    assert later.gpu(0).speed.history == story.gpu(0).speed.history
    working(later, 440, 80.0)
    assert later.open() == {(DROP, uuid(0))}


def test_baselines_are_due_every_half_hour_and_tell_what_is_new() -> None:
    """Nothing is written for a node that learnt nothing."""
    story = at_work(1)
    marked = story.node.kept_at
    work(story, 100)
    known = story.node
    assert known.kept_at == marked
    work(story, KEEP_SECONDS)
    assert story.node.kept_at > marked
    (row,) = baseline_rows(story.node, known)
    assert row.history.weights.keys() == {clock_bucket(1980e6)}
    assert list(baseline_rows(story.node, story.node)) == []
