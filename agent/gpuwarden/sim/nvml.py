"""The simulated NVML library: an object with the C functions that pynvml looks up, in the place of libnvidia-ml.so.1.

pynvml and everything above it run unchanged, down to structure versions and return codes. What is answered comes from
a `Source`: the world of this process, or a client of the server's.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gpuwarden.sim import nvml_gpm, nvml_mig, nvml_set
from gpuwarden.sim.fault import NOT_MIG
from gpuwarden.sim.marshal import (
    INSUFFICIENT_SIZE,
    SUCCESS,
    field_type,
    number,
    set_pointer,
    split,
    store,
    store_text,
    target,
)
from gpuwarden.sim.sheet import CardSheet, NodeSheet
from gpuwarden.sim.world import Event

# return codes. Source: nvml.h, nvmlReturn_t
UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND, TIMEOUT, VERSION_MISMATCH = 1, 2, 3, 6, 10, 25
_WORDS = {
    0: b"Success",
    1: b"Uninitialized",
    2: b"Invalid Argument",
    3: b"Not Supported",
    4: b"Insufficient Permissions",
    6: b"Not Found",
    7: b"Insufficient Size",
    9: b"Driver Not Loaded",
    10: b"Timeout",
    13: b"Function Not Found",
    15: b"GPU is lost",
    16: b"GPU requires reset",
    25: b"Argument version mismatch",
}

_BASE, _PER_SESSION, _PER_SLOT = 0x5300_0000_0000, 0x10_0000, 0x1000  # what handles look like; never dereferenced
_THROUGHPUT_SECONDS = 0.02  # the driver samples that long. Source: nvml.h, nvmlDeviceGetPcieThroughput

_D = "nvmlDeviceGet"
_PLAIN_NAMES = """
UUID Name Serial VbiosVersion MinorNumber Index BoardPartNumber Architecture CudaComputeCapability PciInfo_v3
Brand InforomImageVersion InforomVersion ApplicationsClock GridLicensableFeatures_v4
Temperature TemperatureV TemperatureThreshold MarginTemperature NumFans FanSpeed FanSpeed_v2 FanSpeedRPM
PowerUsage EnforcedPowerLimit PowerManagementLimit PowerManagementDefaultLimit TotalEnergyConsumption
PowerManagementLimitConstraints ClockInfo MaxClockInfo MaxCustomerBoostClock PerformanceState
CurrentClocksEventReasons CurrentClocksThrottleReasons UtilizationRates EncoderUtilization DecoderUtilization
JpgUtilization OfaUtilization MemoryInfo MemoryInfo_v2 BAR1MemoryInfo EccMode DefaultEccMode TotalEccErrors
MemoryErrorCounter SramEccErrorStatus RemappedRows RowRemapperHistogram RetiredPagesPendingStatus
PersistenceMode MigMode DisplayActive DisplayMode CurrPcieLinkGeneration CurrPcieLinkWidth
MaxPcieLinkGeneration GpuMaxPcieLinkGeneration MaxPcieLinkWidth PcieReplayCounter PcieThroughput NvLinkState
SupportedEventTypes GpuFabricInfoV RepairStatus UnrepairableMemoryFlag_v1
FanControlPolicy_v2 MinMaxFanSpeed TargetFanSpeed MaxMigDeviceCount GpuInstanceId ComputeInstanceId Attributes_v2
"""
_PLAIN = frozenset(_D + name for name in _PLAIN_NAMES.split())
"""Functions that take the handle, perhaps numbers, and fill what they are handed."""

_STRUCT_VERSION = {  # source: nvml.h, the low three bytes are the structure's size
    _D + "TemperatureV": 0x0100000C,
    _D + "MarginTemperature": 0x01000008,
    _D + "FanSpeedRPM": 0x0100000C,
    _D + "MemoryInfo_v2": 0x02000028,
    _D + "SramEccErrorStatus": 0x01000068,
    _D + "GpuFabricInfoV": 0x02000024,
    _D + "RepairStatus": 0x0100000C,
    _D + "UnrepairableMemoryFlag_v1": 0x01000008,
}
_NEWER_VERSION = {_D + "GpuFabricInfoV": 0x03000028}
_STRUCT_INPUT = {_D + "TemperatureV": "sensorType", _D + "FanSpeedRPM": "fan"}


class Source(Protocol):
    """Where the library's answers come from. All methods may be called from any thread."""

    def node(self) -> NodeSheet:
        """Return the node's sheet."""

    def card(self, slot: int) -> CardSheet:
        """Return one card's sheet."""

    def blocked(self, slot: int | None, function: str) -> None:
        """Sit in a call that does not answer now; returns when it is worth asking for the sheet again."""

    def delayed(self, seconds: float) -> None:
        """Take that long."""

    def crash(self, slot: int) -> None:
        """End as a process does whose library crashes."""

    def set_on(self, slot: int, function: str, numbers: Sequence[int]) -> int:
        """Call a setter on a card and return its code."""

    def events(self, after: int, seconds: float) -> Sequence[Event]:
        """Return the events after a number, waiting that long at most for one to come."""


