"""A whole case on a real kubelet, scheduler and controllers: run by lab.py, with a node of a made-up runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuwarden.actuators.backend import Answer
from gpuwarden.actuators.kubernetes import KubernetesBackend
from gpuwarden.model.case import ActionKind, Outcome, Surroundings
from support.kubecluster import Cluster, cluster, intent

_A = ActionKind
NODE, BOOT = "hollow-1", "boot-1"
_PODS = "/api/v1/namespaces/default/pods"
_MERGE = "application/merge-patch+json"
_PLUGIN = "nvidia.com/gpu.deploy.device-plugin"
_WAIT_SECONDS = 60.0


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as found:
        yield found
        found.forget_leases()


def until(done: Callable[[], bool]) -> None:
    """Wait for what the controllers do."""
    end = time.monotonic() + _WAIT_SECONDS
    while not done():
        assert time.monotonic() < end, "the controllers did not do it in time"
        time.sleep(0.2)


def on_this_host(kube: Cluster, act: Callable[[], Answer]) -> Answer:
    """Do something while the node has our boot id: a hollow kubelet has none, and says so every ten seconds."""
    for _ in range(3):
        change = {"status": {"nodeInfo": {"bootID": BOOT}}}
        kube.admin("PATCH", f"/api/v1/nodes/{NODE}/status", change, "application/strategic-merge-patch+json")
        answer = act()
        if "of boot unknown" not in answer.detail:
            break
    return answer


def pods(kube: Cluster, app: str) -> list[dict[str, Any]]:
    return kube.admin("GET", f"{_PODS}?labelSelector=app%3D{app}")["items"]


def running(kube: Cluster, app: str) -> int:
    return sum(
        each["status"]["phase"] == "Running" and "deletionTimestamp" not in each["metadata"] for each in pods(kube, app)
    )


def template(app: str, *, gpus: int = 0, **spec: Any) -> dict[str, Any]:
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    containers = [{"name": "c", "image": "x", "resources": resources}]
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 1, **spec},
    }


def deploy(kube: Cluster, kind: str, app: str, **spec: Any) -> None:
    body = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app},
            "spec": {"selector": {"matchLabels": {"app": app}}, **spec}}  # fmt: skip
    kube.admin("POST", f"/apis/apps/v1/namespaces/default/{kind.lower()}s", body)


def isolated(kube: Cluster, back: KubernetesBackend) -> None:
    assert on_this_host(kube, lambda: back.take_slot(intent(_A.TAKE_SLOT))).outcome is Outcome.DONE
    assert on_this_host(kube, lambda: back.isolate(intent(_A.ISOLATE))).outcome is Outcome.DONE


def test_a_case_empties_the_host_within_its_budgets_and_lets_work_back(kube: Cluster) -> None:
    """No new pod comes, the disruption budget is kept, the rest leaves, and after the release work is back."""
    more = {"status": {"capacity": {"nvidia.com/gpu": "8"}, "allocatable": {"nvidia.com/gpu": "8"}}}
    kube.admin("PATCH", f"/api/v1/nodes/{NODE}/status", more, "application/strategic-merge-patch+json")
    deploy(kube, "Deployment", "train", replicas=2, template=template("train", gpus=1))
    until(lambda: running(kube, "train") == 2)
    budgets = "/apis/policy/v1beta1/namespaces/default/poddisruptionbudgets"
    budget = {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "train"},
              "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "train"}}}}  # fmt: skip
    kube.admin("POST", budgets, budget)
    until(lambda: kube.admin("GET", f"{budgets}/train").get("status", {}).get("disruptionsAllowed") == 1)
    back = kube.backend(NODE, boot=BOOT, fleet_max_hosts=1)
    isolated(kube, back)
    evict = intent(_A.EVICT, seconds=6.0, before=_A.REBOOT)
    answer = on_this_host(kube, lambda: back.evict(evict))
    assert answer.outcome is Outcome.FAILED
    assert answer.detail.startswith("1 of 2 pods evicted; still there: default/train-")
    assert running(kube, "train") == 1
    kube.admin("DELETE", f"{budgets}/train")
    assert on_this_host(kube, lambda: back.evict(evict)).outcome is Outcome.DONE
    until(lambda: back.look(Surroundings()).jobs == 0)
    assert [each["status"]["phase"] for each in pods(kube, "train")] == ["Pending", "Pending"]
    assert on_this_host(kube, lambda: back.release(intent(_A.RELEASE))).outcome is Outcome.DONE
    assert on_this_host(kube, lambda: back.return_slot(intent(_A.RETURN_SLOT))).outcome is Outcome.DONE
    until(lambda: running(kube, "train") == 2)
    kube.admin("DELETE", "/apis/apps/v1/namespaces/default/deployments/train")


def test_the_operators_daemon_sets_leave_for_a_reset_and_come_back(kube: Cluster) -> None:
    """Their controller takes them away when the label changes; the pause lasts until they are gone."""
    kube.patch_node(NODE, {"metadata": {"labels": {_PLUGIN: "true"}}})
    deploy(kube, "DaemonSet", "plugin", template=template("plugin", nodeSelector={_PLUGIN: "true"}))
    until(lambda: running(kube, "plugin") == 1)
    back = kube.backend(NODE, boot=BOOT, fleet_max_hosts=1)
    isolated(kube, back)
    assert running(kube, "plugin") == 1
    assert on_this_host(kube, lambda: back.pause_holders(intent(_A.RESET, seconds=30.0))).outcome is Outcome.DONE
    assert [each for each in pods(kube, "plugin") if each["spec"].get("nodeName") == NODE] == []  # others wait for one
    assert on_this_host(kube, lambda: back.release(intent(_A.RELEASE))).outcome is Outcome.DONE
    until(lambda: running(kube, "plugin") == 1)
    assert kube.node(NODE)["metadata"]["labels"][_PLUGIN] == "true"
