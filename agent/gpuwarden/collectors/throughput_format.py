"""What a throughput endpoint's answer says of each GPU: the Prometheus text format, or JSON.

Prometheus: every sample of the named metric; its GPU is the first of the labels in `GPU_NAMES` that is there. Several
samples of one GPU add up. A counter (by its type, or a name ending in `_total`) is turned into a rate by the caller.

JSON: the metric is a path, `miner.gpus.hashrate`. On the way a list holds one entry per GPU, in index order or each
naming its GPU in a key of `GPU_NAMES`; an object that lacks the next part of the path is taken as keyed by GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from prometheus_client.parser import text_string_to_metric_families

GPU_NAMES = ("uuid", "gpu_uuid", "UUID", "gpu", "gpu_id", "device", "device_id", "index")


class Figures(NamedTuple):
    """Figure by GPU, by the name the source gives the GPU ("" where it gives none), and whether they only grow."""

    by_gpu: dict[str, float]
    cumulative: bool = False


def parse(body: bytes, metric: str) -> Figures:
    """Return what an answer says of a metric. Raises: ValueError with what is wrong with it."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the answer is not text") from None
    found = _json(text, metric) if text.lstrip()[:1] in ("{", "[") else _prometheus(text, metric)
    if not found.by_gpu:
        raise ValueError(f"the answer has no figure of {metric!r}")
    return found


def _prometheus(text: str, metric: str) -> Figures:
    lines = [line for line in text.splitlines() if line.startswith((metric, f"# TYPE {metric}"))]
    by_gpu: dict[str, float] = {}
    cumulative = metric.endswith("_total")
    try:
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except Exception as error:  # the library raises what its string handling runs into
        raise ValueError(f"the answer cannot be read: {error}") from None
    for family in families:
        counts_up = family.type == "counter"  # such a family's samples end in `_total` here, whatever the answer says
        for sample in family.samples:
            mine = sample.name == metric or (counts_up and family.name == metric)
            if mine and _counts(sample.value):
                cumulative |= counts_up
                gpu = _named(sample.labels)
                by_gpu[gpu] = by_gpu.get(gpu, 0.0) + sample.value
    return Figures(by_gpu, cumulative)


def _json(text: str, metric: str) -> Figures:
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the answer is not JSON: {error}") from None
    by_gpu: dict[str, float] = {}
    for gpu, value in _walk(document, metric.split("."), ""):
        by_gpu[gpu] = by_gpu.get(gpu, 0.0) + value
    return Figures(by_gpu)


def _walk(value: Any, path: Sequence[str], gpu: str) -> Iterator[tuple[str, float]]:
    """Yield the figures at the end of a path, each with the GPU that was named last on the way."""
    match value:
        case dict() if path and path[0] in value:
            yield from _walk(value[path[0]], path[1:], _named(value) or gpu)
        case dict():
            for key, each in value.items():
                yield from _walk(each, path, str(key))
        case list():
            for number, each in enumerate(value):
                yield from _walk(each, path, str(number))
        case bool():
            return
        case int() | float() if not path and _counts(value):
            yield gpu, float(value)


def _named(labels: dict[str, Any]) -> str:
    """Return what an entry calls its GPU, "" where it does not."""
    found = (labels[name] for name in GPU_NAMES if name in labels)
    return next((str(name) for name in found if isinstance(name, str | int) and str(name)), "")


def _counts(value: float) -> bool:
    return math.isfinite(value) and value >= 0
