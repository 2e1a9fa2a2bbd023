"""Kubernetes as records and facts: the few fields that are read, and what they say. Pure.

Objects are never written back as they were read: a change is a patch of ours alone, so that fields which these records
do not know stay as they are. Source: the published OpenAPI of Kubernetes (core/v1, coordination.k8s.io/v1, policy/v1).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

TAINT = "gpuwarden.io/case"
CONDITION = "GpuwardenCase"
MARK = "gpuwarden.io/mark"
ATTEMPT = "gpuwarden.io/attempt"
CORDONED_BY = "gpuwarden.io/cordoned-by"
PAUSED = "gpuwarden.io/paused"
HELD_LABEL = "gpuwarden.io/held"
OPEN_REASON, HELD_REASON = "CaseOpen", "CaseHeld"
_VENDOR = "nvidia.com/"
_MIRROR = "kubernetes.io/config.mirror"


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all records: fields in the API's spelling, unknown ones passed over."""


class Owner(_Object, frozen=True, kw_only=True):
    """Who made an object."""

    kind: str
    name: str = ""


class Metadata(_Object, frozen=True, kw_only=True):
    """What every object has."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[Owner, ...] = ()
    deletion_timestamp: str | None = None


class Condition(_Object, frozen=True, kw_only=True):
    """One condition of a node."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class _NodeSpec(_Object, frozen=True, kw_only=True):
    unschedulable: bool = False
    taints: tuple[dict[str, Any], ...] = ()


class _NodeInfo(_Object, frozen=True, kw_only=True):
    boot_id: str = msgspec.field(name="bootID", default="")


class _NodeStatus(_Object, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()
    node_info: _NodeInfo = _NodeInfo()
    capacity: dict[str, Any] = {}


class Node(_Object, frozen=True, kw_only=True):
    """A node. Taints are kept as they came: the list is written as a whole."""

    metadata: Metadata
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()

    @property
    def case(self) -> str | None:
        """Return the case whose taint stands here; None where none does."""
        return next((str(each.get("value", "")) for each in self.spec.taints if is_ours(each)), None)

    @property
    def condition(self) -> Condition | None:
        """Return our condition where it is set."""
        return next((each for each in self.status.conditions if each.type == CONDITION), None)

    @property
    def ready(self) -> bool:
        """Return whether the kubelet says that it is well."""
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)

    @property
    def has_gpus(self) -> bool:
        """Return whether the node is one of the pool: it has, or had, GPUs to give."""
        return any(name.startswith(_VENDOR) for name in self.status.capacity)


class _Resources(_Object, frozen=True, kw_only=True):
    limits: dict[str, Any] = {}
    requests: dict[str, Any] = {}


class _Container(_Object, frozen=True, kw_only=True):
    resources: _Resources = _Resources()


class _PodSpec(_Object, frozen=True, kw_only=True):
    containers: tuple[_Container, ...] = ()
    init_containers: tuple[_Container, ...] = ()
    resource_claims: tuple[Any, ...] = ()
    node_selector: dict[str, str] = {}


class _PodStatus(_Object, frozen=True, kw_only=True):
    phase: str = ""


class Pod(_Object, frozen=True, kw_only=True):
    """A pod of this node."""

    metadata: Metadata
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()

    @property
    def name(self) -> str:
        """Return namespace and name, for people."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def finished(self) -> bool:
        """Return whether nothing of it runs any more."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def of_the_node(self) -> bool:
        """Return whether it belongs to the node and not to anybody's work: a DaemonSet's, or a mirror of a file."""
        return self.mirror or any(owner.kind == "DaemonSet" for owner in self.metadata.owner_references)

    @property
    def mirror(self) -> bool:
        """Return whether the kubelet made it from a file: it cannot be evicted."""
        return _MIRROR in self.metadata.annotations

    @property
    def wants_gpus(self) -> bool:
        """Return whether it may have a GPU. What a resource claim stands for is not told here: it may."""
        containers = (*self.spec.containers, *self.spec.init_containers)
        named = {name for each in containers for name in (*each.resources.limits, *each.resources.requests)}
        return bool(self.spec.resource_claims) or any(name.startswith(_VENDOR) for name in named)


class _LeaseSpec(_Object, frozen=True, kw_only=True):
    holder_identity: str | None = None
    renew_time: str | None = None
    lease_duration_seconds: int | None = None


class Lease(_Object, frozen=True, kw_only=True):
    """A slot of the fleet: held by somebody without end, or at rest for a while after that."""

    metadata: Metadata
    spec: _LeaseSpec = _LeaseSpec()

    @property
    def holder(self) -> str:
        """Return `node/case`, "" where nobody holds it."""
        return self.spec.holder_identity or ""

    def free(self, wall: float) -> bool:
        """Return whether it may be taken: nobody holds it and its rest is over."""
        spec = self.spec
        if self.holder:
            return False
        if spec.renew_time is None:
            return True
        return wall >= datetime.fromisoformat(spec.renew_time).timestamp() + (spec.lease_duration_seconds or 0)


def is_ours(taint: dict[str, Any]) -> bool:
    """Return whether a taint is one of gpuwarden's, whichever case it is of."""
    return taint.get("key") == TAINT and taint.get("effect") == "NoSchedule"


def work_of(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    """Return what a reboot would end: everything that is not the node's own."""
    return tuple(pod for pod in pods if not pod.finished and not pod.of_the_node)


def gpu_work_of(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    """Return what a reset of any GPU may end: whoever asked for a GPU, whoever made it."""
    return tuple(pod for pod in pods if not pod.finished and pod.wants_gpus)


def time_of(wall: float) -> str:
    """Return a moment as metav1.Time spells it."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time_of(wall: float) -> str:
    """Return a moment as metav1.MicroTime spells it."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