class _EventSet:
    def __init__(self, session: int) -> None:
        self.session = session
        self.masks: dict[int, int] = {}
        self.after = 0


class _Function:
    """A C function as ctypes shows it: it can be called, and given a `restype`."""

    restype: Any = ctypes.c_int

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


class SimLibrary:
    """The library. Attribute access gives C functions; one that NVML has and this has not raises AttributeError."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._inits = 0
        self._session = 0
        self._listed: tuple[tuple[int, str, str], ...] = ()
        self._sets: dict[int, _EventSet] = {}
        self._next_set = _BASE - _PER_SLOT
        self.buffers = nvml_gpm.Buffers()

    def answer_from(self, source: Source) -> None:
        """Begin anew with another source: nothing is left of sessions before."""
        with self._lock:
            self.source = source
            self._inits = self._session = 0
            self._sets.clear()
            self.buffers = nvml_gpm.Buffers()

    def __getattr__(self, name: str) -> _Function:
        """Return a C function by name. Raises: AttributeError, which pynvml turns into FUNCTION_NOT_FOUND."""
        if name in _PLAIN:
            return _Function(lambda *arguments: self._plain(name, *arguments))
        method = _METHODS.get(name)
        if method is None:
            raise AttributeError(name)
        return _Function(lambda *arguments: method(self, name, *arguments))

    # ---- the session

    def _init(self, name: str, *_: Any) -> int:
        node = self._node(name)
        if node.init_code:
            return node.init_code
        with self._lock:
            if not self._inits or node.session != self._session:
                self._listed = tuple(
                    zip(node.slots, node.uuids, node.bdfs, strict=True)
                )  # as long as the session lives
            self._inits += 1
            self._session = node.session
        return SUCCESS

    def _shutdown(self, _: str) -> int:
        with self._lock:
            if not self._inits:
                return UNINITIALIZED
            self._inits -= 1
        return SUCCESS

    def _error_string(self, _: str, code: Any) -> bytes:
        return _WORDS.get(number(code), b"Unknown Error")

    def _node(self, name: str) -> NodeSheet:
        """Return the node's sheet once the call is not hung."""
        node = self.source.node()
        while name in node.hung:
            self.source.blocked(None, name)
            node = self.source.node()
        return node

    def _open_node(self, name: str) -> NodeSheet | None:
        """Return the node's sheet, None where there is no session, or no more."""
        node = self._node(name)
        return node if self._inits and node.session == self._session else None

    def _system(self, name: str, out: Any, length: Any = None) -> int:
        node = self._open_node(name)
        if node is None:
            return UNINITIALIZED
        if name == "nvmlSystemGetDriverVersion":
            return store_text(out, length, node.driver)
        if name == "nvmlSystemGetNVMLVersion":
            return store_text(out, length, f"{node.cuda // 1000}.{node.driver}")
        return store(out, node.cuda)

    def _count(self, name: str, out: Any) -> int:
        node = self._open_node(name)
        return UNINITIALIZED if node is None else store(out, len(self._listed))

    # ---- handles

    def _by_index(self, name: str, index: Any, out: Any) -> int:
        node = self._open_node(name)
        if node is None:
            return UNINITIALIZED
        at = number(index)
        return self._hand_out(name, self._listed[at][0], out) if 0 <= at < len(self._listed) else INVALID_ARGUMENT

    def _by_name(self, name: str, wanted: Any, out: Any) -> int:
        node = self._open_node(name)
        if node is None:
            return UNINITIALIZED
        text = (wanted.value or b"").decode(errors="replace").lower()
        for slot, uuid, bdf in self._listed:
            known = uuid if name.endswith("UUID") else bdf
            if known.lower() == text or known.lower() == text.removeprefix("0000"):
                return self._hand_out(name, slot, out)
        return NOT_FOUND

    def _hand_out(self, name: str, slot: int, out: Any) -> int:
        sheet = self._usable(name, slot)
        if sheet.handle_code:
            return sheet.handle_code
        set_pointer(out._obj, _BASE + self._session * _PER_SESSION + slot * _PER_SLOT)
        return SUCCESS

    def slot(self, handle: Any) -> int | None:
        """Return the slot of a handle of this session, None for any other pointer."""
        session, rest = divmod(_address(handle) - _BASE, _PER_SESSION)
        return rest // _PER_SLOT if session == self._session and self._inits else None

    def part(self, handle: Any) -> int:
        """Return where within its card's addresses a handle lies; 0 is the card itself."""
        return (_address(handle) - _BASE) % _PER_SLOT

    def _usable(self, name: str, slot: int) -> CardSheet:
        """Return a card's sheet, after what faults do to a call: to hang, to kill its process, to be slow."""
        sheet = self.source.card(slot)
        while _named(name, sheet.hung):
            self.source.blocked(slot, name)
            sheet = self.source.card(slot)
        if _named(name, sheet.crash):
            self.source.crash(slot)
        if sheet.delay_seconds and _named(name, sheet.delayed):
            self.source.delayed(sheet.delay_seconds)
        return sheet

    def is_open(self, name: str) -> bool:
        """Return whether there is a session."""
        return self._open_node(name) is not None

    def sheet(self, name: str, handle: Any) -> tuple[CardSheet | None, int]:
        """Return (sheet, 0), or (None, code) for a call that cannot be answered."""
        slot = self.slot(handle)
        if slot is None:
            return None, UNINITIALIZED
        sheet = self._usable(name, slot)
        if sheet.session != self._session:
            return None, UNINITIALIZED
        code = sheet.code or sheet.codes.get(name, SUCCESS)
        if code:
            return None, code
        part = self.part(handle)
        return (sheet, SUCCESS) if part == 0 else nvml_mig.instance(sheet, part)

    # ---- what cards say

    def _plain(self, name: str, handle: Any, *arguments: Any) -> int:
        sheet, code = self.sheet(name, handle)
        if sheet is None:
            return code
        if name == _D + "PcieThroughput":
            self.source.delayed(_THROUGHPUT_SECONDS)
        inputs, outputs = split(arguments)
        if name in _STRUCT_VERSION:
            struct = target(outputs[0][0])
            if struct.version not in (_STRUCT_VERSION[name], _NEWER_VERSION.get(name)):
                return VERSION_MISMATCH
            if name in _STRUCT_INPUT:
                inputs.append(getattr(struct, _STRUCT_INPUT[name]))
        answer = sheet.answers.get(":".join((name, *map(str, inputs))))
        if answer is None:
            return NOT_SUPPORTED
        several = answer if isinstance(answer, list) else [answer]
        for (out, length), value in zip(outputs, several, strict=False):
            stored = store_text(out, length, value) if isinstance(value, str) else store(out, value)
            if stored != SUCCESS:
                return stored
        return SUCCESS

    def _fields(self, name: str, handle: Any, count: Any, values: Any) -> int:
        sheet, code = self.sheet(name, handle)
        if sheet is None:
            return code
        for value in target(values)[: number(count)]:
            answer = sheet.answers.get(f"FI:{value.fieldId}:{value.scopeId}", sheet.answers.get(f"FI:{value.fieldId}"))
            value.timestamp = int(time.time() * 1e6)
            value.nvmlReturn = SUCCESS if isinstance(answer, int | float) else NOT_SUPPORTED
            if isinstance(answer, int | float):
                value.value.ullVal = 0
                kind, member = field_type(value.fieldId)
                value.valueType = kind
                setattr(value.value, member, int(answer))
        return SUCCESS

    def _processes(self, name: str, handle: Any, count: Any, rows: Any) -> int:
        sheet, code = self.sheet(name, handle)
        if sheet is None:
            return code
        found = sheet.answers.get(name, [])
        assert isinstance(found, list)
        room, count._obj.value = count._obj.value, len(found)
        if len(found) > (room if rows is not None else 0):
            return INSUFFICIENT_SIZE
        for row, process in zip(rows or (), found, strict=False):
            assert isinstance(process, list)
            row.pid, row.usedGpuMemory = process
            row.gpuInstanceId = row.computeInstanceId = NOT_MIG
        return SUCCESS

    def _retired(self, name: str, handle: Any, cause: Any, count: Any, *arrays: Any) -> int:
        sheet, code = self.sheet(name, handle)
        if sheet is None:
            return code
        found = sheet.answers.get(f"{name}:{number(cause)}")
        if found is None:
            return NOT_SUPPORTED
        assert isinstance(found, list)
        room, count._obj.value = count._obj.value, len(found)
        if len(found) > (room if arrays[0] is not None else 0):
            return INSUFFICIENT_SIZE
        for place, page in enumerate(found):
            assert isinstance(page, list)
            for array, value in zip(arrays, page, strict=False):  # _v2 takes times beside the pages
                array[place] = value
        return SUCCESS

    # ---- events

    def _create_set(self, name: str, out: Any) -> int:
        node = self._open_node(name)
        if node is None:
            return UNINITIALIZED
        with self._lock:
            self._next_set -= _PER_SLOT
            created = self._sets[self._next_set] = _EventSet(self._session)
            created.after = node.last_event
            set_pointer(out._obj, self._next_set)
        return SUCCESS

    def _free_set(self, _: str, handle: Any) -> int:
        known = self._sets.pop(ctypes.cast(handle, ctypes.c_void_p).value or 0, None)
        return INVALID_ARGUMENT if known is None else SUCCESS

    def _register(self, name: str, handle: Any, kinds: Any, set_handle: Any) -> int:
        sheet, code = self.sheet(name, handle)
        if sheet is None:
            return code
        events = self._sets.get(ctypes.cast(set_handle, ctypes.c_void_p).value or 0)
        slot = self.slot(handle)
        if events is None or slot is None:
            return INVALID_ARGUMENT
        offered = sheet.answers[_D + "SupportedEventTypes"]
        assert isinstance(offered, int)
        if number(kinds) & ~offered:
            return NOT_SUPPORTED
        events.masks[slot] = events.masks.get(slot, 0) | number(kinds)
        return SUCCESS

    def _wait(self, name: str, set_handle: Any, out: Any, milliseconds: Any) -> int:
        events = self._sets.get(ctypes.cast(set_handle, ctypes.c_void_p).value or 0)
        if events is None:
            return INVALID_ARGUMENT
        until = time.monotonic() + number(milliseconds) / 1000
        while True:
            if self._open_node(name) is None or events.session != self._session:
                return UNINITIALIZED
            left = max(0.0, until - time.monotonic())
            arrived = self.source.events(events.after, min(left, 1.0))
            for event in arrived:
                events.after = event.sequence
                if event.kind & events.masks.get(event.slot, 0):
                    return self._tell(event, out._obj)
            if not arrived and time.monotonic() >= until:
                return TIMEOUT

    def _tell(self, event: Event, data: Any) -> int:
        set_pointer(data, _BASE + self._session * _PER_SESSION + event.slot * _PER_SLOT, type(data).device.offset)
        data.eventType, data.eventData = event.kind, event.data
        data.gpuInstanceId, data.computeInstanceId = event.gi, event.ci
        return SUCCESS


