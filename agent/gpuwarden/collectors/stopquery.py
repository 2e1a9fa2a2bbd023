"""The stop switch of a whole fleet: a query of Prometheus that stops this host while it answers above 0.

It is asked all the time, so that whoever is about to act need not wait for an answer: the last one counts for a few
seconds. No answer, an empty one, or one that is no number: stopped.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from gpuwarden.collectors.endpoint import EndpointError
from gpuwarden.collectors.prometheus import Sample, asked_at

_PERIOD_SECONDS = 3.0
_DEADLINE_SECONDS = 1.5
_COUNTS_SECONDS = 5.0  # from when it was asked for


class StopQuery:
    """Asks while `run` runs; `read` never waits."""

    def __init__(self, url: str, query: str) -> None:
        self._url = url
        self._query = query
        self._answer: tuple[bool | None, str] = (None, "the stop query was not asked yet")
        self._asked_at: float | None = None
        self._log = structlog.get_logger()

    def read(self) -> tuple[bool | None, str]:
        """Return whether the query stops this host, None where that is not known, and a word about it."""
        if self._asked_at is not None and time.monotonic() - self._asked_at > _COUNTS_SECONDS:
            return None, "the stop query has had no answer lately"
        return self._answer

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asked_at("stop-query", self._url, _DEADLINE_SECONDS) as prometheus:
            while True:
                begun = time.monotonic()
                try:
                    answer = _judged(await prometheus.ask(self._query))
                except EndpointError as error:
                    answer = None, f"the stop query has no answer: {error}"
                if answer != self._answer:
                    self._log.info("stop_query.answered", stopped=answer[0] is not False, detail=answer[1])
                self._answer, self._asked_at = answer, begun
                await asyncio.sleep(max(0.0, begun + _PERIOD_SECONDS - time.monotonic()))


def _judged(samples: tuple[Sample, ...]) -> tuple[bool | None, str]:
    """Return whether any sample is above 0; no sample says nothing."""
    if not samples:
        return None, "the stop query has an empty answer"
    return (True, "the stop query answers above 0") if any(each.value > 0 for each in samples) else (False, "")
