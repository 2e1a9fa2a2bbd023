"""A cluster to test against: the fake API server, or a real one where `GPUWARDEN_KUBERNETES` names its directory.

What a test arranges or looks at goes through the API as an administrator's request, so the same tests run on both.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import yaml
from msgspec.structs import replace

from gpuwarden.actuators.kubernetes import KubernetesBackend
from gpuwarden.actuators.site import Place, Site
from gpuwarden.config import Config
from gpuwarden.model.case import ActionKind, Intent
from gpuwarden.model.stamp import Stamp
from support.kubeapi import ADMIN, AGENT, FakeApi, served

RBAC = Path(__file__).parents[2] / "deploy" / "kubernetes" / "rbac.yaml"
_A = ActionKind
_MERGE = "application/merge-patch+json"
_NUMBERS = itertools.count(1)


def manifest() -> list[dict[str, Any]]:
    """Return the objects of the RBAC manifest."""
    return list(yaml.safe_load_all(RBAC.read_text("utf-8")))


def granted() -> list[tuple[str, dict[str, Any]]]:
    """Return what the manifest allows, as (namespace or "" for all, rule)."""
    return [
        (each["metadata"].get("namespace", ""), rule)
        for each in manifest()
        if each["kind"] in ("Role", "ClusterRole")
        for rule in each["rules"]
    ]


def intent(action: ActionKind, case: str = "1f0c77aa-c1", *, seconds: float = 10.0, **more: Any) -> Intent:
    """Return an intent as the state machine makes them."""
    mark = f"gpuwarden {case} xid.xid_79 gpu3"
    given = {"id": f"{case}/0.0.0/{action.value}", "mark": mark, "uuid": "GPU-1", "bdf": "0000:3b:00.0", **more}
    return Intent(case=case, action=action, made=Stamp("b", 1.0, 1.0), deadline_seconds=seconds, **given)


class Cluster:
    """One cluster, its administrator, and back ends on its nodes. `fake` is None where it is real."""

    def __init__(self, url: str, folder: Path, *, admin: str, agent: str, ca: str = "", fake: FakeApi | None) -> None:
        self.fake = fake
        self.url, self.folder, self.ca = url, folder, ca
        self.token_file = folder / "token"
        self.token_file.write_text(agent)
        self._http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {admin}"},
            verify=ssl.create_default_context(cafile=ca) if ca else False,
            trust_env=False,
        )

    # ---- the administrator

    def admin(self, method: str, path: str, body: Any = None, media: str = "application/json") -> dict[str, Any]:
        """Make a request as the administrator; it must succeed."""
        content = None if body is None else json.dumps(body).encode()
        answer = self._http.request(method, path, content=content, headers={"Content-Type": media})
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def new_node(self, *, boot: str = "boot-1", gpus: int = 8, **more: Any) -> str:
        """Make a node that is Ready and has GPUs; `more` are labels, taints and unschedulable."""
        name = f"gpu-{secrets.token_hex(3)}-{next(_NUMBERS)}"
        metadata = {"name": name, "labels": more.pop("labels", {})}
        self.admin("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": more})
        if self.node(name)["spec"].get("taints", []) != more.get("taints", []):  # a real one starts as not ready
            self.patch_node(name, {"spec": {"taints": more.get("taints")}})
        self.patch_node(name, {"status": {"capacity": {"nvidia.com/gpu": str(gpus)}} if gpus else {}}, "/status")
        self.boots(name, boot)
        return name

    def boots(self, name: str, boot: str) -> None:
        """Have the kubelet say that the host came up in a boot, and that it is well."""
        info = dict.fromkeys(
            ("architecture", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "kubeletVersion",
             "machineID", "operatingSystem", "osImage", "systemUUID"), "x",
        )  # fmt: skip
        now = "2026-01-01T00:00:00Z"
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                 "lastHeartbeatTime": now, "lastTransitionTime": now}  # fmt: skip
        status = {"nodeInfo": {**info, "bootID": boot}, "conditions": [ready]}
        self.admin(
            "PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, "application/strategic-merge-patch+json"
        )

    def node(self, name: str) -> dict[str, Any]:
        """Return a node."""
        return self.admin("GET", f"/api/v1/nodes/{name}")

    def patch_node(self, name: str, change: dict[str, Any], sub: str = "") -> None:
        """Change a node."""
        self.admin("PATCH", f"/api/v1/nodes/{name}{sub}", change, _MERGE)

    def new_pod(self, node: str, name: str, *, gpus: int = 0, owner: str = "ReplicaSet", **more: Any) -> str:
        """Put a pod on a node and return its path. `more`: labels, annotations, node_selector."""
        name = f"{name}-{node}"
        metadata = {"name": name, "labels": more.get("labels", {}), "annotations": more.get("annotations", {})}
        if owner != "Node":
            metadata["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": "u-1"}]
        resources = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
        spec = {
            "nodeName": node,
            "containers": [{"name": "c", "image": "x", "resources": resources}],
            "terminationGracePeriodSeconds": 600,
            "nodeSelector": more.get("node_selector", {}),
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.admin("POST", "/api/v1/namespaces/default/pods", body)
        path = f"/api/v1/namespaces/default/pods/{name}"
        self.admin("PATCH", f"{path}/status", {"status": {"phase": "Running"}}, _MERGE)
        return path

    def leaving(self, path: str) -> bool:
        """Return whether a pod has been told to leave."""
        return "deletionTimestamp" in self.admin("GET", path)["metadata"]

    def leases(self) -> dict[str, str | None]:
        """Return the slots and their holders."""
        found = self.admin("GET", "/apis/coordination.k8s.io/v1/namespaces/gpuwarden/leases")["items"]
        return {each["metadata"]["name"]: each["spec"].get("holderIdentity") for each in found}

    def forget_leases(self) -> None:
        """Delete all slots."""
        for name in self.leases():
            self.admin("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/gpuwarden/leases/{name}")

    # ---- the agent

    def site(self, node: str, *, boot: str = "boot-1", cordon: bool = False, **budget: Any) -> Site:
        """Return the site of an actuator on a node whose own boot id is `boot`."""
        folder = self.folder / node
        boot_id = folder / "proc" / "sys" / "kernel" / "random" / "boot_id"
        boot_id.parent.mkdir(parents=True, exist_ok=True)
        boot_id.write_text(f"{boot}\n")
        config = Config()
        isolation = replace(
            config.isolation, backend="kubernetes", node_name=node, cordon=cordon, kubeconfig=str(self.kubeconfig())
        )
        config = replace(config, isolation=isolation, budget=replace(config.budget, **budget))
        return Site(config=config, place=Place(proc=str(folder / "proc")))

    def backend(self, node: str, *, wall: float | None = None, **more: Any) -> KubernetesBackend:
        """Return a back end on a node; `wall` is its clock where that matters."""
        site = self.site(node, **more)
        return KubernetesBackend(site) if wall is None else KubernetesBackend(site, wall=lambda: wall)

    def kubeconfig(self) -> Path:
        """Return a kubeconfig with the agent's token in a file of its own."""
        cluster = {
            "server": self.url,
            **({"certificate-authority": self.ca} if self.ca else {"insecure-skip-tls-verify": True}),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"tokenFile": str(self.token_file)}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = self.folder / "kubeconfig"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Yield a cluster with the manifest's rights for the agent."""
    lab = os.environ.get("GPUWARDEN_KUBERNETES")
    if lab:
        url, ca = (Path(lab) / "url").read_text().strip(), str(Path(lab) / "certs" / "apiserver.crt")
        yield Cluster(url, folder, admin="admintoken", agent="agenttoken", ca=ca, fake=None)
        return
    fake = FakeApi(granted())
    with served(fake) as url:
        yield Cluster(url, folder, admin=ADMIN, agent=AGENT, fake=fake)
