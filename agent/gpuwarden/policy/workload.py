"""The operator's own figure of the work: whose it is, how it is smoothed, and what it usually is under load."""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.model.load import under_load
from gpuwarden.model.observation import Figure, ThroughputSeen
from gpuwarden.model.settings import Settings
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.speed import Sketch, Work, figure_bucket, figure_of
from gpuwarden.policy.gpus import at_bdf, put
from gpuwarden.policy.sketch import counted, quantile, smoothed
from gpuwarden.policy.speed import HISTORY_SECONDS

SMOOTH_SECONDS = 30.0
MOST_METRICS = 8  # of one GPU
_USUAL_SHARE = 0.5
_DEVICE_PREFIXES = ("/dev/nvidia", "nvidia", "cuda:", "cuda", "gpu")
_BDF_CHARACTERS = len("0000:3b:00.0")


def seen(node: NodeState, told: ThroughputSeen) -> NodeState:
    """Return the node with the figures of one answer; a figure of a GPU that nobody knows is dropped."""
    if not told.up:
        return replace(node, throughput_up=False)
    node = replace(node, throughput_up=True, throughput_at=node.now.boottime)
    for figure in told.figures:
        gpu = _whose(node, figure.gpu)
        if gpu is not None:
            node = put(node, _with_figure(node, gpu, figure))
    return node


def silent(node: NodeState) -> NodeState:
    """Return the node without figures that are older than two polls and the deadline."""
    for gpu in node.gpus.values():
        late = {
            metric: replace(work, value=None, mean=None, at=None)
            for metric, work in gpu.work.items()
            if work.at is not None and node.now.boottime - work.at > _lifetime(node.settings)
        }
        if late:
            node = put(node, replace(gpu, work=gpu.work | late))
    return node


def remembered(work: Work, history: Sketch) -> Work:
    """Return a figure with this history, and what is usual by it."""
    usual = quantile(history, _USUAL_SHARE, figure_of) if history.seconds >= HISTORY_SECONDS else None
    return replace(work, history=history, usual=usual)


def _lifetime(settings: Settings) -> float:
    return 2 * settings.normal_seconds + settings.deadline_seconds


def _with_figure(node: NodeState, gpu: GpuState, figure: Figure) -> GpuState:
    work, now = gpu.work.get(figure.metric), node.now.boottime
    if work is None:
        if len(gpu.work) >= MOST_METRICS:
            return gpu
        work = Work()
    passed = 0.0 if work.at is None else min(now - work.at, _lifetime(node.settings))
    if passed > 0 and figure.value > 0 and under_load(node, gpu):
        work = remembered(work, counted(work.history, figure_bucket(figure.value), passed))
    mean = smoothed(work.mean, figure.value, now, SMOOTH_SECONDS)
    work = replace(work, value=figure.value, mean=mean, at=now)
    return replace(gpu, work=gpu.work | {figure.metric: work})


def _whose(node: NodeState, name: str) -> GpuState | None:
    """Return the GPU a source means; one that names none means the only one there is."""
    if name in node.gpus:
        return node.gpus[name]
    if not name:
        return next(iter(node.gpus.values())) if len(node.gpus) == 1 else None
    number = name.lower()
    for prefix in _DEVICE_PREFIXES:
        number = number.removeprefix(prefix)
    if number.isascii() and number.isdecimal() and len(number) <= 3:
        return node.gpus.get(node.by_index.get(int(number), ""))
    return at_bdf(node, name.lower()[-_BDF_CHARACTERS:]) if ":" in name else None
