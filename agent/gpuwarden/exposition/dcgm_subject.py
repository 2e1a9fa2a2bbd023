"""What a sample of the dcgm dialect is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gpuwarden.model.gpu import GpuReading
from gpuwarden.model.snapshot import GpuState, NodeState
from gpuwarden.model.tally import NO_INSTANCE


class Subject(NamedTuple):
    """A GPU with what it last said."""

    node: NodeState
    gpu: GpuState
    readings: GpuReading
    instance: int = NO_INSTANCE


def subjects_of(node: NodeState, gpu: GpuState) -> Iterator[Subject]:
    """Yield what a GPU is shown as."""
    yield Subject(node, gpu, gpu.readings)
