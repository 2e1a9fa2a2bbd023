"""GPM through pynvml: pairs of samples, their rotation, what is absent and why, and who owns the PCIe figure."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pynvml
import pytest
from msgspec.structs import replace

from gpuwarden.model.gpu import Lane, Missing, Value
from gpuwarden.nvml.driver import GPM_LANE, GpuMemory, read_lane
from gpuwarden.nvml.gpm import ACTIVITY, METRICS, NVLINK, PCIE, free
from gpuwarden.nvml.session import close_session, handle_of, open_session
from gpuwarden.nvml.threads import GpuThread, PcieThread
from gpuwarden.nvml.wire import PROTOCOL, FromWorker, Sample, Start, encode, read_frame
from gpuwarden.sim.inprocess import InProcess
from gpuwarden.sim.nvml import SimLibrary
from gpuwarden.sim.products import products
from gpuwarden.sim.world import World
from support.fakenvml import FakeLibrary, library

TESTS = Path(__file__).parents[1]
NAMES = {row.reading for row in METRICS}


class Node:
    """One simulated card behind pynvml, and the memory of the thread that reads it."""

    def __init__(self, world: World, lib: SimLibrary) -> None:
        self.world = world
        self.lib = lib
        self.pauses: list[float] = []
        self.memory = GpuMemory(pause=self.pauses.append)

    def look(self) -> dict[str, Value]:
        """Read the lane that GPM is in."""
        result = read_lane(handle_of(0)[0], GPM_LANE, self.memory)
        assert (result.fault, result.rejected) == (None, ())
        return result.values


@contextmanager
def node(product: str) -> Iterator[Node]:
    """A card with an open session."""
    world = World(products()[product], 1)
    lib = SimLibrary(InProcess(world))
    with library(lib):
        assert open_session().code == 0
        yield Node(world, lib)
        close_session()


def test_a_look_gives_the_average_since_the_last() -> None:
    """The pair is rotated: each look covers all the time since the one before, and nothing earlier."""
    with node("h100") as h100:
        h100.look()
        h100.world.advance(10.0)
        assert h100.look()["sm_activity_ratio"] == pytest.approx(0.94)
        h100.world.advance(5.0)
        h100.world.cards[0].load.point = "idle"
        h100.world.advance(5.0)
        assert h100.look()["sm_activity_ratio"] == pytest.approx(0.47)
        h100.world.advance(10.0)
        values = h100.look()
        assert {values[row.reading] for row in ACTIVITY} == {0.0}


def test_units_are_base_units() -> None:
    """Percent become ratios, MiB bytes; what the GPU sends and receives is not mixed up."""
    with node("h100") as h100:
        point = h100.world.cards[0].point
        h100.look()
        h100.world.advance(10.0)
        values = h100.look()
    assert values["pcie_rx_bytes_per_second"] == pytest.approx(point.pcie_bytes_per_second)
    assert values["pcie_tx_bytes_per_second"] == pytest.approx(0.12 * point.pcie_bytes_per_second)
    assert values["nvlink_tx_bytes_per_second"] == pytest.approx(point.nvlink_bytes_per_second)
    assert values["nvlink_rx_bytes_per_second"] == pytest.approx(0.97 * point.nvlink_bytes_per_second)


def test_two_samples_are_at_least_100_ms_apart() -> None:
    """The first look waits between its two samples; one that follows too soon waits, a later one does not."""
    with node("h100") as h100:
        h100.look()
        h100.look()
        assert [0.1 < pause < 0.12 for pause in h100.pauses] == [True, True]
        kept = h100.memory.samples[None]
        h100.memory.samples[None] = kept._replace(at=kept.at - 1.0)
        h100.look()
        assert len(h100.pauses) == 2


@pytest.mark.parametrize("product", ["rtx4090", "a100", "l40s", "t4"])
def test_a_card_without_gpm_is_asked_once_in_a_session(product: str) -> None:
    """All of it is not supported, PCIe traffic is left to the sampling, and no buffer is ever made."""
    with node(product) as card:
        for _ in range(2):
            values = card.look()
            assert {values.get(row.reading) for row in (*ACTIVITY, *NVLINK)} == {Missing.NOT_SUPPORTED}
            assert not {row.reading for row in PCIE} & values.keys()
        assert "nvmlGpmQueryDeviceSupport" in card.memory.unsupported
        assert card.pauses == []
        assert not card.lib.buffers.held


def test_a_geforce_that_has_gpm_is_read_by_its_answer_not_by_its_name() -> None:
    """Blackwell GeForce: activity and PCIe traffic, no NVLink; nothing but the driver's own word decides."""
    world = World(replace(products()["rtx4090"], architecture=10), 1)
    with library(SimLibrary(InProcess(world))):
        assert open_session().code == 0
        values = read_lane(handle_of(0)[0], GPM_LANE, GpuMemory(pause=lambda _: None)).values
        close_session()
    assert values["sm_activity_ratio"] == pytest.approx(0.94)
    assert {values[row.reading] for row in NVLINK} == {Missing.NOT_SUPPORTED}
    assert isinstance(values["pcie_rx_bytes_per_second"], float)


