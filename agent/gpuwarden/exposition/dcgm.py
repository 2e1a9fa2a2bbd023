"""The metrics under dcgm-exporter's names: NodeState -> the text exposition, byte for byte in its form.

The dialect is that of dcgm-exporter up to 4.5.3-4.8.2, which every public dashboard and alert set still uses: names and
units of DCGM 4.5, `Hostname`, types as the counters file has them. docs/dcgm.md says what differs and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from gpuwarden.exposition.dcgm_events import EVENT_ROW_BY_KEY, EventRow, Labels
from gpuwarden.exposition.dcgm_fields import Counter, default_counters
from gpuwarden.exposition.dcgm_pods import pod_labels
from gpuwarden.exposition.dcgm_rows import ROW_BY_KEY, Cell, Row, bus_id
from gpuwarden.exposition.dcgm_subject import Subject, subjects_of
from gpuwarden.exposition.gpu_rows import SHOWN
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.tally import NO_INSTANCE


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How the dcgm names are shown. `host_label` "" leaves the host out; `jobs` is by `gpu` or `gpu.instance`."""

    counters: tuple[Counter, ...]
    host: str = ""
    host_label: str = "Hostname"
    replace_blanks: bool = False
    jobs: dict[str, tuple[str, ...]] = {}


def default_dialect(host: str = "") -> Dialect:
    """Return the dialect with the default set of counters."""
    return Dialect(counters=default_counters(), host=host)


def without_source(counters: tuple[Counter, ...]) -> tuple[str, ...]:
    """Return the names in a counters file that are right, but for which this product has no reading."""
    return tuple(each.name for each in counters if each.key not in ROW_BY_KEY and each.key not in EVENT_ROW_BY_KEY)


class _Series(NamedTuple):
    """A subject under one set of labels: a GPU that works for two jobs is shown twice."""

    subject: Subject
    labels: str  # rendered, without braces
    leading: str  # the part before the attributes
    attributes: Labels  # sorted by name


def render(node: NodeState, dialect: Dialect) -> bytes:
    """Return the exposition. A family nobody has a sample for is left out, with its HELP and TYPE."""
    rows = ((each.name, ROW_BY_KEY.get(each.key)) for each in dialect.counters if each.type == "label")
    label_rows = sorted((name, row) for name, row in rows if row is not None)
    answering = [series for subject in _subjects(node) for series in _series(subject, dialect, label_rows)]
    eventful = [
        series
        for subject in _subjects(node, answering=False)
        if subject.gpu.xid_tallies
        for series in _series(subject, dialect, label_rows)
    ]
    lines: list[str] = []
    for counter in dialect.counters:
        if counter.type == "label":
            continue
        samples = list(_samples(counter, answering, eventful))
        if samples:
            lines.append(f"# HELP {counter.name} {_escaped_help(counter.help)}\n# TYPE {counter.name} {counter.type}\n")
            lines += samples
    return "".join(lines).encode()


def _subjects(node: NodeState, *, answering: bool = True) -> Iterator[Subject]:
    for gpu in node.gpus.values():
        if (gpu.presence in SHOWN) is answering:
            yield from subjects_of(node, gpu)


def _series(subject: Subject, dialect: Dialect, label_rows: list[tuple[str, Row]]) -> Iterator[_Series]:
    gpu = subject.gpu
    name = gpu.identity.name.replace(" ", "-") if dialect.replace_blanks else gpu.identity.name
    leading = [
        ("gpu", str(gpu.index)),
        ("UUID", gpu.identity.uuid),
        ("pci_bus_id", bus_id(gpu.identity.bdf)),
        ("device", f"nvidia{gpu.index}"),
        ("modelName", name),
    ]
    if subject.instance != NO_INSTANCE:
        leading += [("GPU_I_PROFILE", subject.profile), ("GPU_I_ID", str(subject.instance))]
    if dialect.host_label and dialect.host:
        leading.append((dialect.host_label, dialect.host))
    leading += [(label, text) for label, row in label_rows if (text := _text(row.value(subject)))]
    head = _rendered(tuple(leading))
    pods = pod_labels(subject)
    for job in dialect.jobs.get(subject.place) or ("",):
        attributes = tuple(sorted((*pods, ("hpc_job", job)))) if job else pods
        labels = head + ("," + _rendered(attributes) if attributes else "")
        yield _Series(subject, labels, head, attributes)


def _samples(counter: Counter, answering: list[_Series], eventful: list[_Series]) -> Iterator[str]:
    row = ROW_BY_KEY.get(counter.key)
    if row is not None:
        for series in answering:
            value = row.value(series.subject)
            if value is not None and not isinstance(value, str):
                yield f"{counter.name}{{{series.labels}}} {_text(value)}\n"
        return
    event_row = EVENT_ROW_BY_KEY.get(counter.key)
    if event_row is not None:
        yield from _event_samples(counter.name, event_row, [*answering, *eventful])


def _event_samples(name: str, row: EventRow, all_series: list[_Series]) -> Iterator[str]:
    for series in all_series:
        for labels, count in row.samples(series.subject):
            attributes = _rendered(tuple(sorted((*series.attributes, *labels))))
            joined = f"{series.leading},{attributes}" if attributes else series.leading
            yield f"{name}{{{joined}}} {count}\n"


def _text(value: Cell) -> str:
    """Return a value as the exporter prints it: whole numbers plain, others with six decimals, "" for none."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:f}" if isinstance(value, float) else str(value)


def _rendered(labels: Labels) -> str:
    return ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
