"""What the server of the simulated node and its clients say to each other: length-framed msgpack on a unix socket."""

from __future__ import annotations

import socket
import struct
from typing import Any, TypeAlias, TypeVar

import msgspec

from gpuwarden.model.case import Intent, Outcome

_LENGTH = struct.Struct("!I")
_LARGEST = 1 << 22
_Shape = TypeVar("_Shape")


class AskNode(msgspec.Struct, frozen=True, tag="node"):
    """Answered with a NodeSheet."""


class AskCard(msgspec.Struct, frozen=True, tag="card"):
    """Answered with a CardSheet."""

    slot: int


class AskEvents(msgspec.Struct, frozen=True, tag="events"):
    """Answered with the events after a number, as soon as there are any, with none after `seconds`."""

    after: int
    seconds: float


class AskStatus(msgspec.Struct, frozen=True, tag="status"):
    """Answered with a mapping for people."""


class TellCrash(msgspec.Struct, frozen=True, tag="crash"):
    """A call on this card is about to kill its process."""

    slot: int


class Inject(msgspec.Struct, frozen=True, kw_only=True, tag="inject"):
    """Put a fault in, or with `clear` take it out."""

    fault: str
    gpu: int | None = None
    clear: bool = False
    options: dict[str, Any] = {}


class SetOn(msgspec.Struct, frozen=True, tag="set"):
    """Call a setter of the driver on a card; answered with its return code."""

    slot: int
    function: str
    numbers: list[int]


class AskHands(msgspec.Struct, frozen=True, tag="hands"):
    """Bring an effect about; answered with a Brought."""

    intent: Intent


class AskAround(msgspec.Struct, frozen=True, tag="around"):
    """Answered with Surroundings."""


class Brought(msgspec.Struct, frozen=True, array_like=True):
    """What became of an effect. `boot_id` is set where the host came up in another boot by it."""

    outcome: Outcome
    detail: str
    boot_id: str = ""


Ask: TypeAlias = AskNode | AskCard | AskEvents | AskStatus | TellCrash | Inject | AskHands | AskAround | SetOn


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """An answer. With `error` it is a mistake of the asker's, in words."""

    error: str
    body: msgspec.Raw


def send(connection: socket.socket, message: object) -> None:
    """Send one message. Raises: OSError."""
    raw = msgspec.msgpack.encode(message)
    connection.sendall(_LENGTH.pack(len(raw)) + raw)


def receive(connection: socket.socket, shape: type[_Shape]) -> _Shape | None:
    """Return the next message, None at the end. Raises: OSError, also for what is no message of ours."""
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _LARGEST:
        raise OSError(f"a message of {length} bytes on the simulated node's socket")
    raw = _exactly(connection, length)
    if raw is None:
        return None
    try:
        return msgspec.msgpack.decode(raw, type=shape)
    except msgspec.DecodeError as error:
        raise OSError(f"not a message of the simulated node: {error}") from None


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