def test_buffers_are_given_back() -> None:
    """Two buffers per GPU for the whole session, none after it; one that a call is using is left alone."""
    with node("h100") as h100:
        for _ in range(3):
            h100.look()
        assert len(h100.lib.buffers.held) == 2
        with h100.memory.sampling:
            free(h100.memory)
        assert len(h100.lib.buffers.held) == 2
        free(h100.memory)
        assert not h100.lib.buffers.held


class GpmLibrary(FakeLibrary):
    """A library whose GPM works, and answers each metric as `metrics` says: a value or a code for each id."""

    def __init__(self, metrics: dict[int, float | int], **codes: int) -> None:
        self.asked: list[list[int]] = []
        self.answers = metrics
        super().__init__(
            {
                "nvmlGpmQueryDeviceSupport": {"set": {"isSupportedDevice": 1}},
                "nvmlGpmSampleAlloc": 0,
                "nvmlGpmSampleFree": 0,
                "nvmlGpmSampleGet": 0,
                "nvmlGpmMetricsGet": self._metrics,
                **codes,
            },
            fields={},
        )

    def _metrics(self, out: Any) -> int:
        request = out._obj
        entries = request.metrics[: request.numMetrics]
        self.asked.append([entry.metricId for entry in entries])
        for entry in entries:
            answer = self.answers.get(entry.metricId, 3)
            if isinstance(answer, float):
                entry.nvmlReturn, entry.value = 0, answer
            elif answer >= 0:
                entry.nvmlReturn = answer
        return 0


def look(fake: FakeLibrary, memory: GpuMemory | None = None) -> dict[str, Value]:
    """Read GPM's lane of the fake library, PCIe traffic included where GPM gives it."""
    with library(fake):
        result = read_lane(object(), GPM_LANE, memory or GpuMemory(pause=lambda _: None))
    assert result.fault is None
    return {name: value for name, value in result.values.items() if name in NAMES}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        pytest.param(50.0, 0.5, id="a-number"),
        pytest.param(0.0, 0.0, id="nothing-done-is-a-number"),
        pytest.param(100.4, pytest.approx(1.004), id="a-little-over"),
        pytest.param(math.nan, Missing.UNKNOWN, id="nan-is-no-data"),
        pytest.param(math.inf, Missing.IMPLAUSIBLE, id="infinity"),
        pytest.param(-1.0, Missing.IMPLAUSIBLE, id="negative"),
        pytest.param(4e9, Missing.IMPLAUSIBLE, id="nonsense"),
        pytest.param(3, Missing.NOT_SUPPORTED, id="not-supported"),
        pytest.param(2, Missing.NOT_SUPPORTED, id="an-older-driver-does-not-know-the-id"),
        pytest.param(4, Missing.NO_PERMISSION, id="refused"),
        pytest.param(27, Missing.UNKNOWN, id="not-ready"),
        pytest.param(-1, Missing.UNKNOWN, id="left-untouched-is-no-success"),
    ],
)
def test_each_metric_has_its_own_answer(answer: float, value: object) -> None:
    """One metric's failure is its own: its neighbour has its number."""
    values = look(GpmLibrary({2: answer, 3: 30.0}))
    assert values["sm_activity_ratio"] == value
    assert values["sm_occupancy_ratio"] == pytest.approx(0.3)


def test_a_metric_that_is_not_supported_is_not_asked_again() -> None:
    """Remembered for the session; the others are asked on."""
    fake, memory = GpmLibrary({2: 50.0, 10: 20.0}), GpuMemory(pause=lambda _: None)
    look(fake, memory)
    values = look(fake, memory)
    assert [len(fake.asked[0]), fake.asked[1]] == [len(METRICS), [2, 10]]
    assert values["fp64_activity_ratio"] is Missing.NOT_SUPPORTED
    assert values["dram_activity_ratio"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("codes", "value"),
    [
        ({"nvmlGpmQueryDeviceSupport": 3}, Missing.NOT_SUPPORTED),
        ({"nvmlGpmQueryDeviceSupport": 4}, Missing.NO_PERMISSION),
        ({"nvmlGpmSampleAlloc": 20}, Missing.UNKNOWN),
        ({"nvmlGpmSampleGet": 3}, Missing.NOT_SUPPORTED),
        ({"nvmlGpmSampleGet": 4}, Missing.NO_PERMISSION),
        ({"nvmlGpmMetricsGet": 999}, Missing.UNKNOWN),
    ],
)
def test_a_step_that_fails_says_why(codes: dict[str, int], value: Missing) -> None:
    """No step's failure is a number, and none harms the other readings of the lane."""
    values = look(GpmLibrary({2: 50.0}, **codes))
    assert values == dict.fromkeys(NAMES - {row.reading for row in PCIE}, value)


