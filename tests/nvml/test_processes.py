"""Which processes hold a GPU, through pynvml: the three lists joined, refusals, MIG instances."""

from __future__ import annotations

import ctypes
from typing import Any

import pynvml
import pytest

from gpuwarden.model.gpu import Missing
from gpuwarden.model.workload import GpuProcess, ProcessKind
from gpuwarden.nvml.driver import GpuMemory
from gpuwarden.nvml.processes import Listing, read_processes
from support.fakenvml import FakeLibrary, library

COMPUTE, GRAPHICS, MPS = (f"nvmlDeviceGet{name}RunningProcesses_v3" for name in ("Compute", "Graphics", "MPSCompute"))
NONE = 0xFFFFFFFF
UNSAID = 0xFFFFFFFFFFFFFFFF


def lists(*rows: tuple[int, int, int, int]) -> Any:
    """Return a C function that lists processes: (pid, bytes, GI, CI)."""

    def answer(_handle: Any, count: Any, array: Any) -> int:
        room, count._obj.value = count._obj.value, len(rows)
        if array is None or room < len(rows):
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE) if rows else 0
        for entry, (pid, used, gi, ci) in zip(array, rows, strict=False):
            entry.pid, entry.usedGpuMemory, entry.gpuInstanceId, entry.computeInstanceId = pid, used, gi, ci
        return 0

    return answer


def read(**functions: Any) -> Listing:
    with library(FakeLibrary({name: functions[name] for name in functions})):
        return read_processes(ctypes.c_void_p(1), GpuMemory())


def test_the_three_lists_are_one() -> None:
    """A client of MPS stands in two lists and is one process; what a driver does not say is None, not 2^64 - 1."""
    found = read(
        **{
            COMPUTE: lists((10, 5, NONE, NONE), (11, UNSAID, NONE, NONE)),
            GRAPHICS: lists((12, 7, NONE, NONE)),
            MPS: lists((10, 6, NONE, NONE)),
        }
    )
    assert (found.total, found.absent) == (3, None)
    assert {(p.pid, p.kind, p.used_bytes) for p in found.processes} == {
        (10, ProcessKind.MPS, 6),
        (11, ProcessKind.COMPUTE, None),
        (12, ProcessKind.GRAPHICS, 7),
    }
    assert {(p.gi, p.ci) for p in found.processes} == {(None, None)}


def test_instances_are_named() -> None:
    """Under MIG, with the right to it, the GPU's own list says which instance."""
    found = read(**{COMPUTE: lists((10, 5, 2, 0))})
    assert found.processes == (GpuProcess(pid=10, kind=ProcessKind.COMPUTE, used_bytes=5, gi=2, ci=0),)


def test_lists_a_board_or_driver_lacks_are_empty() -> None:
    """No graphics on a compute board, no MPS function in an old library."""
    assert read(**{COMPUTE: lists(), GRAPHICS: 3}) == Listing()


@pytest.mark.parametrize(
    ("functions", "absent"),
    [
        pytest.param({COMPUTE: 3}, Missing.NOT_SUPPORTED, id="no-list-at-all"),
        pytest.param({}, Missing.NOT_SUPPORTED, id="no-such-function"),
        pytest.param({COMPUTE: 4}, Missing.NO_PERMISSION, id="refused"),
        pytest.param({COMPUTE: lists(), GRAPHICS: 999}, Missing.UNKNOWN, id="one-list-broken"),
        pytest.param({COMPUTE: lists(), MPS: 10}, Missing.TIMED_OUT, id="one-list-late"),
    ],
)
def test_no_list_has_its_reason(functions: dict[str, Any], absent: Missing) -> None:
    """Half a list is none: an empty one must mean that nobody is there."""
    found = read(**functions)
    assert (found.absent, found.processes, found.fault) == (absent, (), None)


def test_a_lost_gpu_is_a_fault_of_the_gpu() -> None:
    """As with any other call."""
    found = read(**{COMPUTE: 15})
    assert (found.fault, found.where) == (15, COMPUTE)


def test_instances_are_asked_where_the_gpu_refuses() -> None:
    """Without root a MIG GPU lists nothing itself; each instance does. Numbers nobody has are left out."""

    def listed(handle: Any, count: Any, array: Any) -> int:
        address = ctypes.cast(handle, ctypes.c_void_p).value
        if address == 1:
            return int(pynvml.NVML_ERROR_NO_PERMISSION)
        return int(lists((100 + address, 5, NONE, NONE))(handle, count, array))

    def instance(_handle: Any, index: Any, out: Any) -> int:
        if index.value == 1:
            return int(pynvml.NVML_ERROR_NOT_FOUND)
        ctypes.memmove(ctypes.byref(out._obj), ctypes.byref(ctypes.c_void_p(16 + index.value)), 8)
        return 0

    def number(handle: Any, out: Any) -> int:
        out._obj.value = ctypes.cast(handle, ctypes.c_void_p).value - 15
        return 0

    found = read(
        **{
            COMPUTE: listed,
            "nvmlDeviceGetMaxMigDeviceCount": {"out": 3},
            "nvmlDeviceGetMigDeviceHandleByIndex": instance,
            "nvmlDeviceGetGpuInstanceId": number,
            "nvmlDeviceGetComputeInstanceId": {"out": 0},
        }
    )
    assert [(p.pid, p.gi, p.ci) for p in found.processes] == [(116, 1, 0), (118, 3, 0)]
    assert found.absent is None


def test_a_gpu_that_refuses_and_has_no_instances_stays_refused() -> None:
    """Nothing is made of a refusal."""
    assert read(**{COMPUTE: 4, "nvmlDeviceGetMaxMigDeviceCount": {"out": 0}}).absent is Missing.NO_PERMISSION


def test_very_many_processes_are_counted_whole() -> None:
    """What does not fit a frame is counted all the same."""
    found = read(**{COMPUTE: lists(*((pid, 1, NONE, NONE) for pid in range(1, 301)))})
    assert (len(found.processes), found.total) == (256, 300)
