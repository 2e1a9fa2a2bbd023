"""What may be asked of the running daemon over its status socket: the requests of an operator on this host.

The socket's file permission is the authority. Every request is logged, and answered with what it came to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from gpuwarden.errors import InputError
from gpuwarden.exposition.http import Verb
from gpuwarden.model.kernel_log import parse_line
from gpuwarden.model.observation import (
    AnyObservation,
    ForgetGpu,
    Injected,
    KernelLogged,
    OperatorAsked,
    OperatorVerb,
    Stamp,
)
from gpuwarden.model.snapshot import GpuState, NodeState, Presence
from gpuwarden.sidethread import BusyError, SideThread
from gpuwarden.sim.client import inject

_SIM_DEADLINE_SECONDS = 5.0
_Shape = TypeVar("_Shape")


class Host(Protocol):
    """What the verbs need of the daemon."""

    def node(self) -> NodeState: ...

    def request(self, verb: str, payload: dict[str, Any]) -> None: ...


class Inject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/inject. `gpu` is an index; options are the fault's own."""

    fault: str
    gpu: int | None = None
    clear: bool = False
    options: dict[str, Any] = {}


class Forget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/forget. `gpu` is an index, uuid, serial or BDF."""

    gpu: str


class OnGpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/hold and /release. `gpu` is an index, uuid, serial or BDF; "host" is the whole host."""

    gpu: str
    why: str = ""
    by: str = ""


class ForTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/pause and /resume. `seconds` None is until resumed."""

    seconds: float | None = None
    why: str = ""
    by: str = ""


class OnCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/approve and /cancel."""

    case: str
    why: str = ""
    by: str = ""


HOST = "host"


