"""The operator's own figure of the work, polled over HTTP: hashes, tokens or frames per second and GPU.

The endpoint is not trusted: it has a deadline and a longest answer, it is not followed elsewhere, and its host name is
looked up in a thread of its own. What is wrong with it is said once, and again only when that changes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from gpuwarden.collectors.throughput_format import Figures, parse
from gpuwarden.config import Poll, Workload
from gpuwarden.model.observation import AnyObservation, Figure, Stamp, ThroughputSeen
from gpuwarden.sidethread import BusyError, SideThread

_LONGEST_BYTES = 4 << 20
_CHUNK_BYTES = 64 << 10
_RETRY_SECONDS = 0.2
_LOOKUP_SECONDS = 30.0
_HEADERS = {"Accept": "text/plain;version=0.0.4, application/json;q=0.9"}


class _Lookup(AbstractResolver):
    """Name look-up beside the loop's own executor, where a name server that does not answer would hold up others."""

    def __init__(self) -> None:
        self._thread = SideThread("throughput-lookup", 2)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            found = await self._thread.call(
                lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM), _LOOKUP_SECONDS
            )
        except BusyError as busy:
            raise OSError(str(busy)) from None
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._thread.close()


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
        connector = aiohttp.TCPConnector(resolver=_Lookup(), limit=1)
        async with aiohttp.ClientSession(connector=connector, headers=_HEADERS) as session:
            while True:
                begun = loop.time()
                self._emit(await self._asked(session))
                await asyncio.sleep(max(0.0, begun + self._period_seconds - loop.time()))

    async def _asked(self, session: aiohttp.ClientSession) -> ThroughputSeen:
        """Return what the endpoint says now."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                body = await self._fetched(session)
            figures = parse(body, self._metric)
        except TimeoutError:
            return self._away(f"no answer within {self._deadline_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return self._away(str(error) or type(error).__name__)
        except ValueError as error:
            return self._away(str(error))
        self._say("")
        rates = self._rates(figures)
        told = tuple(Figure(gpu=gpu, metric=self._metric, value=value) for gpu, value in rates.items())
        return ThroughputSeen(at=self._clock(), up=True, figures=told)

    async def _fetched(self, session: aiohttp.ClientSession) -> bytes:
        """Return the body. A connection that breaks is tried once more; it may have been an old one."""
        tries = AsyncRetrying(
            stop=stop_after_attempt(2),
            wait=wait_fixed(_RETRY_SECONDS),
            retry=retry_if_exception_type((aiohttp.ClientConnectionError, ConnectionError)),
            reraise=True,
        )
        body: bytes = await tries(self._get, session)
        return body

    async def _get(self, session: aiohttp.ClientSession) -> bytes:
        async with session.get(self._url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"answered {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > _LONGEST_BYTES:
                    raise ValueError(f"the answer is longer than {_LONGEST_BYTES >> 20} MiB")
            return bytes(body)

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
