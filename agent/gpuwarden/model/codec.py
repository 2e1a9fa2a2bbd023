"""Observations as JSON, one line each, and back: a tag names the type, an enum stands as its value."""

from __future__ import annotations

import msgspec

from gpuwarden.model.observation import AnyObservation

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[AnyObservation] = msgspec.json.Decoder(AnyObservation)


def encode(observation: AnyObservation) -> bytes:
    """Return an observation as one line of JSON without its line end."""
    return _ENCODER.encode(observation)


def decode(line: bytes) -> AnyObservation:
    """Return the observation a line holds. Raises: msgspec.DecodeError, of which ValidationError is one."""
    return _DECODER.decode(line)
