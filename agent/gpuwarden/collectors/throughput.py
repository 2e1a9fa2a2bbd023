"""The operator's own figure of the work, polled over HTTP: hashes, tokens or frames per second and GPU.

What is wrong with the endpoint is said once, and again only when that changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from gpuwarden.collectors.endpoint import Endpoint, EndpointError
from gpuwarden.collectors.throughput_format import Figures, parse
from gpuwarden.config import Poll, Workload
from gpuwarden.model.observation import AnyObservation, Figure, Stamp, ThroughputSeen

_ACCEPT = "text/plain;version=0.0.4, application/json;q=0.9"


class ThroughputPoller:
    """Asks the endpoint once in `poll.normal_seconds` and emits a ThroughputSeen each time."""

    def __init__(
        self,
        workload: Workload,
        poll: Poll,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
    ) -> None:
        self._url = workload.throughput_url
        self._metric = workload.throughput_metric
        self._period_seconds = poll.normal_seconds
        self._deadline_seconds = poll.deadline_seconds
        self._emit = emit
        self._clock = clock
        self._said: str | None = None
        self._before: tuple[dict[str, float], float] | None = None  # what a counter stood at, and when
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Poll until cancelled."""
        loop = asyncio.get_running_loop()
        async with Endpoint("throughput", self._url, _ACCEPT) as endpoint:
            while True:
                begun = loop.time()
                self._emit(await self._asked(endpoint))
                await asyncio.sleep(max(0.0, begun + self._period_seconds - loop.time()))

    async def _asked(self, endpoint: Endpoint) -> ThroughputSeen:
        """Return what the endpoint says now."""
        try:
            figures = parse(await endpoint.get(self._deadline_seconds), self._metric)
        except (EndpointError, ValueError) as error:
            return self._away(str(error))
        self._say("")
        rates = self._rates(figures)
        told = tuple(Figure(gpu=gpu, metric=self._metric, value=value) for gpu, value in rates.items())
        return ThroughputSeen(at=self._clock(), up=True, figures=told)

    def _rates(self, figures: Figures) -> dict[str, float]:
        """Return figures per second: as they are, or for a counter its growth since the last answer."""
        if not figures.cumulative:
            return figures.by_gpu
        now = asyncio.get_running_loop().time()
        before, self._before = self._before, (figures.by_gpu, now)
        if before is None or now <= before[1]:
            return {}
        grown = {gpu: value - before[0][gpu] for gpu, value in figures.by_gpu.items() if gpu in before[0]}
        return {gpu: growth / (now - before[1]) for gpu, growth in grown.items() if growth >= 0}

    def _away(self, detail: str) -> ThroughputSeen:
        self._before = None
        self._say(detail)
        return ThroughputSeen(at=self._clock(), up=False, detail=detail)

    def _say(self, detail: str) -> None:
        """Log a change of the endpoint's state."""
        said, self._said = self._said, detail
        about: dict[str, Any] = {"url": self._url, "metric": self._metric}
        if detail and detail != said:
            self._log.warning("throughput.unusable", detail=detail, **about)
        elif not detail and said != "":
            self._log.info("throughput.answering", **about)
