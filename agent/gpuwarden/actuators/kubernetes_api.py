"""The API server over HTTPS: one method per request that is made of it, and one error with what it means for us.

Address, certificates and credentials come from `lightkube` (the optional extra `kubernetes`), imported only here and
only when used. A token is read from its file, and once more when the server says it has expired.
"""

from __future__ import annotations

import enum
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from gpuwarden.actuators.backend import Answer, failed, refused, unknown
from gpuwarden.actuators.kubernetes_objects import Lease, Node, Pod

if TYPE_CHECKING:
    import httpx2

_CALL_SECONDS = 10.0
_LEAST_SECONDS = 0.1
_CHUNK = 500
_MOST_TOLD = 400
_MERGE, _STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
T = TypeVar("T")


class Cause(enum.Enum):
    """Why a request came to nothing, by what is to be done about it."""

    DENIED = "denied"  # nothing was written, and asking again changes nothing: 400, 401, 403, 422, no client
    ABSENT = "absent"  # 404
    CONFLICT = "conflict"  # 409: somebody was first; read again
    BUSY = "busy"  # 429: not now (a disruption budget, or the server itself)
    UNREACHED = "unreached"  # nothing was written: no connection, or a read that failed
    UNSURE = "unsure"  # a write whose answer never came: it may stand


class ApiError(Exception):
    """A request came to nothing. `pause_seconds` is what the server asks for before the next."""

    def __init__(self, cause: Cause, detail: str, pause_seconds: float = 0.0) -> None:
        super().__init__(detail)
        self.cause = cause
        self.pause_seconds = pause_seconds

    @property
    def answer(self) -> Answer:
        """Return what this means for an effect that ends with it."""
        if self.cause is Cause.UNSURE:
            return unknown(str(self))
        return refused(str(self)) if self.cause in (Cause.DENIED, Cause.ABSENT) else failed(str(self))


_MALFORMED = (LookupError, ValueError, TypeError, AttributeError, AssertionError)  # what a bad kubeconfig makes of it
_BY_STATUS = {404: Cause.ABSENT, 409: Cause.CONFLICT, 429: Cause.BUSY}


class Refusal(msgspec.Struct, frozen=True):
    """What the server says of a failure: the fields of metav1.Status that are told on."""

    message: str = ""
    reason: str = ""


class _ListMetadata(msgspec.Struct, frozen=True):
    next: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct, frozen=True):
    metadata: _ListMetadata = _ListMetadata()
    items: tuple[msgspec.Raw, ...] = ()


class _Resource(msgspec.Struct, frozen=True):
    name: str
    version: str = ""


class _Resources(msgspec.Struct, frozen=True):
    resources: tuple[_Resource, ...] = ()


