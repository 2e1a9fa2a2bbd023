"""What a row of the metric table is, and what it is evaluated on beside the node's state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import msgspec

from gpuwarden.model.case import Case
from gpuwarden.model.finding import Incident
from gpuwarden.model.gpu import GpuReading, Value
from gpuwarden.model.snapshot import GpuState, NodeState


class ProcessStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one of our processes costs; None where it could not be read."""

    cpu_seconds: float | None = None
    resident_bytes: int | None = None
    open_fds: int | None = None
    start_time: float | None = None  # wall


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """What the exposition shows beside the node's state. `processes` is keyed by "main" and "nvml-worker".

    `gpu_processes`: whether each process on a GPU has a series of its own.
    """

    version: str
    python: str
    nvml_binding: str
    mode: str = "shadow"
    hostname: str = ""
    labels: dict[str, str] = {}
    processes: dict[str, ProcessStats] = {}
    gpu_processes: bool = False


Labelled: TypeAlias = tuple[tuple[str, ...], Value | None]
"""Label values in the row's order, and the number; None or Missing leaves the series out."""


def flag(value: bool | None) -> tuple[Labelled]:
    """Return the one series of a yes-or-no family: 1, 0, or left out where it is not known."""
    return (((), None if value is None else int(value)),)


class Row(NamedTuple):
    """One family about the host."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[NodeState, Extras], Iterable[Labelled]]


class GpuRow(NamedTuple):
    """One family about each GPU of the inventory, whether it answers or not."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[NodeState, GpuState], Iterable[Labelled]]


class ReadingRow(NamedTuple):
    """One family of readings: shown only while the GPU answers."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[GpuReading], Iterable[Labelled]]


class IncidentRow(NamedTuple):
    """One family about open incidents: with the GPU's labels where the incident is about one."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[Incident], Labelled]


class CaseRow(NamedTuple):
    """One family about open cases: with the GPU's labels where the case is about one."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[Case], Labelled]
