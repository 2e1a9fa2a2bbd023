"""What the simulated driver says of a partitioned card and of each of its instances."""

from __future__ import annotations

import msgspec

from gpuwarden.sim import gpm, mig
from gpuwarden.sim.answers import Answers
from gpuwarden.sim.card import Card
from gpuwarden.sim.gpm import GpmSheet
from gpuwarden.sim.mig import Instance

_D = "nvmlDeviceGet"
_MOST = 7
_MEBI = 1 << 20
_SRAM = 7
_NOT_OF_A_PARENT = (  # what a card in MIG mode does not say. Source: nvidia-smi capture of an H100 with MIG
    _D + "UtilizationRates",
    _D + "EncoderUtilization",
    _D + "DecoderUtilization",
    _D + "JpgUtilization",
    _D + "OfaUtilization",
    _D + "RemappedRows",
    *(f"FI:{field}" for field in range(142, 146)),
)


class InstanceSheet(msgspec.Struct, frozen=True, array_like=True):
    """What the driver says of one instance. `start` and `size` are its place in the memory slices."""

    uid: int
    gi: int
    start: int
    size: int
    answers: Answers
    gpm: GpmSheet | None


def mark(card: Card, found: Answers) -> None:
    """Put what MIG changes about a card's own answers into them."""
    if not card.product.mig:
        return
    on = card.mig.enabled
    found[_D + "MigMode"] = [int(on), int(on)]
    found[_D + "MaxMigDeviceCount"] = _MOST if on else 0
    if on:
        for key in _NOT_OF_A_PARENT:
            found.pop(key, None)


def sheets(card: Card) -> list[InstanceSheet]:
    """Return the sheets of a card's instances, in the order of NVML's MIG indices."""
    return [_sheet(card, instance) for instance in card.mig.instances]


def _sheet(card: Card, instance: Instance) -> InstanceSheet:
    sample = None
    if gpm.has_gpm(card):
        now = gpm.Totals(1.0, gpm.work_of(card))
        sample = GpmSheet(instance.totals.seconds, gpm.work(instance.totals), gpm.work(now))
    return InstanceSheet(instance.uid, instance.gi, instance.start, instance.size, _answers(card, instance), sample)


def _answers(card: Card, instance: Instance) -> Answers:
    share = mig.memory_share(instance)
    size, used = round(card.product.memory_size_bytes * share), round(card.share("memory_used_bytes") * share)
    reserved = round(card.product.memory_reserved_bytes * share)
    free = max(0, size - reserved - used)
    found: Answers = {
        _D + "UUID": mig.uuid_of(card, instance),
        _D + "Name": f"{card.product.name} MIG {instance.profile}",
        _D + "GpuInstanceId": instance.gi,
        _D + "ComputeInstanceId": 0,
        _D + "MemoryInfo": {"total": size, "free": free, "used": used + reserved},
        _D + "MemoryInfo_v2": {"total": size, "reserved": reserved, "free": free, "used": used},
        _D + "Attributes_v2": {
            "multiprocessorCount": mig.multiprocessors(card, instance),
            "gpuInstanceSliceCount": instance.compute,
            "computeInstanceSliceCount": instance.compute,
            "memorySizeMB": size // _MEBI,
        },
    }
    if card.product.ecc == "on":
        first = instance is card.mig.instances[0]  # the simulated SRAM errors are all in one place
        for kind, counted in enumerate((card.counters.corrected, card.counters.uncorrected)):
            found[f"{_D}MemoryErrorCounter:{kind}:0:{_SRAM}"] = int(counted["sram"]) if first else 0
    return found
