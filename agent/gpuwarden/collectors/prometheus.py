"""Instant queries to a Prometheus: every sample of an answer, or an error; never a part of an answer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gpuwarden.collectors.endpoint import Endpoint, EndpointError


class Sample(msgspec.Struct, frozen=True):
    """One series of an answer; `value` is finite or infinite, never NaN."""

    labels: dict[str, str]
    value: float


class _Series(msgspec.Struct, frozen=True):
    value: tuple[float, str]
    metric: dict[str, str] = {}


class _Data(msgspec.Struct, frozen=True):
    resultType: str  # noqa: N815 - as the API spells it
    result: msgspec.Raw


class _Answer(msgspec.Struct, frozen=True):
    status: Annotated[str, Meta(pattern="^success$")]
    data: _Data
    warnings: tuple[str, ...] = ()


class Prometheus:
    """Whom the queries are put to; speaks the HTTP API that Prometheus, Thanos, Mimir and VictoriaMetrics have."""

    def __init__(self, endpoint: Endpoint, deadline_seconds: float) -> None:
        self._endpoint = endpoint
        self._deadline_seconds = deadline_seconds

    async def ask(self, query: str) -> tuple[Sample, ...]:
        """Return the samples of an instant query, () where nothing matches; a scalar is one sample without labels.

        Raises: EndpointError where there is no answer, a part of one (warnings), or one that holds a NaN.
        """
        body = await self._endpoint.get(self._deadline_seconds, {"query": query})
        try:
            answer = msgspec.json.decode(body, type=_Answer)
            samples = _samples(answer.data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise EndpointError(f"the answer cannot be read: {error}") from None
        if answer.warnings:
            raise EndpointError(f"the answer may be a part: {answer.warnings[0]}")
        if any(math.isnan(sample.value) for sample in samples):
            raise EndpointError("the answer is not a number")
        return samples


def _samples(data: _Data) -> tuple[Sample, ...]:
    if data.resultType == "scalar":
        value: tuple[float, str] = msgspec.json.decode(data.result, type=tuple[float, str])
        return (Sample({}, float(value[1])),)
    if data.resultType != "vector":
        raise ValueError(f"a {data.resultType} is not the answer to an instant question")
    series: list[Any] = msgspec.json.decode(data.result, type=list[_Series])
    return tuple(Sample(each.metric, float(each.value[1])) for each in series)


@contextlib.asynccontextmanager
async def asked_at(name: str, url: str, deadline_seconds: float) -> AsyncIterator[Prometheus]:
    """Give the Prometheus at an address while the block lasts; `name` tells its connection from others."""
    async with Endpoint(name, url.rstrip("/") + "/api/v1/query", "application/json") as endpoint:
        yield Prometheus(endpoint, deadline_seconds)
