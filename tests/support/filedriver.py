"""An NVML worker on a made-up library that is steered by files: `python -m filedriver`, files in $FILEDRIVER_DIR.

`count` holds the number of GPUs, `init` the code nvmlInit answers, `read-init` a path that it reads first;
`code-<i>` the code of every call on GPU i, `deep-<i>` a file that every call on it reads. While `hang-<i>` (or
`hang-init`) exists, calls on it do not return; `crash` makes the next call kill the process. `sys` is its sysfs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from fakenvml import FakeLibrary

from gpuwarden.nvml.session import use_library
from gpuwarden.nvml.worker import main

ROOT = Path(os.environ["FILEDRIVER_DIR"])


def _number(name: str, otherwise: int = 0) -> int:
    try:
        return int((ROOT / name).read_text() or otherwise)
    except OSError:
        return otherwise


def _wait(name: str) -> None:
    while (ROOT / name).exists():
        time.sleep(0.01)


def _index(handle: Any) -> int:
    return (ctypes.cast(handle, ctypes.c_void_p).value or 0) - 0x1000


def _of(handle: Any) -> int:
    """Return the code of a call on one GPU; hangs or dies as the files say."""
    if (ROOT / "crash").exists():
        (ROOT / "crash").unlink()
        os.kill(os.getpid(), signal.SIGSEGV)
    _wait(f"hang-{_index(handle)}")
    if (deep := ROOT / f"deep-{_index(handle)}").exists():
        Path(deep.read_text()).read_bytes()
    return _number(f"code-{_index(handle)}")


def _init(_: Any) -> int:
    os.write(1, b"a library that prints must not disturb the frames\n")
    _wait("hang-init")
    if (ROOT / "read-init").exists():
        Path((ROOT / "read-init").read_text()).read_bytes()
    return _number("init")


def _count(out: Any) -> int:
    out._obj.value = _number("count", 1)
    return 0


def _handle(index: Any, out: Any) -> int:
    number = getattr(index, "value", index)
    pointer = ctypes.cast(0x1000 + number, type(out._obj))
    ctypes.pointer(out._obj)[0] = pointer
    return _of(pointer)


def _handle_at(bdf: Any, out: Any) -> int:
    return _handle(int(bdf.value[5:7], 16) - 0x10, out)


def _pci(handle: Any, out: Any) -> int:
    out._obj.domain, out._obj.bus, out._obj.device = 0, 0x10 + _index(handle), 0
    return _of(handle)


def _uuid(handle: Any, buffer: Any, _: Any) -> int:
    buffer.value = f"GPU-{_index(handle)}".encode()
    return _of(handle)


def _temperature(handle: Any, _: Any, out: Any) -> int:
    code = _of(handle)
    out._obj.value = 40 + _index(handle)
    return code


if __name__ == "__main__":
    use_library(
        FakeLibrary(
            {
                "nvmlInitWithFlags": _init,
                "nvmlDeviceGetCount_v2": _count,
                "nvmlDeviceGetHandleByIndex_v2": _handle,
                "nvmlDeviceGetHandleByPciBusId_v2": _handle_at,
                "nvmlDeviceGetPciInfo_v3": _pci,
                "nvmlDeviceGetUUID": _uuid,
                "nvmlDeviceGetTemperature": _temperature,
            }
        )
    )
    main(ROOT / "sys")
