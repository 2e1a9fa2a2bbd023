"""An object where pynvml expects the shared library: functions answer as a test says, through the same ctypes outputs.

Not a simulator: it knows nothing of GPUs. A function that is not named does not exist, as in an older library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml

Answer = int | dict[str, Any] | Callable[..., int]


class FakeLibrary:
    """`functions` maps a C function to what it does:

    an int: it returns that code; {"out": x}: it writes x into its last output and returns 0; {"set": {...}}: it sets
    members of the structure its last output is; a callable is called with the arguments. `fields` maps a field id to
    (member, value) or to a return code.
    """

    def __init__(self, functions: dict[str, Answer] | None = None, fields: dict[int, Any] | None = None) -> None:
        self.functions: dict[str, Answer] = {"nvmlInitWithFlags": 0, "nvmlShutdown": 0, **(functions or {})}
        self.fields = fields
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name == "nvmlDeviceGetFieldValues" and self.fields is not None:
            return self._field_values
        if name not in self.functions:
            raise AttributeError(name)
        return lambda *arguments: self._answer(name, arguments)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> int:
        self.calls.append(name)
        answer = self.functions[name]
        if callable(answer):
            return answer(*arguments)
        if isinstance(answer, int):
            return answer
        output = next(a for a in reversed(arguments) if hasattr(a, "_obj") or hasattr(a, "value"))
        target = getattr(output, "_obj", output)
        if "out" in answer:
            target.value = answer["out"]
        for member, value in answer.get("set", {}).items():
            setattr(target, member, value)
        return 0

    def _field_values(self, _handle: Any, _count: Any, array: Any) -> int:
        self.calls.append("nvmlDeviceGetFieldValues")
        assert self.fields is not None
        for entry in array._obj:
            known = self.fields.get(entry.fieldId, pynvml.NVML_ERROR_NOT_SUPPORTED)
            if isinstance(known, int):
                entry.nvmlReturn = known
            else:
                entry.nvmlReturn = 0
                setattr(entry.value, known[0], known[1])
        return 0


@contextmanager
def library(fake: object) -> Iterator[None]:
    """Put an object where pynvml keeps the library, with nothing remembered of another one."""
    before, pynvml.nvmlLib = pynvml.nvmlLib, fake
    pynvml._nvmlGetFunctionPointer_cache.clear()
    try:
        yield
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()
