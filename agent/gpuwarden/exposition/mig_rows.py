"""Metric rows about MIG instances: families of their own, so that a sum over a GPU family never counts twice.

What a GPU instance has as a whole stands on its first compute instance only, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from gpuwarden.exposition.reading_rows import ACTIVITY_UNITS
from gpuwarden.exposition.rows import Labelled
from gpuwarden.model.mig import MigInstance

INSTANCE_LABELS = ("gpu", "uuid", "gi", "ci", "profile")


def instance_labels(gpu: tuple[str, str], instance: MigInstance) -> tuple[str, ...]:
    """Return the values of the labels of one instance of a GPU (index, uuid)."""
    return (*gpu, str(instance.gi), str(instance.ci), instance.profile)


class MigRow(NamedTuple):
    """One family about each MIG instance. `shared`: of the GPU instance, shown on its first compute instance."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[MigInstance], Iterable[Labelled]]
    shared: bool = True


def _each(**fields: str) -> Callable[[MigInstance], Iterable[Labelled]]:
    pairs = tuple(((label,), field) for label, field in fields.items())
    return lambda instance: [(labels, instance.readings.value(field)) for labels, field in pairs]


def _one(field: str) -> Callable[[MigInstance], Iterable[Labelled]]:
    return lambda instance: (((), instance.readings.value(field)),)


def _info(instance: MigInstance) -> Iterable[Labelled]:
    place = "" if instance.placement is None else f"{instance.placement[0]}:{instance.placement[1]}"
    yield (instance.uuid, place), 1


MIG_ROWS: tuple[MigRow, ...] = (
    MigRow(
        "mig_info",
        "Who the MIG instance is, and where in the memory slices it lies (first:number).",
        ("mig_uuid", "placement"),
        _info,
        shared=False,
    ),
    MigRow(
        "mig_memory_bytes",
        "Frame buffer of the instance by state.",
        ("state",),
        _each(used="memory_used_bytes", free="memory_free_bytes"),
    ),
    MigRow("mig_memory_size_bytes", "Size of the instance's frame buffer.", (), _one("memory_size_bytes")),
    MigRow(
        "mig_multiprocessors",
        "Streaming multiprocessors of the compute instance.",
        (),
        _one("multiprocessors"),
        shared=False,
    ),
    MigRow("mig_gpu_slices", "Compute slices of the GPU instance.", (), _one("gpu_slices")),
    MigRow("mig_compute_slices", "Compute slices of the compute instance.", (), _one("compute_slices"), shared=False),
    MigRow(
        "mig_ecc_errors_total",
        "ECC errors in the instance since the driver loaded.",
        ("type", "memory"),
        lambda instance: [
            (("corrected", "sram"), instance.readings.ecc_corrected_volatile_sram),
            (("uncorrected", "sram"), instance.readings.ecc_uncorrected_volatile_sram),
        ],
    ),
    MigRow(
        "mig_activity_ratio",
        "How busy a part of the instance was, by GPM: the average between two looks; 1 = all of it all the time.",
        ("unit",),
        _each(**ACTIVITY_UNITS),
    ),
)
