"""What a sample of the dcgm dialect is about: a GPU, or an instance of a partitioned one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from gpuwarden.model.gpu import READINGS, GpuReading, Missing
from gpuwarden.model.mig import MIG_READINGS, leaders
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.tally import NO_INSTANCE

_OWN = tuple(
    name
    for name in MIG_READINGS
    if name in READINGS and (name.startswith("memory_") or name.endswith(("_activity_ratio", "_occupancy_ratio")))
)
"""Readings an instance has of its own; all others are the GPU's, repeated on each of its instances."""

_OF_NO_INSTANCES = tuple(f"{engine}_utilization_ratio" for engine in ("gpu", "memory", "encoder", "decoder"))
_COMPUTE_PART = re.compile(r"\d+c\.")


class Subject(NamedTuple):
    """A GPU with what it last said, or a GPU instance with its own readings in the place of the GPU's."""

    node: NodeState
    gpu: GpuState
    readings: GpuReading
    instance: int = NO_INSTANCE
    profile: str = ""

    @property
    def place(self) -> str:
        """Return `index`, or `index.instance`: what a job file of it is named."""
        whole = self.instance == NO_INSTANCE
        return str(self.gpu.index) if whole else f"{self.gpu.index}.{self.instance}"


def subjects_of(node: NodeState, gpu: GpuState) -> Iterator[Subject]:
    """Yield the GPU; for a partitioned one its GPU instances instead. Without any instance it stands for itself."""
    instances = sorted(leaders(gpu.mig), key=lambda instance: instance.gi)
    if not instances:
        yield Subject(node, gpu, gpu.readings)
    gone = dict.fromkeys(_OF_NO_INSTANCES, Missing.NOT_SUPPORTED)
    for instance in instances:
        own = {name: instance.readings.value(name) for name in _OWN}
        readings = replace(gpu.readings, **own, **gone, memory_reserved_bytes=0)
        yield Subject(node, gpu, readings, instance.gi, _COMPUTE_PART.sub("", instance.profile))
