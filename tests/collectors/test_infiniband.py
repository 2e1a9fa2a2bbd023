"""What sysfs says about InfiniBand ports, without touching a counter, and that a hang says nothing false."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuwarden.collectors.infiniband import PortWatch, scan
from gpuwarden.model.observation import AnyObservation, PortsSeen, Stamp


def port(root: Path, device: str = "mlx5_0", number: int = 1, **files: str) -> Path:
    """Make one port in a sysfs tree, its counters as FIFOs that would hang whoever opens them; return its folder."""
    folder = root / "class" / "infiniband" / device / "ports" / str(number)
    folder.mkdir(parents=True)
    texts = {"state": "4: ACTIVE", "phys_state": "5: LinkUp", "rate": "400 Gb/sec (4X NDR)", "link_layer": "InfiniBand"}
    for name, text in (texts | files).items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    for counters in ("counters", "hw_counters"):
        (folder / counters).mkdir()
        os.mkfifo(folder / counters / "symbol_error")
    return folder


def test_a_port_is_described(tmp_path: Path) -> None:
    """State and physical state by their words, the rate in bits; counters are never opened."""
    port(tmp_path)
    port(tmp_path, "mlx5_1", state="1: DOWN", phys_state="2: Polling", rate="10 Gb/sec (4X SDR)")
    up, down = scan(tmp_path)
    assert (up.name, up.state, up.phys_state, up.rate_bits_per_second, up.link_layer) == (
        "mlx5_0:1",
        "ACTIVE",
        "LinkUp",
        400e9,
        "InfiniBand",
    )
    assert up.is_up
    assert (down.name, down.state, down.is_up, down.rate_bits_per_second) == ("mlx5_1:1", "DOWN", False, 10e9)


def test_a_host_without_rdma_has_no_ports(tmp_path: Path) -> None:
    """No folder is no device, not an error."""
    assert scan(tmp_path) == ()


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(["state", "phys_state", "rate", "link_layer"]), content=st.binary(max_size=40))
def test_garbage_in_a_file_is_an_unknown_word(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    """Whatever a file holds, the port is there."""
    root = tmp_path_factory.mktemp("sys")
    (port(root) / name).write_bytes(content)
    assert [found.name for found in scan(root)] == ["mlx5_0:1"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110 (the condition is about another thread)
            await asyncio.sleep(0.005)


async def test_a_hang_is_told_as_unreadable_and_ends_with_the_hang(tmp_path: Path) -> None:
    """A driver that sits on its sysfs file keeps one thread; ports are unknown, not gone, and come back."""
    heard: list[PortsSeen] = []

    def emit(observation: AnyObservation) -> None:
        assert isinstance(observation, PortsSeen)
        heard.append(observation)

    def stamp() -> Stamp:
        return Stamp("boot", time.monotonic(), time.time())

    folder = port(tmp_path)
    watch = PortWatch(emit, stamp, root=tmp_path, period_seconds=0.02, deadline_seconds=0.1)
    task = asyncio.create_task(watch.run())
    try:
        await until(lambda: bool(heard))
        assert heard[0].readable
        (folder / "state").unlink()
        os.mkfifo(folder / "state")
        await until(lambda: not heard[-1].readable)
        assert heard[-1].ports == ()
        assert sum(thread.name == "infiniband" for thread in threading.enumerate()) == 1
        with (folder / "state").open("w", encoding="utf-8") as released:
            (folder / "state").rename(folder / "was-state")
            (folder / "state").write_text("4: ACTIVE\n", encoding="utf-8")
            released.write("4: ACTIVE\n")
        await until(lambda: heard[-1].readable and heard[-1].ports[0].is_up)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
