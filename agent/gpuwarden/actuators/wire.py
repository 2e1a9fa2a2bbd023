"""What the actuator and whoever asks it say to each other: length-framed msgpack on a Unix socket.

A connection begins with Hello and Welcome; then each request has one response, in order. The verbs are one closed
union: what is none of them is refused, and the connection ends.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TypeAlias

import msgspec

from gpuwarden.model.case import Intent, Outcome, Surroundings

PROTOCOL = 1
MAX_FRAME_BYTES = 64 << 10
_LENGTH = struct.Struct("!I")


class WireError(Exception):
    """What was received is no message of ours."""


class Hello(msgspec.Struct, frozen=True, tag="hello", forbid_unknown_fields=True):
    """The first frame of a connection."""

    protocol: int
    version: str = ""


class Ask(msgspec.Struct, frozen=True, tag="ask", forbid_unknown_fields=True):
    """Bring an effect about, at most once per intent id. Answered with Answered."""

    intent: Intent


class Look(msgspec.Struct, frozen=True, tag="look", forbid_unknown_fields=True):
    """Look around. Answered with Seen."""


Request: TypeAlias = Hello | Ask | Look


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The answer to Hello."""

    protocol: int
    version: str = ""


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """What became of an intent."""

    outcome: Outcome
    detail: str = ""


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    """What is seen around the node."""

    surroundings: Surroundings


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """There is no answer, and why: nothing may be concluded about the effect."""

    why: str


Response: TypeAlias = Welcome | Answered | Seen | Rejected

REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
RESPONSES: msgspec.msgpack.Decoder[Response] = msgspec.msgpack.Decoder(Response)
_ENCODER = msgspec.msgpack.Encoder()


def framed(message: msgspec.Struct) -> bytes:
    """Return a message with its length in front."""
    raw = _ENCODER.encode(message)
    return _LENGTH.pack(len(raw)) + raw


async def read_frame(reader: asyncio.StreamReader, seconds: float, *, patience: float | None = None) -> bytes | None:
    """Return the next frame without its length, None at the end of the connection.

    Its first byte is waited for `patience` seconds (default `seconds`), the rest of it `seconds`. Raises: WireError for
    a frame that is too long or broken off, TimeoutError.
    """
    async with asyncio.timeout(seconds if patience is None else patience):
        first = await reader.read(1)
    if not first:
        return None
    try:
        async with asyncio.timeout(seconds):
            (length,) = _LENGTH.unpack(first + await reader.readexactly(_LENGTH.size - 1))
            if length > MAX_FRAME_BYTES:
                raise WireError(f"a frame of {length} bytes")
            return await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise WireError("a frame that breaks off") from None
