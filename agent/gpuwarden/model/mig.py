"""One MIG instance of a partitioned GPU: who it is and what it last said. What the whole GPU has stays on the GPU."""

from __future__ import annotations

import msgspec

from gpuwarden.model.gpu import Missing, Scalar, Value

MOST_INSTANCES = 32
"""More than any product can be cut into; what a broken answer adds beyond is dropped."""
_UNREAD = Missing.UNKNOWN


class MigReading(msgspec.Struct, frozen=True, kw_only=True):
    """The latest readings of one instance in base units; names and reasons as in GpuReading.

    All but `multiprocessors` and `compute_slices` belong to the GPU instance as a whole: compute instances share them.
    """

    memory_used_bytes: Scalar = _UNREAD
    memory_free_bytes: Scalar = _UNREAD
    memory_size_bytes: Scalar = _UNREAD
    multiprocessors: Scalar = _UNREAD
    gpu_slices: Scalar = _UNREAD
    compute_slices: Scalar = _UNREAD
    ecc_corrected_volatile_sram: Scalar = _UNREAD
    ecc_uncorrected_volatile_sram: Scalar = _UNREAD
    graphics_activity_ratio: Scalar = _UNREAD
    sm_activity_ratio: Scalar = _UNREAD
    sm_occupancy_ratio: Scalar = _UNREAD
    integer_activity_ratio: Scalar = _UNREAD
    tensor_activity_ratio: Scalar = _UNREAD
    tensor_dfma_activity_ratio: Scalar = _UNREAD
    tensor_hmma_activity_ratio: Scalar = _UNREAD
    tensor_dmma_activity_ratio: Scalar = _UNREAD
    tensor_imma_activity_ratio: Scalar = _UNREAD
    dram_activity_ratio: Scalar = _UNREAD
    fp64_activity_ratio: Scalar = _UNREAD
    fp32_activity_ratio: Scalar = _UNREAD
    fp16_activity_ratio: Scalar = _UNREAD

    def value(self, field: str) -> Value:
        """Return one reading by its field name. Raises: AttributeError for a name that is not a reading."""
        found: Value = getattr(self, field)
        return found


MIG_READINGS: tuple[str, ...] = tuple(MigReading.__struct_fields__)


class MigInstance(msgspec.Struct, frozen=True, kw_only=True):
    """A compute instance `ci` in a GPU instance `gi`. Ids are used again at once when a GPU is partitioned anew.

    `profile` is as the driver names it (`3g.40gb`, `1c.3g.40gb`), "" where it does not; `placement` is where in the
    GPU's memory slices the GPU instance lies (first, number), None where the driver does not say.
    """

    gi: int
    ci: int
    uuid: str
    profile: str = ""
    placement: tuple[int, int] | None = None
    readings: MigReading = MigReading()


def leaders(instances: tuple[MigInstance, ...]) -> tuple[MigInstance, ...]:
    """Return the first compute instance of each GPU instance: it stands for what the others share with it."""
    first: dict[int, MigInstance] = {}
    for instance in instances:
        known = first.get(instance.gi)
        if known is None or instance.ci < known.ci:
            first[instance.gi] = instance
    return tuple(first.values())