class Verbs:
    """The requests this daemon answers, as a table for the HTTP server."""

    def __init__(
        self,
        host: Host,
        emit: Callable[[AnyObservation], None],
        clock: Callable[[], Stamp],
        sim_socket: Path | None,
    ) -> None:
        self._host = host
        self._emit = emit
        self._clock = clock
        self._sim_socket = sim_socket
        self._thread = SideThread("sim-client", 4)
        self._active: frozenset[tuple[str, int | None]] = frozenset()
        self.table: dict[str, Verb] = {
            "forget": self.forget,
            "inject": self.inject,
            "hold": partial(self._on_gpu, OperatorVerb.HOLD),
            "release": partial(self._on_gpu, OperatorVerb.RELEASE),
            "pause": partial(self._for_time, OperatorVerb.PAUSE),
            "resume": partial(self._for_time, OperatorVerb.RESUME),
            "approve": partial(self._on_case, OperatorVerb.APPROVE),
            "cancel": partial(self._on_case, OperatorVerb.CANCEL),
        }

    async def carry_out(self, verb: str, payload: dict[str, Any]) -> None:
        """Do what a written request asks; one that makes no sense is said in the log and done with."""
        try:
            await self.table[verb](payload)
        except (KeyError, InputError) as error:
            structlog.get_logger().warning("request.refused", verb=verb, detail=str(error))

    async def forget(self, body: dict[str, Any]) -> dict[str, Any]:
        """Drop a GPU that left for good. Raises: InputError for one that is not known or still answers."""
        asked = _typed(body, Forget)
        gpu = find_gpu(self._host.node(), asked.gpu)
        if gpu.presence is Presence.ANSWERING:
            raise InputError(f"GPU {gpu.index} ({gpu.identity.uuid}) is still there; forget is for cards that left")
        self._host.request("forget", {"uuid": gpu.identity.uuid})
        self._emit(ForgetGpu(at=self._clock(), uuid=gpu.identity.uuid))
        return {"forgotten": gpu.identity.uuid, "gpu": gpu.index}

    async def _on_gpu(self, verb: OperatorVerb, body: dict[str, Any]) -> dict[str, Any]:
        """Hold a GPU or the host, or release it. Raises: InputError for a GPU that is not known."""
        asked = _typed(body, OnGpu)
        uuid = "" if asked.gpu == HOST else find_gpu(self._host.node(), asked.gpu).identity.uuid
        return self._ask(OperatorAsked(at=self._clock(), verb=verb, uuid=uuid, why=asked.why, by=asked.by))

    async def _for_time(self, verb: OperatorVerb, body: dict[str, Any]) -> dict[str, Any]:
        """Pause everything that goes forward, or resume it."""
        asked, at = _typed(body, ForTime), self._clock()
        until = None if asked.seconds is None else at.wall + asked.seconds
        return self._ask(OperatorAsked(at=at, verb=verb, until=until, why=asked.why, by=asked.by))

    async def _on_case(self, verb: OperatorVerb, body: dict[str, Any]) -> dict[str, Any]:
        """Approve the present rung of a case, or cancel it. Raises: InputError for a case that is not open."""
        asked = _typed(body, OnCase)
        cases = self._host.node().remedy.cases
        if asked.case not in cases:
            raise InputError(f"no open case {asked.case!r}; open are: {', '.join(cases) or 'none'}")
        return self._ask(OperatorAsked(at=self._clock(), verb=verb, case=asked.case, why=asked.why, by=asked.by))

    def _ask(self, request: OperatorAsked) -> dict[str, Any]:
        told = {"uuid": request.uuid, "case": request.case, "until": request.until, "by": request.by}
        self._host.request(request.verb.value, told)
        self._emit(request)
        return {"asked": request.verb.value, **told}

    async def inject(self, body: dict[str, Any]) -> dict[str, Any]:
        """Put a fault into the simulated node, or an Xid line into a real one, marked as a drill."""
        asked = _typed(body, Inject)
        self._host.request("inject", {"fault": asked.fault, "target": asked.gpu, "clear": asked.clear})
        if self._sim_socket is not None:
            await self._inject_simulated(self._sim_socket, asked)
        else:
            self._inject_line(asked)
        return {"injected": asked.fault, "gpu": asked.gpu, "cleared": asked.clear}

    async def _inject_simulated(self, socket: Path, asked: Inject) -> None:
        def put() -> None:
            inject(socket, asked.fault, asked.gpu, clear=asked.clear, **asked.options)

        before, key = self._active, (asked.fault, asked.gpu)
        if not asked.clear:  # first: what comes of the fault may be here before the answer is
            self._drill(before | {key}, asked.fault)
        try:
            await self._thread.call(put, _SIM_DEADLINE_SECONDS)
        except InputError:
            self._drill(before, asked.fault)
            raise
        except (BusyError, TimeoutError, OSError) as error:
            self._drill(before, asked.fault)
            raise InputError(f"the simulated node did not take it: {error or type(error).__name__}") from None
        if asked.clear:
            self._drill(before - {key}, asked.fault)

    def _drill(self, active: frozenset[tuple[str, int | None]], detail: str) -> None:
        self._active = active
        self._emit(Injected(at=self._clock(), active=bool(active), detail=detail))

    def _inject_line(self, asked: Inject) -> None:
        """Say an Xid as a line that the kernel did not write. Nothing else can be put into a real node from here."""
        node = self._host.node()
        code = asked.options.get("code")
        if asked.fault != "xid" or not isinstance(code, int) or asked.gpu is None or asked.clear:
            raise InputError("into a real node only `inject xid --code N --gpu I` goes; other faults need --sim")
        gpu = find_gpu(node, str(asked.gpu))
        parsed = parse_line(f"NVRM: Xid (PCI:{gpu.identity.bdf.partition('.')[0]}): {code}, gpuwarden drill")
        if parsed is None:
            raise InputError(f"no such Xid: {code}")
        self._emit(
            KernelLogged(
                at=self._clock(),
                kind=parsed.kind,
                code=parsed.code,
                bdf=parsed.bdf,
                pid=None,
                text=parsed.text,
                from_kernel=False,
                sequence=0,
                drill=True,
            )
        )


def find_gpu(node: NodeState, name: str) -> GpuState:
    """Return the GPU with this index, uuid, serial or BDF. Raises: InputError naming what there is."""
    for gpu in node.gpus.values():
        identity = gpu.identity
        if name in (str(gpu.index), identity.uuid, identity.bdf) or (name and name == identity.serial):
            return gpu
    known = ", ".join(f"{gpu.index} ({gpu.identity.uuid})" for gpu in node.gpus.values()) or "none"
    raise InputError(f"no GPU {name!r} in the inventory; there is: {known}")


def _typed(body: dict[str, Any], shape: type[_Shape]) -> _Shape:
    try:
        return msgspec.convert(body, shape)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from None