_METHODS: dict[str, Callable[..., Any]] = {
    "nvmlInit_v2": SimLibrary._init,
    "nvmlInitWithFlags": SimLibrary._init,
    "nvmlShutdown": SimLibrary._shutdown,
    "nvmlErrorString": SimLibrary._error_string,
    "nvmlSystemGetDriverVersion": SimLibrary._system,
    "nvmlSystemGetNVMLVersion": SimLibrary._system,
    "nvmlSystemGetCudaDriverVersion": SimLibrary._system,
    "nvmlSystemGetCudaDriverVersion_v2": SimLibrary._system,
    "nvmlDeviceGetCount_v2": SimLibrary._count,
    "nvmlDeviceGetHandleByIndex_v2": SimLibrary._by_index,
    "nvmlDeviceGetHandleByUUID": SimLibrary._by_name,
    "nvmlDeviceGetHandleByPciBusId_v2": SimLibrary._by_name,
    "nvmlDeviceGetFieldValues": SimLibrary._fields,
    "nvmlDeviceGetComputeRunningProcesses_v3": SimLibrary._processes,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": SimLibrary._processes,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": SimLibrary._processes,
    "nvmlDeviceGetRetiredPages": SimLibrary._retired,
    "nvmlDeviceGetRetiredPages_v2": SimLibrary._retired,
    "nvmlEventSetCreate": SimLibrary._create_set,
    "nvmlEventSetFree": SimLibrary._free_set,
    "nvmlDeviceRegisterEvents": SimLibrary._register,
    "nvmlEventSetWait_v2": SimLibrary._wait,
    **nvml_set.METHODS,
    **nvml_gpm.METHODS,
    **nvml_mig.METHODS,
}
FUNCTIONS: frozenset[str] = _PLAIN | _METHODS.keys()


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _named(name: str, functions: list[str] | None) -> bool:
    """Return whether a fault is about a function: None is about none, an empty list about every one."""
    return functions is not None and (not functions or name in functions)
