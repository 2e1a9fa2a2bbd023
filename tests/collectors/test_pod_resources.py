"""What the kubelet gave to whom, from a real gRPC server; and that no kubelet, however ill, holds anything up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.collectors.pod_resources import PodReader, PodsError, list_pods, pods_of
from gpuwarden.model.observation import AnyObservation, PodsSeen, Stamp
from gpuwarden.model.workload import PodDevices
from support.kubelet import Kubelet, grpc, kubelet, response

GPU = "GPU-11111111-2222-3333-4444-555555555555"
TRAIN = ("research", "train-0", {"main": {"nvidia.com/gpu": [GPU]}, "sidecar": {}})


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "kubelet.sock"


@pytest.fixture
def served(socket: Path) -> Iterator[Kubelet]:
    with kubelet(socket) as known:
        yield known


async def test_a_real_server_is_asked(served: Kubelet, socket: Path) -> None:
    """Containers with NVIDIA devices, and no others, with names that are more than ASCII."""
    served.pods = [
        TRAIN,
        ("kube-system", "proxy", {"proxy": {"intel.com/qat": ["qat0"]}}),
        (
            "ünder",
            "shared",
            {"a": {"nvidia.com/gpu.shared": [f"{GPU}::3"]}, "b": {"nvidia.com/mig-1g.10gb": ["MIG-x"]}},
        ),
        ("own", "renamed", {"c": {"example.org/accelerator": [GPU, "other"]}}),
    ]
    assert await list_pods(socket) == (
        PodDevices(namespace="research", pod="train-0", container="main", device_ids=(GPU,)),
        PodDevices(namespace="ünder", pod="shared", container="a", device_ids=(f"{GPU}::3",)),
        PodDevices(namespace="ünder", pod="shared", container="b", device_ids=("MIG-x",)),
        PodDevices(namespace="own", pod="renamed", container="c", device_ids=(GPU,)),
    )


async def test_an_answer_of_many_frames(served: Kubelet, socket: Path) -> None:
    """More than one HTTP/2 frame and window holds."""
    served.pods = [("n", f"pod-{n}-{'x' * 200}", {"main": {"nvidia.com/gpu": [GPU]}}) for n in range(1000)]
    assert len(await list_pods(socket)) == 1000


async def test_no_gpu_is_given_to_anybody(served: Kubelet, socket: Path) -> None:
    """An empty message is an answer."""
    assert await list_pods(socket) == ()


async def test_a_kubelet_that_refuses(served: Kubelet, socket: Path) -> None:
    """The server's error comes back in words."""
    served.code = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(PodsError, match="not now"):
        await list_pods(socket)


async def test_a_kubelet_that_is_silent(served: Kubelet, socket: Path) -> None:
    """It has its deadline."""
    served.answering.clear()
    with pytest.raises(PodsError, match="no answer"):
        await list_pods(socket, 0.2)


async def test_a_socket_nobody_serves(socket: Path) -> None:
    """A kubelet that left its socket behind is an error in words."""
    with pytest.raises(PodsError):
        await list_pods(socket, 5)


async def read(socket: Path, until: int) -> list[PodsSeen]:
    """Return what the reader tells until it has told so much."""
    told: list[PodsSeen] = []
    enough = asyncio.Event()

    def emit(observation: AnyObservation) -> None:
        assert isinstance(observation, PodsSeen)
        told.append(observation)
        if len(told) >= until:
            enough.set()

    reader = PodReader(emit, lambda: Stamp("boot", 1.0, 2.0), socket=socket, period_seconds=0.02)
    task = asyncio.create_task(reader.run())
    async with asyncio.timeout(20):
        await enough.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return told


async def test_the_reader_says_when_the_kubelet_is_gone(socket: Path) -> None:
    """What it said before is taken back: pods of a kubelet that is silent are nobody's."""
    with kubelet(socket) as known:
        known.pods = [TRAIN]
        (first, *_) = await read(socket, 1)
        assert (first.readable, [pod.pod for pod in first.pods]) == (True, ["train-0"])
        known.code = grpc.StatusCode.INTERNAL
        (later, *_) = await read(socket, 1)
    assert (later.readable, later.pods) == (False, ())
    assert later.detail


async def test_a_host_without_a_kubelet_is_left_in_peace(socket: Path) -> None:
    """No socket: nothing is told, so nothing is wrong; a kubelet that comes later is found."""
    told: list[AnyObservation] = []
    heard = asyncio.Event()

    def emit(observation: AnyObservation) -> None:
        told.append(observation)
        heard.set()

    reader = PodReader(emit, lambda: Stamp("boot", 1.0, 2.0), socket=socket, period_seconds=0.02)
    task = asyncio.create_task(reader.run())
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), 0.1)
    assert told == []
    with kubelet(socket):
        async with asyncio.timeout(20):
            await heard.wait()
    task.cancel()


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """What is no message is refused by name, or read as one."""
    with suppress(PodsError):
        pods_of(raw)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_message_with_a_broken_byte_raises_nothing_else(at: int, byte: int) -> None:
    """A real answer, damaged."""
    raw = bytearray(response([TRAIN]).SerializeToString())
    raw[at % len(raw)] = byte
    with suppress(PodsError):
        pods_of(bytes(raw))
