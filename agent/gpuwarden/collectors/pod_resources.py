"""What the kubelet gave to which container: PodResources v1 `List` over its unix socket.

The gRPC client is an optional dependency (`pip install gpuwarden[kubernetes]`), imported only where the socket is
there. Of the answer only three fields are wanted, so it is read from the wire format, with no generated code. Source:
kubernetes/kubelet, pkg/apis/podresources/v1/api.proto.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from gpuwarden.model.observation import AnyObservation, PodsSeen, Stamp
from gpuwarden.model.workload import PodDevices
from gpuwarden.sidethread import BusyError, SideThread

SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
_METHOD = "/v1.PodResourcesLister/List"
_DEADLINE_SECONDS = 10.0
_PERIOD_SECONDS = 60.0
_VENDOR = "nvidia.com/"
_ID_PREFIXES = ("GPU-", "MIG-")
_NAME, _NAMESPACE, _CONTAINERS = 1, 2, 3  # PodResources
_CONTAINER_NAME, _DEVICES = 1, 2  # ContainerResources
_RESOURCE, _DEVICE_IDS = 1, 2  # ContainerDevices


class PodsError(Exception):
    """The kubelet did not say, and why."""


def pods_of(answer: bytes) -> tuple[PodDevices, ...]:
    """Return the containers with NVIDIA devices in a ListPodResourcesResponse. Raises: PodsError for what is none."""
    try:
        return tuple(_pods(answer))
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise PodsError(f"the answer is not understood: {error}") from None


def _pods(answer: bytes) -> Iterator[PodDevices]:
    for pod in _messages(answer, 1):
        for container in _messages(pod, _CONTAINERS):
            ids = tuple(_nvidia_ids(container))
            if ids:
                yield PodDevices(
                    namespace=_string(pod, _NAMESPACE),
                    pod=_string(pod, _NAME),
                    container=_string(container, _CONTAINER_NAME),
                    device_ids=ids,
                )


def _nvidia_ids(container: bytes) -> Iterator[str]:
    for devices in _messages(container, _DEVICES):
        ours = _string(devices, _RESOURCE).startswith(_VENDOR)
        for raw in _messages(devices, _DEVICE_IDS):
            device = raw.decode()
            if ours or device.startswith(_ID_PREFIXES):
                yield device


def _string(message: bytes, number: int) -> str:
    return b"".join(list(_messages(message, number))[-1:]).decode()


def _messages(message: bytes, wanted: int) -> Iterator[bytes]:
    """Yield the length-delimited fields of one number. Raises: ValueError, IndexError for bytes that are no message.

    Source: protobuf.dev/programming-guides/encoding (wire types 0 number, 1 eight bytes, 2 length first, 5 four bytes).
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(message, at)
                if at + size > len(message):
                    raise ValueError("cut off")
                if key >> 3 == wanted:
                    yield message[at : at + size]
                at += size
            case 5:
                at += 4
            case other:
                raise ValueError(f"wire type {other}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


class _Raw:
    """Messages are bytes as they came. The shape is grpclib's codec."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, _message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, _message_type: Any) -> bytes:
        return data


async def list_pods(socket: Path, seconds: float = _DEADLINE_SECONDS) -> tuple[PodDevices, ...]:
    """Return what the kubelet gave out. Raises: PodsError, also where it is late."""
    try:
        from grpclib.client import Channel, UnaryUnaryMethod
        from grpclib.exceptions import GRPCError, StreamTerminatedError
    except ImportError:
        raise PodsError("the kubelet is here, but not its client: pip install gpuwarden[kubernetes]") from None
    codec: Any = _Raw()  # its base class is only there with the extra
    channel = Channel(path=str(socket), codec=codec)
    try:
        async with asyncio.timeout(seconds):
            method: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(channel, _METHOD, bytes, bytes)
            return pods_of(await method(b""))
    except TimeoutError:
        raise PodsError(f"no answer within {seconds:.0f} s") from None
    except (GRPCError, StreamTerminatedError, OSError) as error:
        raise PodsError(str(error) or type(error).__name__) from None
    finally:
        channel.close()


class PodReader:
    """Asks the kubelet once a minute and tells what it says. A host without its socket is left in peace."""

    def __init__(
        self,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        *,
        socket: Path = SOCKET,
        period_seconds: float = _PERIOD_SECONDS,
        deadline_seconds: float = _DEADLINE_SECONDS,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._socket = socket
        self._period_seconds = period_seconds
        self._deadline_seconds = deadline_seconds
        self._told: str | None = None
        self._seen = False
        self._files = SideThread("kubelet-socket", 1)
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            if await self._is_here():
                await self._ask()
            await asyncio.sleep(self._period_seconds)

    async def _is_here(self) -> bool:
        """Return whether this host has, or once had, a kubelet."""
        try:
            self._seen = self._seen or await self._files.call(self._socket.exists, self._deadline_seconds)
        except (TimeoutError, BusyError, OSError):
            return False
        return self._seen

    async def _ask(self) -> None:
        pods: tuple[PodDevices, ...] = ()
        why = ""
        try:
            pods = await list_pods(self._socket, self._deadline_seconds)
        except PodsError as error:
            why = str(error)
        if why != self._told:
            self._told = why
            self._log.warning("kubelet.not_heard", detail=why) if why else self._log.info("kubelet.heard")
        self._emit(PodsSeen(at=self._clock(), readable=not why, detail=why, pods=pods))
