"""The native metrics: every row of the tables, evaluated on the node's state.

A row says where its numbers come from (`reading_rows`, `gpu_rows`, `host_rows`). What is true of all of them is decided
once, here: the labels of a GPU, absence, readings that go with their GPU, the type that follows from a name. Names are
the documented contract: renaming one is a breaking change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from gpuwarden.exposition.gpu_rows import GPU_ROWS, SHOWN
from gpuwarden.exposition.host_rows import HOST_ROWS, INCIDENT_ROWS, PROCESS_ROWS
from gpuwarden.exposition.mig_rows import INSTANCE_LABELS, MIG_ROWS, instance_labels
from gpuwarden.exposition.reading_rows import READING_ROWS
from gpuwarden.exposition.remedy_rows import CASE_ROWS, REMEDY_ROWS
from gpuwarden.exposition.rows import CaseRow, Extras, IncidentRow, Labelled, ProcessStats
from gpuwarden.exposition.workload_rows import GPU_PROCESS_ROWS, WORKLOAD_ROWS
from gpuwarden.model.gpu import Lane, Missing, Value
from gpuwarden.model.mig import leaders
from gpuwarden.model.snapshot import POLL_BUCKETS, GpuState, NodeState

__all__ = ["POLLS_DURATION", "PREFIX", "Extras", "ProcessStats", "families", "finite"]

PREFIX = "gpuwarden_"


class Histogram(NamedTuple):
    """A family that no row can be of: its series are buckets."""

    name: str
    help: str
    labels: tuple[str, ...]


POLLS_DURATION = Histogram("poll_duration_seconds", "How long one lane of one GPU took to read.", ("lane",))


def families(node: NodeState, extras: Extras) -> Iterator[Metric]:
    """Yield every family that has something to say, as prometheus_client metrics, in a stable order.

    Both of prometheus_client's renderers take them: counters and info metrics carry the right name in either format.
    """
    gpus = tuple(node.gpus.values())
    for row in (*HOST_ROWS, *REMEDY_ROWS):
        yield from _filled(_family(PREFIX + row.name, row.help, row.labels), ((), row.values(node, extras)))
    yield _polls_duration(node)
    for gpu_row in (*GPU_ROWS, *WORKLOAD_ROWS, *(GPU_PROCESS_ROWS if extras.gpu_processes else ())):
        yield from _filled(
            _family(PREFIX + gpu_row.name, gpu_row.help, ("gpu", "uuid", *gpu_row.labels)),
            *((_labels(gpu), gpu_row.values(node, gpu)) for gpu in gpus),
            *_unclaimed(node, gpu_row.name),
        )
    shown = tuple((_labels(gpu), gpu.readings) for gpu in gpus if gpu.presence in SHOWN)
    for reading_row in READING_ROWS:
        yield from _filled(
            _family(PREFIX + reading_row.name, reading_row.help, ("gpu", "uuid", *reading_row.labels)),
            *((labels, reading_row.values(readings)) for labels, readings in shown),
        )
    yield from _mig(gpus)
    for incident_row in INCIDENT_ROWS:
        yield from _about_some(node, incident_row, node.incidents.values())
    for case_row in CASE_ROWS:
        yield from _about_some(node, case_row, node.remedy.cases.values())
    for row in PROCESS_ROWS:
        yield from _filled(_family(row.name, row.help, row.labels), ((), row.values(node, extras)))


_Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily | InfoMetricFamily
_Series: TypeAlias = tuple[tuple[str, ...], Iterable[Labelled]]


def _family(name: str, help_text: str, labels: tuple[str, ...]) -> _Family:
    """Return an empty family; its type follows from the name, as naming rules demand."""
    if name.endswith("_total"):
        return CounterMetricFamily(name, help_text, labels=labels)
    if name.endswith("_info"):
        return InfoMetricFamily(name.removesuffix("_info"), help_text, labels=labels)
    return GaugeMetricFamily(name, help_text, labels=labels)


def _labels(gpu: GpuState) -> tuple[str, str]:
    return str(gpu.index), gpu.identity.uuid


def _unclaimed(node: NodeState, family: str) -> Iterator[_Series]:
    """Yield the Xids of addresses at which no GPU is known: without an index, under the address for a uuid."""
    if family == "gpu_xid_errors_total":
        for address, counts in node.unclaimed_xids.items():
            yield ("", f"PCI-{address}"), [((str(row.xid), row.source), row.total) for row in counts]


def _filled(metric: _Family, *series: _Series) -> Iterator[_Family]:
    """Yield the family with these series added, or nothing where it stays empty."""
    for prefix, values in series:
        for labels, value in values:
            number = finite(value)
            if number is None:
                continue
            if isinstance(metric, InfoMetricFamily):
                metric.add_metric((*prefix, *labels), {})
            elif not isinstance(metric, CounterMetricFamily) or number >= 0:  # a negative count spoils a scrape
                metric.add_metric((*prefix, *labels), number)
    if metric.samples:
        yield metric


def finite(value: Value | None) -> float | None:
    """Return a number fit to be shown, or None. Adding zero turns a negative zero into zero."""
    if value is None or isinstance(value, Missing | tuple) or not math.isfinite(value):
        return None
    return value + 0.0


def _about_some(node: NodeState, row: IncidentRow | CaseRow, things: Iterable[Any]) -> Iterator[Metric]:
    """Yield a family of which some series carry a GPU's labels and others, about the host, carry none."""
    metric = GaugeMetricFamily(PREFIX + row.name, row.help)
    for thing in things:
        gpu = node.gpus.get(thing.uuid or "")
        values, value = row.values(thing)
        number = finite(value)
        if number is None or (thing.uuid and gpu is None):
            continue  # a forgotten GPU has no index to be shown under
        about = dict(zip(("gpu", "uuid"), _labels(gpu), strict=True)) if gpu else {}
        labels = about | dict(zip(row.labels, values, strict=True))
        metric.samples.append(Sample(metric.name, labels, number))
    if metric.samples:
        yield metric


def _mig(gpus: tuple[GpuState, ...]) -> Iterator[Metric]:
    """Yield the families about MIG instances; what they share stands on the first of each GPU instance."""
    shown = [(_labels(gpu), gpu.mig) for gpu in gpus if gpu.mig and gpu.presence in SHOWN]
    if not shown:
        return
    every = [(instance_labels(of, each), each) for of, instances in shown for each in instances]
    first = [(instance_labels(of, each), each) for of, instances in shown for each in leaders(instances)]
    for row in MIG_ROWS:
        yield from _filled(
            _family(PREFIX + row.name, row.help, (*INSTANCE_LABELS, *row.labels)),
            *((labels, row.values(each)) for labels, each in (first if row.shared else every)),
        )


def _polls_duration(node: NodeState) -> Metric:
    """Return the poll-duration histogram; its counts become cumulative here."""
    metric = HistogramMetricFamily(PREFIX + POLLS_DURATION.name, POLLS_DURATION.help, labels=POLLS_DURATION.labels)
    bounds = (*(repr(bound) for bound in POLL_BUCKETS), "+Inf")
    for lane in Lane:
        total, counts = node.poll_seconds.get(lane.value, (0.0, (0,) * len(bounds)))
        running = 0
        buckets = []
        for bound, count in zip(bounds, counts, strict=True):
            running += count
            buckets.append((bound, running))
        metric.add_metric((lane.value,), buckets, total)
    return metric
