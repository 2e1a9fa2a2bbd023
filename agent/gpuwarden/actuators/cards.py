"""Conversations with cards: each a short child process that speaks NVML, is given a deadline, and killed past it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from gpuwarden.actuators.holder import Conversation, HandsError
from gpuwarden.model.card import CardSettings, SetAsk
from gpuwarden.model.heat import Setting

_DEADLINE_SECONDS = 6.0  # of one answer, the start of the library included
_END_SECONDS = 1.0


class ChildHands:
    """Opens conversations. A child that SIGKILL did not end keeps its own card closed, and no other."""

    def __init__(self, module: str = "gpuwarden.nvml.setter", environ: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._environ = environ
        self._stuck: dict[str, asyncio.subprocess.Process] = {}

    @contextlib.asynccontextmanager
    async def open(self, bdf: str) -> AsyncIterator[Conversation]:
        """Begin a conversation with one card. Raises: HandsError where it does not answer or another still hangs."""
        stuck = self._stuck.get(bdf)
        if stuck is not None and stuck.returncode is None:
            raise HandsError(f"an earlier call on {bdf} still hangs, in process {stuck.pid}")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            self._module,
            bdf,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=None if self._environ is None else {**os.environ, **self._environ},
            start_new_session=True,
        )
        try:
            yield await _Talk.begin(process, bdf)
        finally:
            await self._end(bdf, process)

    async def _end(self, bdf: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        process.stdin.close()
        for _ in range(2):
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await process.wait()
                self._stuck.pop(bdf, None)
                return
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        self._stuck[bdf] = process


class _Talk:
    """One child's lines."""

    def __init__(self, process: asyncio.subprocess.Process, bdf: str) -> None:
        self._process = process
        self._bdf = bdf
        self.card = CardSettings()

    @classmethod
    async def begin(cls, process: asyncio.subprocess.Process, bdf: str) -> _Talk:
        """Wait for the card's settings. Raises: HandsError."""
        talk = cls(process, bdf)
        found = await talk._line(CardSettings | int)
        if isinstance(found, int):
            raise HandsError(f"NVML answered {found} when {bdf} was opened")
        talk.card = found
        return talk

    async def set(self, setting: Setting, value: float | None) -> int:
        """Set one setting and return NVML's code. Raises: HandsError."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(SetAsk(setting, value)) + b"\n")
        code: int = await self._line(int)
        return code

    async def _line(self, shape: Any) -> Any:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise HandsError(f"{self._bdf} did not answer within {_DEADLINE_SECONDS:.0f} s") from None
        try:
            return msgspec.json.decode(line, type=shape)
        except msgspec.DecodeError:
            raise HandsError(f"the setter for {self._bdf} ended without an answer") from None