def test_a_lost_gpu_ends_the_lane() -> None:
    """A code about the whole GPU comes back as its fault, as from any other call."""
    with library(GpmLibrary({}, nvmlGpmSampleGet=15)):
        result = read_lane(object(), GPM_LANE, GpuMemory(pause=lambda _: None))
    assert (result.fault, result.where) == (15, "nvmlGpmSampleGet")


def test_pcie_traffic_has_one_source_at_a_time() -> None:
    """GPM's from its first number on, failures included; the sampling's again once GPM can no more."""
    fake, memory = GpmLibrary({20: math.nan, 21: math.nan}), GpuMemory(pause=lambda _: None)

    def traffic() -> list[Value | None]:
        values = look(fake, memory)
        return [values.get(row.reading) for row in PCIE]

    assert (traffic(), memory.pcie_from_gpm) == ([None, None], False)
    fake.answers = {20: 1.0, 21: 2.0}
    assert (traffic(), memory.pcie_from_gpm) == ([1 << 20, 2 << 20], True)
    fake.answers = {20: math.nan, 21: math.nan}
    assert (traffic(), memory.pcie_from_gpm) == ([Missing.UNKNOWN] * 2, True)
    fake.answers = {}
    assert (traffic(), memory.pcie_from_gpm) == ([Missing.NOT_SUPPORTED] * 2, False)
    assert (traffic(), memory.pcie_from_gpm) == ([None, None], False)


def test_nothing_is_sampled_for_20_ms_where_gpm_tells() -> None:
    """The PCIe thread goes on, and samples again once it has to."""
    told = threading.Event()
    messages: list[FromWorker] = []

    def tell(message: FromWorker) -> None:
        messages.append(message)
        told.set()

    fake = FakeLibrary({"nvmlDeviceGetPcieThroughput": {"out": 7}})
    start = Start(protocol=PROTOCOL, fast=1.0, normal=10.0, slow=60.0, pcie=0.01)
    gpu = CountingGpu(start, tell)
    gpu.memory.pcie_from_gpm = True
    with library(fake):
        thread = PcieThread(gpu, object(), period=0.01, tell=tell)
        thread.start()
        assert gpu.asked_often.wait(10.0)
        assert fake.calls == []
        gpu.memory.pcie_from_gpm = False
        assert told.wait(10.0)
        thread.retire()
        thread.join(10.0)
    assert isinstance(messages[0], Sample)
    assert (messages[0].lane, messages[0].values["pcie_tx_bytes_per_second"]) == (Lane.PCIE, 7 * 1024)


async def test_a_worker_that_ends_gives_its_buffers_back() -> None:
    """At the end of its stdin, before the session goes with the process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "support.gpmworker",
        cwd=TESTS, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(30):
        process.stdin.write(encode(Start(protocol=PROTOCOL, fast=1.0, normal=10.0, slow=60.0, pcie=10.0)))
        while not (isinstance(message := await read_frame(process.stdout), Sample) and message.lane is GPM_LANE):
            assert message is not None
        assert isinstance(message.values["sm_activity_ratio"], float)
        process.stdin.close()
        assert await process.stderr.read() == b"freed\n" * 2
        assert await process.wait() == 0


class CountingGpu(GpuThread):
    """A GPU thread that is not started, and counts how often it is asked whether it is quiet."""

    def __init__(self, start: Start, tell: Callable[[FromWorker], None]) -> None:
        super().__init__(0, start, tell, lambda *_: None, lambda _: None)
        self.times = 0
        self.asked_often = threading.Event()

    def is_quiet(self) -> bool:
        """Return no, and note the question."""
        self.times += 1
        if self.times >= 5:
            self.asked_often.set()
        return False


def test_pynvml_has_the_shape_we_rely_on() -> None:
    """All metrics of the table fit into one request."""
    assert max(row.id for row in METRICS) < pynvml.NVML_GPM_METRIC_MAX
    assert len({row.id for row in METRICS}) == len({row.reading for row in METRICS}) == len(METRICS)
