"""An HTTP endpoint that is asked and not trusted.

It has a deadline and a longest answer and is not followed elsewhere; its name is looked up in a thread of its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from gpuwarden.sidethread import BusyError, SideThread

_LONGEST_BYTES = 4 << 20
_CHUNK_BYTES = 64 << 10
_RETRY_SECONDS = 0.2
_LOOKUP_SECONDS = 30.0


class EndpointError(Exception):
    """There is no answer that can be used; the text says why, for people."""


class _Lookup(AbstractResolver):
    """Name look-up beside the loop's own executor, where a name server that does not answer would hold up others."""

    def __init__(self, name: str) -> None:
        self._thread = SideThread(f"{name}-lookup", 2)

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


class Endpoint:
    """One address and the connection to it, open while the block lasts."""

    def __init__(self, name: str, url: str, accept: str) -> None:
        self._name = name
        self._url = url
        self._accept = accept
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Endpoint:
        connector = aiohttp.TCPConnector(resolver=_Lookup(self._name), limit=1)
        self._session = aiohttp.ClientSession(connector=connector, headers={"Accept": self._accept})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, seconds: float, parameters: Mapping[str, str] | None = None) -> bytes:
        """Return the body of an answer. Raises: EndpointError also where it takes longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                return await self._fetched(parameters or {})
        except TimeoutError:
            raise EndpointError(f"no answer within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise EndpointError(str(error) or type(error).__name__) from None

    async def _fetched(self, parameters: Mapping[str, str]) -> bytes:
        """Return the body. A connection that breaks is tried once more; it may have been an old one."""
        tries = AsyncRetrying(
            stop=stop_after_attempt(2),
            wait=wait_fixed(_RETRY_SECONDS),
            retry=retry_if_exception_type((aiohttp.ClientConnectionError, ConnectionError)),
            reraise=True,
        )
        body: bytes = await tries(self._once, parameters)
        return body

    async def _once(self, parameters: Mapping[str, str]) -> bytes:
        if self._session is None:
            raise EndpointError("not open")
        async with self._session.get(self._url, params=parameters, allow_redirects=False) as answer:
            if answer.status != 200:
                raise EndpointError(f"answered {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > _LONGEST_BYTES:
                    raise EndpointError(f"the answer is longer than {_LONGEST_BYTES >> 20} MiB")
            return bytes(body)
