"""NVLink counters by link: one batch a lane, whatever generation answers, and no link that answers for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from gpuwarden.model.gpu import Lane, Missing
from gpuwarden.nvml.driver import GpuMemory, LaneResult, read_lane
from support.fakenvml import FakeLibrary, library

BATCH = "nvmlDeviceGetFieldValues"
Entries = Callable[[int, int], tuple[int, int]]
"""(field, scope) -> (return code, value)"""


def hopper(field: int, scope: int) -> tuple[int, int]:
    """Answer as a Hopper with 18 links: everything with the link for a scope; link 7 is down and counts nothing."""
    if scope >= 18:
        return 2, 0
    if field in (161, 162, 163):
        return (3, 0) if scope == 7 else (0, 100 * (field - 160) + scope)
    return (0, int(scope != 7)) if field == 165 else (3, 0)


def ampere(field: int, scope: int) -> tuple[int, int]:
    """Answer as an Ampere with 12 links: a field a link, and no scope."""
    first = {46: 0, 108: 6}  # replays
    for start, link in first.items():
        if start <= field < start + 6 and scope == 0:
            return 0, 10 + link + field - start
    return 2 if field in (161, 162, 163, 165) else 3, 0


def blackwell(field: int, scope: int) -> tuple[int, int]:
    """Answer as a GPU with NVLink 5."""
    if field in (213, 219, 221) and scope < 18:
        return 0, field
    return (0, 1) if field == 165 and scope < 18 else (3, 0)


class Links(FakeLibrary):
    """A library whose batches are answered entry by entry; `most` is the largest batch it takes."""

    def __init__(self, entries: Entries, most: int = 10_000) -> None:
        super().__init__({BATCH: self._answer_batch})
        self._entries = entries
        self._most = most
        self.sizes: list[int] = []

    def _answer_batch(self, _: Any, count: Any, array: Any) -> int:
        self.sizes.append(count.value)
        if count.value > self._most:
            return 2
        for entry in array._obj:
            entry.nvmlReturn, value = self._entries(entry.fieldId, entry.scopeId)
            if entry.nvmlReturn == 0:
                entry.value.ullVal = value
        return 0


def slow(fake: FakeLibrary, memory: GpuMemory | None = None) -> LaneResult:
    """Read the slow lane."""
    with library(fake):
        return read_lane(object(), Lane.SLOW, memory or GpuMemory())


def test_hopper_is_asked_with_the_link_for_a_scope() -> None:
    """State and three counters of 18 links; a link that is down has no counters and shifts nobody else's."""
    values = slow(Links(hopper)).values
    assert values["nvlink_up"] == (*(1,) * 7, 0, *(1,) * 10)
    crc = values["nvlink_crc_errors"]
    assert isinstance(crc, tuple)
    assert (crc[0], crc[7], crc[17]) == (300, Missing.NOT_SUPPORTED, 317)
    assert values["nvlink_symbol_errors"] is Missing.NOT_SUPPORTED


def test_ampere_has_a_field_a_link() -> None:
    """Twelve links in two runs of numbers; the state is a call of its own there."""
    fake = Links(ampere)
    fake.functions["nvmlDeviceGetNvLinkState"] = _state_of_twelve
    values = slow(fake).values
    assert values["nvlink_replay_errors"] == tuple(range(10, 22))
    assert values["nvlink_crc_errors"] is Missing.NOT_SUPPORTED
    assert values["nvlink_up"] == (1,) * 12


def _state_of_twelve(_: Any, link: Any, out: Any) -> int:
    number = getattr(link, "value", link)
    out._obj.value = 1
    return 0 if number < 12 else 2


def test_blackwell_counts_other_errors() -> None:
    """Recoveries, symbol and effective errors in fields of their own; the old ones are gone."""
    values = slow(Links(blackwell)).values
    assert values["nvlink_recovery_errors"] == (213,) * 18
    assert values["nvlink_effective_errors"] == (219,) * 18
    assert values["nvlink_replay_errors"] is Missing.NOT_SUPPORTED


def test_a_lane_is_one_batch_and_what_no_link_has_is_not_asked_again() -> None:
    """One call for all links and fields; the second one leaves out what this generation does not count, and what a
    field before it has answered; a link that is down stays in, for the day it is back."""
    fake, memory = Links(hopper), GpuMemory()
    slow(fake, memory)
    slow(fake, memory)
    assert len(fake.sizes) == 2
    assert fake.sizes[1] == 4 * pynvml.NVML_NVLINK_MAX_LINKS


def test_a_batch_that_is_too_large_is_asked_in_parts() -> None:
    """A driver that takes 40 at a time gives the same readings, and is not tried with more again."""
    fake, memory = Links(hopper, most=40), GpuMemory()
    assert slow(fake, memory).values == slow(Links(hopper)).values
    refused = [size for size in fake.sizes if size > 40]
    fake.sizes.clear()
    slow(fake, memory)
    assert refused
    assert max(fake.sizes) <= 40


def test_a_batch_that_is_refused_whatever_its_size_is_an_unknown_reading() -> None:
    """INVALID_ARGUMENT for a handful of fields is about the handle: nothing is called unsupported for it."""
    values = slow(Links(hopper, most=0)).values
    assert values["nvlink_crc_errors"] is Missing.UNKNOWN


def test_a_link_s_code_about_the_whole_gpu_ends_the_lane() -> None:
    """GPU_IS_LOST in one entry is the GPU's, not the link's."""
    result = slow(Links(lambda field, scope: (15, 0) if (field, scope) == (162, 3) else hopper(field, scope)))
    assert (result.fault, result.where) == (15, BATCH)


def test_the_fabric_is_read_where_there_is_one() -> None:
    """State, status and mask; a GPU without a fabric says so by its state and has none of the three."""
    joined = {"set": {"state": 3, "status": 0, "healthMask": 0x11}}
    for answer, expected in ((joined, (3, 0, 0x11)), ({"set": {"state": 0}}, (Missing.NOT_SUPPORTED,) * 3)):
        with library(FakeLibrary({"nvmlDeviceGetGpuFabricInfoV": answer})):
            values = read_lane(object(), Lane.NORMAL, GpuMemory()).values
        assert tuple(values[f"fabric_{name}"] for name in ("state", "status", "health_mask")) == expected
