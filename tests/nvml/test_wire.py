"""Frames: what goes in comes out, and anything else is refused."""

from __future__ import annotations

import asyncio
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.model.gpu import GpuIdentity, Lane, Missing
from gpuwarden.nvml import wire

_SCALARS = st.one_of(
    st.integers(min_value=-(2**63), max_value=2**64 - 1), st.floats(allow_nan=False), st.sampled_from(list(Missing))
)
_VALUES = st.dictionaries(st.text(max_size=20), st.one_of(_SCALARS, st.lists(_SCALARS).map(tuple)), max_size=8)


async def received(raw: bytes) -> wire.FromWorker | None:
    reader = asyncio.StreamReader()
    reader.feed_data(raw)
    reader.feed_eof()
    return await wire.read_frame(reader)


@given(_VALUES)
def test_a_sample_arrives_as_it_was_sent(values: dict[str, wire._Value]) -> None:
    """Numbers keep their kind, reasons for absence stay reasons, vectors stay tuples."""
    sample = wire.Sample(
        index=3, bdf="0000:3b:00.0", lane=Lane.FAST, values=values, rejected=("x",), duration_seconds=0.5
    )
    assert asyncio.run(received(wire.encode(sample))) == sample


@pytest.mark.parametrize(
    "message",
    [
        wire.Hello(protocol=1, version="0"),
        wire.Opened(driver="580", nvml="13", cuda="13.0", count=8),
        wire.InitFailed(code=9, where="nvmlInit_v2"),
        wire.Gpu(index=0, identity=GpuIdentity(uuid="GPU-1", bdf="0000:01:00.0")),
        wire.Fault(index=1, bdf="", code=999, where="handle"),
        wire.NvmlSaid(bdf="0000:01:00.0", kind="xid", code=79),
        wire.Quieted(index=0, bdf="0000:01:00.0", until=5.0),
        wire.Beat(threads=(wire.Busy(index=-1, bdf="", call="nvmlInit_v2", since=1.5),)),
    ],
)
async def test_every_message_of_the_worker_arrives(message: wire.FromWorker) -> None:
    """One frame, one message."""
    assert await received(wire.encode(message)) == message


async def test_the_end_of_the_pipe_is_none_even_within_a_frame() -> None:
    """A worker that died in the middle of a frame is an end, not an error."""
    frame = wire.encode(wire.Hello(protocol=1, version="0"))
    for cut in (0, 2, 4, len(frame) - 1):
        assert await received(frame[:cut]) is None


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02\xc1\xc1", b"\x00\x00\x00\x01\x90"])
async def test_what_is_no_frame_is_refused(raw: bytes) -> None:
    """An announced megabyte too much, bytes that are no msgpack, msgpack that is no message."""
    with pytest.raises(wire.WireError):
        await received(raw)


def test_commands_are_read_from_a_blocking_stream() -> None:
    """The worker's side: commands in order, then the end."""
    commands = [
        wire.Start(protocol=1, fast=1.0, normal=10.0, slow=60.0, pcie=10.0),
        wire.Quiet(bdf="0000:01:00.0", seconds=300.0),
    ]
    stream = io.BytesIO(b"".join(map(wire.encode, commands)))
    assert [wire.read_command(stream), wire.read_command(stream), wire.read_command(stream)] == [*commands, None]


def test_a_message_over_a_mebibyte_is_not_sent() -> None:
    """The limit holds on both ends."""
    with pytest.raises(wire.WireError):
        wire.encode(wire.Hello(protocol=1, version="x" * wire.MAX_FRAME_BYTES))