class Api:
    """A connection with a deadline for all that is asked over it together."""

    def __init__(self, kubeconfig: str, seconds: float) -> None:
        self._http = _connected(kubeconfig)
        self._end = time.monotonic() + seconds

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    @property
    def seconds_left(self) -> float:
        """Return how long is left."""
        return self._end - time.monotonic()

    def pause(self, seconds: float) -> bool:
        """Wait, and return True; False at once where not that much time is left."""
        if seconds + _LEAST_SECONDS >= self.seconds_left:
            return False
        time.sleep(seconds)
        return True

    # ---- nodes

    def node(self, name: str) -> Node:
        """Return a node."""
        return _read(self._ask("GET", f"/api/v1/nodes/{quote(name)}"), Node)

    def nodes(self, selector: str = "") -> tuple[Node, ...]:
        """Return the nodes, all or those with a label. From the server's cache."""
        return self._list("/api/v1/nodes", Node, {"resourceVersion": "0", "labelSelector": selector})

    def patch_node(self, name: str, change: dict[str, Any]) -> None:
        """Change a node's metadata and spec, if `change` says the resource version it still has."""
        self._ask("PATCH", f"/api/v1/nodes/{quote(name)}", change, _MERGE)

    def patch_status(self, name: str, change: dict[str, Any]) -> None:
        """Change a node's status; lists are merged by their keys."""
        self._ask("PATCH", f"/api/v1/nodes/{quote(name)}/status", change, _STRATEGIC)

    # ---- pods

    def pods_on(self, node: str, *, cached: bool = False) -> tuple[Pod, ...]:
        """Return the pods of a node; `cached` ones may be some seconds old and cost the server little."""
        query = {"fieldSelector": f"spec.nodeName={node}", "resourceVersion": "0" if cached else ""}
        return self._list("/api/v1/pods", Pod, query)

    def eviction_version(self) -> str:
        """Return the version of `policy` in which evictions are asked for: v1, and v1beta1 before Kubernetes 1.22."""
        found = _read(self._ask("GET", "/api/v1"), _Resources)
        return next((each.version for each in found.resources if each.name == "pods/eviction"), "") or "v1"

    def evict(self, pod: Pod, version: str) -> None:
        """Ask for a pod's eviction: this very pod, none that has come by the same name."""
        name, space = pod.metadata.name, pod.metadata.namespace
        eviction = {
            "apiVersion": f"policy/{version}",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": space},
            "deleteOptions": {"preconditions": {"uid": pod.metadata.uid}},
        }
        self._ask("POST", f"/api/v1/namespaces/{quote(space)}/pods/{quote(name)}/eviction", eviction)

    # ---- leases

    def leases(self, space: str) -> tuple[Lease, ...]:
        """Return the leases of a namespace, as they are now."""
        return self._list(f"{_leases(space)}", Lease, {})

    def create_lease(self, space: str, lease: dict[str, Any]) -> None:
        """Make a lease: exactly one who tries the same name does."""
        self._ask("POST", _leases(space), lease)

    def patch_lease(self, space: str, name: str, change: dict[str, Any]) -> None:
        """Change a lease, if `change` says the resource version it still has."""
        self._ask("PATCH", f"{_leases(space)}/{quote(name)}", change, _MERGE)

    def delete_lease(self, space: str, lease: Lease) -> None:
        """Delete this very lease as it was read."""
        told = {"uid": lease.metadata.uid, "resourceVersion": lease.metadata.resource_version}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": told}
        self._ask("DELETE", f"{_leases(space)}/{quote(lease.metadata.name)}", options)

    # ---- the wire

    def _list(self, path: str, kind: type[T], query: dict[str, str]) -> tuple[T, ...]:
        found: list[T] = []
        query = {name: value for name, value in query.items() if value} | {"limit": str(_CHUNK)}
        while True:
            page = _read(self._ask("GET", path, query=query), _List)
            found += (_read(item, kind) for item in page.items)
            if not page.metadata.next:
                return tuple(found)
            query = {**query, "continue": page.metadata.next}
            query.pop("resourceVersion", None)

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        media: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> bytes:
        """Make one request and return what is answered. Raises: ApiError."""
        import httpx2

        writes = method != "GET"
        seconds = min(_CALL_SECONDS, self.seconds_left)
        if seconds < _LEAST_SECONDS:
            raise ApiError(Cause.UNREACHED, "no time is left to ask the API server")
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Accept": "application/json", **({"Content-Type": media} if content else {})}
        try:
            request = self._http.build_request(
                method, path, content=content, headers=headers, params=query, timeout=seconds
            )
            answer = self._http.send(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise ApiError(Cause.UNREACHED, f"the API server cannot be reached: {error}") from None
        except httpx2.HTTPError as error:
            words = f"{method} {path}: {str(error) or type(error).__name__}"
            raise ApiError(Cause.UNSURE if writes else Cause.UNREACHED, words) from None
        except _credentials_errors() as error:
            raise ApiError(Cause.DENIED, f"no credentials for the API server: {error}") from None
        if answer.is_success:
            return answer.content
        raise _error_of(answer, writes)


def _leases(space: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{quote(space)}/leases"


def _read(raw: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise ApiError(Cause.UNREACHED, f"the API server's answer is not understood: {error}") from None


def _error_of(answer: httpx2.Response, writes: bool) -> ApiError:
    """Return what a status that is no success means."""
    try:
        said = msgspec.json.decode(answer.content, type=Refusal)
    except msgspec.DecodeError:
        said = Refusal(message=answer.reason_phrase)
    detail = f"{answer.status_code} {said.reason}: {said.message}"[:_MOST_TOLD]
    pause = answer.headers.get("Retry-After", "")
    seconds = float(pause) if pause.isdecimal() else 0.0
    if answer.status_code >= 500:
        return ApiError(Cause.UNSURE if writes else Cause.UNREACHED, detail, seconds)
    return ApiError(_BY_STATUS.get(answer.status_code, Cause.DENIED), detail, seconds)


def _credentials_errors() -> tuple[type[Exception], ...]:
    from lightkube.core.exceptions import ConfigError

    return ConfigError, OSError


def _connected(kubeconfig: str) -> httpx2.Client:
    """Return an HTTP client with the address, certificates and credentials of a kubeconfig, or of the pod we are in.

    Raises: ApiError where the library, the file or what it says is missing, or others may write to the file.
    """
    try:
        import httpx2
        import yaml
        from lightkube.config.client_adapter import Client, ConnectionParams
        from lightkube.config.kubeconfig import KubeConfig
        from lightkube.core.exceptions import ConfigError
    except ImportError as error:
        raise ApiError(Cause.DENIED, f"{error.name} is missing: pip install 'gpuwarden[kubernetes]'") from None
    try:
        if kubeconfig:
            if Path(kubeconfig).stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ApiError(Cause.DENIED, f"{kubeconfig} can be written by others than its owner")
            config = KubeConfig.from_file(kubeconfig).get()
        else:
            config = KubeConfig.from_service_account().get()
        assert config is not None
        client = Client(config, ConnectionParams(timeout=httpx2.Timeout(_CALL_SECONDS), trust_env=False))
    except (ConfigError, OSError, yaml.YAMLError, *_MALFORMED) as error:
        where = kubeconfig or "the service account of this pod"
        raise ApiError(Cause.DENIED, f"{where} cannot be used: {error}") from None
    return client
