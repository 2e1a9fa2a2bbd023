"""MIG through pynvml: instances, what stays on the parent, and being partitioned anew while we look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gpuwarden.model.gpu import Lane, Missing, Value
from gpuwarden.model.mig import MIG_READINGS, MOST_INSTANCES, MigInstance, leaders
from gpuwarden.nvml.driver import GpuMemory, LaneResult, read_lane
from gpuwarden.nvml.gpm import ACTIVITY, PCIE
from gpuwarden.nvml.mig import fingerprints
from gpuwarden.nvml.session import close_session, handle_of, open_session
from gpuwarden.sim.inprocess import InProcess
from gpuwarden.sim.nvml import SimLibrary
from gpuwarden.sim.products import products
from gpuwarden.sim.world import World
from support.fakenvml import FakeLibrary, library

PARENT_HAS_NOT = {
    "gpu_utilization_ratio",
    "memory_utilization_ratio",
    "encoder_utilization_ratio",
    "decoder_utilization_ratio",
    "jpeg_utilization_ratio",
    "ofa_utilization_ratio",
    "remapped_rows_corrected",
    "row_remap_pending",
}


class Node:
    """One simulated card behind pynvml, and the memory of the thread that reads it."""

    def __init__(self, world: World, lib: SimLibrary) -> None:
        self.world = world
        self.lib = lib
        self.memory = GpuMemory(pause=lambda _: None)

    def look(self) -> LaneResult:
        """Read the lane that MIG is in."""
        result = read_lane(handle_of(0)[0], Lane.NORMAL, self.memory)
        assert (result.fault, result.rejected) == (None, ())
        return result

    def after(self, seconds: float) -> LaneResult:
        """Let time pass, and look."""
        self.world.advance(seconds)
        return self.look()

    def cut(self, profiles: str) -> None:
        """Partition the card anew."""
        self.world.inject("mig", 0, {"profiles": profiles})

    def all_lanes(self) -> dict[str, Value]:
        """Read everything of the parent."""
        values: dict[str, Value] = {}
        for lane in Lane:
            values |= read_lane(handle_of(0)[0], lane, self.memory).values
        return values


@contextmanager
def node(product: str = "h100", mig: tuple[str, ...] = ()) -> Iterator[Node]:
    """A card with an open session."""
    world = World(products()[product], 1, mig=mig)
    lib = SimLibrary(InProcess(world))
    with library(lib):
        assert open_session().code == 0
        yield Node(world, lib)
        close_session()


def ids(result: LaneResult) -> list[tuple[int, str]]:
    """Return GPU instance and profile of each instance."""
    return [(each.gi, each.profile) for each in result.instances or ()]


def activity(result: LaneResult, gi: int) -> object:
    """Return the SM activity of a GPU instance."""
    return next(each.readings.sm_activity_ratio for each in result.instances or () if each.gi == gi)


def test_instances_say_who_they_are_and_what_they_have() -> None:
    """Ids, profile, place, memory, size, SRAM errors, activity."""
    with node(mig=("3g.40gb", "1g.10gb")) as h100:
        h100.look()
        result = h100.after(10.0)
        big, small = result.instances or ()
    assert (big.gi, big.ci, big.profile, big.placement) == (1, 0, "3g.40gb", (0, 4))
    assert (small.gi, small.ci, small.profile, small.placement) == (7, 0, "1g.10gb", (4, 1))
    assert big.uuid.startswith("MIG-") and big.uuid != small.uuid
    assert (big.readings.multiprocessors, big.readings.gpu_slices, big.readings.compute_slices) == (60, 3, 3)
    assert big.readings.memory_size_bytes == h100.world.cards[0].product.memory_size_bytes // 2
    assert big.readings.ecc_uncorrected_volatile_sram == 0
    assert big.readings.sm_activity_ratio == pytest.approx(0.94)
    assert {name for name in MIG_READINGS if isinstance(big.readings.value(name), Missing)} == set()
    assert result.values["mig_instances"] == 2


def test_the_parent_keeps_its_readings_and_loses_what_mig_takes() -> None:
    """Heat, power, clocks and ECC stay; utilisation, its own activity and remap counts are not supported."""
    with node() as h100:
        whole = h100.all_lanes()
        h100.cut("3g.40gb,3g.40gb")
        h100.look()
        parent = h100.all_lanes()
    lost = {name for name in whole if parent[name] is Missing.NOT_SUPPORTED} - {
        name for name in whole if whole[name] is Missing.NOT_SUPPORTED
    }
    nvlink_rates = {"nvlink_tx_bytes_per_second", "nvlink_rx_bytes_per_second"}
    assert lost >= PARENT_HAS_NOT | {row.reading for row in ACTIVITY}
    assert lost - PARENT_HAS_NOT - {row.reading for row in ACTIVITY} - nvlink_rates <= {
        "remapped_rows_uncorrected",
        "row_remap_failed",
    }
    assert parent["mig_mode"] == 1


def test_mode_that_flips_changes_what_is_supported_and_who_gives_pcie_traffic() -> None:
    """On: the 20 ms sampling has to do it; off again: GPM, whose lack is not remembered across the change."""
    with node() as h100:
        h100.look()
        assert h100.memory.pcie_from_gpm
        h100.cut("7g.80gb")
        on = h100.after(10.0)
        assert {on.values[row.reading] for row in PCIE} == {Missing.NOT_SUPPORTED}
        assert not h100.memory.pcie_from_gpm
        assert not {row.reading for row in PCIE} & h100.after(10.0).values.keys()
        h100.cut("")
        h100.after(10.0)
        off = h100.after(10.0)
    assert (off.instances, off.values["mig_instances"]) == ((), 0)
    assert off.values["sm_activity_ratio"] == pytest.approx(0.94)
    assert h100.memory.pcie_from_gpm


def test_an_instance_made_anew_with_the_same_id_is_another_one() -> None:
    """Its totals begin at 0: no difference is taken against those of the instance that had the id before."""
    with node(mig=("2g.20gb", "2g.20gb")) as h100:
        h100.look()
        before = h100.after(100.0)
        uuids = {each.gi: each.uuid for each in before.instances or ()}
        kept = dict(h100.memory.samples)
        h100.cut("3g.40gb,1g.10gb,2g.20gb")
        h100.world.cards[0].load.point = "idle"
        anew = h100.after(10.0)
        assert {each.gi: each.uuid for each in anew.instances or ()}[3] == uuids[3]
        assert anew.rejected == ()
        assert activity(anew, 3) == 0.0
        assert h100.memory.samples[3].fingerprint != kept[3].fingerprint
        assert 4 not in h100.memory.samples
        assert len(h100.lib.buffers.held) == 2 * 3
        assert activity(h100.after(10.0), 3) == 0.0


def test_instances_that_went_are_gone_with_the_next_look() -> None:
    """Rows and sample buffers of what was removed do not stay."""
    with node(mig=("3g.40gb", "1g.10gb")) as h100:
        assert ids(h100.look()) == [(1, "3g.40gb"), (7, "1g.10gb")]
        h100.cut("1g.10gb")
        assert ids(h100.look()) == [(7, "1g.10gb")]
        assert set(h100.memory.samples) == {7}


def test_a_card_without_mig_has_no_instances_and_no_count() -> None:
    """Not supported is not 0."""
    with node("rtx4090") as card:
        result = card.look()
    assert (result.instances, result.values["mig_instances"]) == ((), Missing.NOT_SUPPORTED)


def test_mig_without_gpm_has_everything_but_activity() -> None:
    """An A100 has instances; GPM came later."""
    with node("a100", mig=("1g.10gb",)) as a100:
        (only,) = a100.look().instances or ()
    assert only.readings.multiprocessors == 14
    assert only.readings.sm_activity_ratio is Missing.NOT_SUPPORTED


class MigLibrary(FakeLibrary):
    """A card in MIG mode with `count` instances, whose functions answer as a test says."""

    def __init__(self, count: int, **functions: Any) -> None:
        def mode(_: Any, current: Any, pending: Any) -> int:
            current._obj.value = pending._obj.value = 1
            return 0

        self.instance = 0
        super().__init__(
            {
                "nvmlDeviceGetMigMode": mode,
                "nvmlDeviceGetMaxMigDeviceCount": {"out": count},
                "nvmlDeviceGetMigDeviceHandleByIndex": 0,
                "nvmlDeviceGetGpuInstanceId": self._next,
                "nvmlDeviceGetComputeInstanceId": {"out": 0},
                "nvmlDeviceGetUUID": 0,
                **functions,
            },
            fields={},
        )

    def _next(self, _: Any, out: Any) -> int:
        out._obj.value = self.instance
        self.instance += 1
        return 0


def look(fake: FakeLibrary) -> LaneResult:
    """Read the lane of the fake library."""
    with library(fake):
        return read_lane(object(), Lane.NORMAL, GpuMemory(pause=lambda _: None))


def test_what_an_instance_does_not_say_is_absent_with_its_reason() -> None:
    """An instance with nothing but ids is still a row; its name is not guessed."""
    result = look(MigLibrary(1, nvmlDeviceGetAttributes_v2=4))
    (only,) = result.instances or ()
    assert (only.profile, only.placement) == ("", None)
    assert only.readings.multiprocessors is Missing.NO_PERMISSION
    assert only.readings.memory_used_bytes is Missing.NOT_SUPPORTED
    assert only.readings.sm_activity_ratio is Missing.NOT_SUPPORTED


@pytest.mark.parametrize("code", [1, 2, 6, 28, 999])
def test_an_instance_that_vanishes_while_we_look_harms_nobody(code: int) -> None:
    """A code about its handle is not about the GPU; the count is not known then."""
    fake = MigLibrary(3)
    first: Callable[[Any, Any], int] = fake._next

    def second_is_gone(handle: Any, out: Any) -> int:
        return code if first(handle, out) or out._obj.value == 1 else 0

    fake.functions["nvmlDeviceGetGpuInstanceId"] = second_is_gone
    result = look(fake)
    assert result.fault is None
    assert [each.gi for each in result.instances or ()] == [0, 2]
    assert isinstance(result.values["mig_instances"], Missing)


def test_a_refused_instance_makes_the_count_unknown() -> None:
    """Without permission for the handles there are no rows, and no 0 either."""
    result = look(MigLibrary(2, nvmlDeviceGetMigDeviceHandleByIndex=4))
    assert (result.instances, result.values["mig_instances"]) == ((), Missing.NO_PERMISSION)


def test_holes_among_the_indices_are_no_failures() -> None:
    """NOT_FOUND is an index without an instance."""
    result = look(MigLibrary(7, nvmlDeviceGetMigDeviceHandleByIndex=6))
    assert (result.instances, result.values["mig_instances"]) == ((), 0)


def test_a_lost_gpu_ends_the_look() -> None:
    """GPU_IS_LOST for a handle is about the GPU."""
    assert look(MigLibrary(2, nvmlDeviceGetMigDeviceHandleByIndex=15)).fault == 15


def test_the_number_of_instances_is_bounded() -> None:
    """A driver that promises a million is not believed."""
    assert len(look(MigLibrary(1_000_000)).instances or ()) == MOST_INSTANCES


def test_a_gpu_instance_is_told_by_its_place_and_its_names() -> None:
    """Same id, other place: another fingerprint. The first compute instance stands for its GPU instance."""
    here = MigInstance(gi=1, ci=0, uuid="MIG-a", profile="1c.2g.20gb", placement=(0, 2))
    there = MigInstance(gi=1, ci=0, uuid="MIG-a", profile="1c.2g.20gb", placement=(2, 2))
    beside = MigInstance(gi=1, ci=1, uuid="MIG-b", profile="1c.2g.20gb", placement=(0, 2))
    assert fingerprints((here,)) != fingerprints((there,))
    assert fingerprints((here,)) != fingerprints((here, beside))
    assert leaders((beside, here)) == (here,)
