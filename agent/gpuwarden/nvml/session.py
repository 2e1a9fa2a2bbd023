"""One NVML session: opened once per worker process, its failures as data."""

from __future__ import annotations

from typing import Any

import msgspec
import pynvml

from gpuwarden.nvml.codes import SUCCESS, code_of


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What nvmlInit came to. With `code` other than 0 there is no session: `where` names the call that failed, and
    `detail` says it in NVML's words, or in those of whatever else went wrong."""

    code: int = SUCCESS
    where: str = ""
    detail: str = ""
    driver: str = ""
    nvml: str = ""
    cuda: str = ""
    count: int = 0


def use_library(library: object) -> None:
    """Have pynvml call this object instead of libnvidia-ml.so.1. Not beside an open session."""
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()


def open_session() -> Session:
    """Initialise NVML and return versions and the number of GPUs, or the code of the call that refused.

    A library that lacks a version call is no reason to go without: that version stays "".
    """
    try:
        pynvml.nvmlInit()
    except Exception as error:  # whatever a foreign library does: its code is the answer
        return Session(code=code_of(error), where="nvmlInitWithFlags", detail=_words(error))
    try:
        count = int(pynvml.nvmlDeviceGetCount())
    except Exception as error:
        return Session(code=code_of(error), where="nvmlDeviceGetCount_v2", detail=_words(error))
    return Session(
        driver=text(pynvml.nvmlSystemGetDriverVersion),
        nvml=text(pynvml.nvmlSystemGetNVMLVersion),
        cuda=_cuda(),
        count=count,
    )


def close_session() -> None:
    """Shut NVML down; a library that cannot is left to the end of the process."""
    try:
        pynvml.nvmlShutdown()
    except Exception:  # we are on the way out, and there is nobody to tell
        return


def handle_of(index: int, bdf: str = "") -> tuple[Any, int]:
    """Return (handle, 0), or (None, code). This attaches the GPU: where a bad card answers badly, or not at all.

    With an address that one is attached and no other, whatever index it has.
    """
    try:
        if bdf:
            return pynvml.nvmlDeviceGetHandleByPciBusId(bdf.encode()), SUCCESS
        return pynvml.nvmlDeviceGetHandleByIndex(index), SUCCESS
    except Exception as error:
        return None, code_of(error)


def text(getter: Any, *arguments: Any) -> str:
    """Return what a string getter says, "" where it fails."""
    try:
        return decoded(getter(*arguments))
    except Exception:  # a name is never worth a GPU: every failure here is "the driver does not say"
        return ""


def decoded(found: str | bytes) -> str:
    """Return text as text: releases of the binding differ in what they give."""
    return found.decode(errors="replace") if isinstance(found, bytes) else found


def _words(error: Exception) -> str:
    """Return an error in words. NVML's errors ask the library for theirs, and a broken one may fail at that too."""
    try:
        return str(error)
    except Exception:
        return type(error).__name__


def _cuda() -> str:
    try:
        version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except Exception:
        return ""
    return f"{version // 1000}.{version % 1000 // 10}"
