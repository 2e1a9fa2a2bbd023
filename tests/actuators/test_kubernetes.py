"""Kubernetes: only our own is written, on the node that is this host, and only our own is taken away.

The same tests run on the fake API server and, by `make test-kubernetes`, on a real one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gpuwarden.model.case import ActionKind, Outcome, Surroundings
from support.kubecluster import Cluster, cluster, intent

_A = ActionKind
OURS = "gpuwarden.io/"
OTHERS = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}
PLUGIN, DCGM, DRIVER = (f"nvidia.com/gpu.deploy.{name}" for name in ("device-plugin", "dcgm", "driver"))


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as found:
        yield found
        found.forget_leases()


def case_id() -> str:
    return f"{secrets.token_hex(4)}-c1"


def taints(node: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {key: each[key] for key in ("key", "value", "effect") if key in each} for each in node["spec"].get("taints", [])
    ]


def ours_on(node: dict[str, Any]) -> list[str]:
    """Return everything of ours that stands on a node."""
    metadata = node["metadata"]
    named = [*metadata.get("annotations", {}), *metadata.get("labels", {}), *(each["key"] for each in taints(node))]
    found = [name for name in named if name.startswith(OURS)]
    return found + [each["type"] for each in node["status"].get("conditions", []) if each["type"] == "GpuwardenCase"]


# ---- isolate and release


def test_isolation_is_a_taint_a_condition_and_notes_and_nothing_else_changes(kube: Cluster) -> None:
    """Taints, labels, conditions and the cordon of others are as before, then and after the release."""
    name = kube.new_node(taints=[OTHERS], labels={"room": "3"})
    before = kube.node(name)
    back, case = kube.backend(name), case_id()
    assert back.isolate(intent(_A.ISOLATE, case)).outcome is Outcome.DONE
    node = kube.node(name)
    assert taints(node) == [OTHERS, {"key": "gpuwarden.io/case", "value": case, "effect": "NoSchedule"}]
    condition = next(each for each in node["status"]["conditions"] if each["type"] == "GpuwardenCase")
    assert (condition["status"], condition["message"]) == ("True", f"gpuwarden {case} xid.xid_79 gpu3")
    assert node["metadata"]["annotations"]["gpuwarden.io/attempt"] == f"{case}/0.0"
    assert not node["spec"].get("unschedulable")
    assert back.release(intent(_A.RELEASE, case)).outcome is Outcome.DONE
    after = kube.node(name)
    assert ours_on(after) == []
    assert taints(after) == taints(before)
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    assert [each["type"] for each in after["status"]["conditions"]] == ["Ready"]


def test_asked_twice_changes_nothing(kube: Cluster) -> None:
    """The resource version tells: a second isolation or release writes nothing."""
    name, case = kube.new_node(), case_id()
    back = kube.backend(name)
    for action, act in ((_A.ISOLATE, back.isolate), (_A.RELEASE, back.release)):
        assert act(intent(action, case)).outcome is Outcome.DONE
        version = kube.node(name)["metadata"]["resourceVersion"]
        assert act(intent(action, case)).outcome is Outcome.DONE
        assert kube.node(name)["metadata"]["resourceVersion"] == version


def test_the_higher_count_of_attempts_stays(kube: Cluster) -> None:
    """A journal that was lost does not make a case young again."""
    name, case = kube.new_node(), case_id()
    back = kube.backend(name)
    for made, kept in (("1.2.0", "1.2"), ("0.0.0", "1.2"), ("2.0.1", "2.0")):
        back.isolate(intent(_A.ISOLATE, case, id=f"{case}/{made}/isolate"))
        assert kube.node(name)["metadata"]["annotations"]["gpuwarden.io/attempt"] == f"{case}/{kept}"


@pytest.mark.parametrize("boot", ["another-boot", ""])
def test_a_node_that_is_not_provably_this_host_is_not_written_to(kube: Cluster, boot: str) -> None:
    """Another boot id, or none of our own to compare: nothing is written, and a release is asked for again later."""
    name, case = kube.new_node(), case_id()
    kube.backend(name).isolate(intent(_A.ISOLATE, case))
    version = kube.node(name)["metadata"]["resourceVersion"]
    back = kube.backend(name, boot=boot, fleet_max_hosts=3)
    for action, act in ((_A.ISOLATE, back.isolate), (_A.TAKE_SLOT, back.take_slot), (_A.EVICT, back.evict)):
        assert act(intent(action, case)).outcome is Outcome.REFUSED
    assert back.release(intent(_A.RELEASE, case)).outcome is Outcome.FAILED
    assert kube.node(name)["metadata"]["resourceVersion"] == version
    assert kube.leases() == {}
    assert back.look(Surroundings()).identity is False


def test_a_node_that_does_not_exist_is_not_this_host(kube: Cluster) -> None:
    """A wrong `node_name` is said, not worked around."""
    back = kube.backend("nowhere")
    assert back.isolate(intent(_A.ISOLATE)).outcome is Outcome.REFUSED
    seen = back.look(Surroundings())
    assert (seen.identity, seen.isolated) == (False, None)
    assert "node_name" in seen.detail


def test_a_release_asks_for_the_boot_that_the_node_is_in(kube: Cluster) -> None:
    """After our reboot the node is this host again once its kubelet says so."""
    name, case = kube.new_node(), case_id()
    kube.backend(name).isolate(intent(_A.ISOLATE, case))
    back = kube.backend(name, boot="boot-2")
    assert back.release(intent(_A.RELEASE, case)).outcome is Outcome.FAILED
    kube.boots(name, "boot-2")
    assert back.release(intent(_A.RELEASE, case)).outcome is Outcome.DONE
    assert ours_on(kube.node(name)) == []


def test_the_taint_of_another_case_is_not_ours(kube: Cluster) -> None:
    """Neither is it released, nor a second one set beside it."""
    name, case = kube.new_node(), case_id()
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE, case))
    version = kube.node(name)["metadata"]["resourceVersion"]
    assert back.release(intent(_A.RELEASE, "other-c2")).outcome is Outcome.REFUSED
    assert back.isolate(intent(_A.ISOLATE, "other-c2")).outcome is Outcome.REFUSED
    assert kube.node(name)["metadata"]["resourceVersion"] == version


def test_an_admin_who_took_our_taint_away_gets_the_rest_tidied(kube: Cluster) -> None:
    """Without the taint nothing is isolated; the notes of the same case still go."""
    name, case = kube.new_node(), case_id()
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE, case))
    kube.patch_node(name, {"spec": {"taints": None}})
    assert back.look(Surroundings()).isolated is False
    assert back.release(intent(_A.RELEASE, case)).outcome is Outcome.DONE
    assert ours_on(kube.node(name)) == []


# ---- cordon


def test_without_being_told_to_nobody_is_cordoned_or_uncordoned(kube: Cluster) -> None:
    """An admin's cordon in the middle of a case outlives it."""
    name, case = kube.new_node(), case_id()
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE, case))
    kube.patch_node(name, {"spec": {"unschedulable": True}})
    back.release(intent(_A.RELEASE, case))
    assert kube.node(name)["spec"]["unschedulable"] is True
    assert back.look(Surroundings()).mark == "unschedulable"


def test_a_cordon_of_ours_is_undone_and_one_of_others_is_not(kube: Cluster) -> None:
    """Who cordoned is written down with the cordon; what was cordoned before is not ours."""
    ours, theirs, case = kube.new_node(), kube.new_node(unschedulable=True), case_id()
    for name, stays in ((ours, False), (theirs, True)):
        back = kube.backend(name, cordon=True)
        back.isolate(intent(_A.ISOLATE, case))
        assert kube.node(name)["spec"]["unschedulable"] is True
        back.release(intent(_A.RELEASE, case))
        assert kube.node(name)["spec"].get("unschedulable", False) is stays
        assert ours_on(kube.node(name)) == []


# ---- looks


def test_a_look_tells_isolation_mark_work_and_identity(kube: Cluster) -> None:
    """Work is what a reboot would end; on each GPU there may be any pod that asked for one."""
    name, case = kube.new_node(), case_id()
    back = kube.backend(name, fleet_max_hosts=4)
    kube.new_pod(name, "train", gpus=1)
    kube.new_pod(name, "web")
    kube.new_pod(name, "agent", owner="DaemonSet")
    kube.new_pod(name, "static", annotations={"kubernetes.io/config.mirror": "x"}, owner="Node")
    held_before = back.look(Surroundings()).held_hosts
    seen = back.look(Surroundings(actuator_up=True, holders={"0000:3b:00.0": 1, "0000:3c:00.0": 0}))
    assert (seen.identity, seen.isolated, seen.mark, seen.jobs) == (True, False, "", 2)
    assert seen.jobs_on == {"0000:3b:00.0": 1, "0000:3c:00.0": 1}
    assert (seen.slots_free, seen.actuator_up, seen.detail) == (4, True, "")
    back.take_slot(intent(_A.TAKE_SLOT, case))
    back.isolate(intent(_A.ISOLATE, case))
    seen = back.look(Surroundings())
    assert (seen.isolated, seen.mark, seen.slots_free) == (True, f"gpuwarden {case} xid.xid_79 gpu3", 3)
    assert seen.held_hosts == held_before


def test_a_pod_that_has_finished_is_no_work(kube: Cluster) -> None:
    """Its object may stay for long."""
    name = kube.new_node()
    path = kube.new_pod(name, "train", gpus=1)
    kube.admin("PATCH", f"{path}/status", {"status": {"phase": "Succeeded"}}, "application/merge-patch+json")
    assert kube.backend(name).look(Surroundings()).jobs == 0


def test_an_api_server_that_is_away_leaves_everything_unknown(kube: Cluster, tmp_path: Path) -> None:
    """Unknown is neither idle nor isolated."""
    back = kube.backend(kube.new_node())
    text = (tmp_path / "kubeconfig").read_text().replace(kube.url, "http://127.0.0.1:9")
    (tmp_path / "kubeconfig").write_text(text)
    seen = back.look(Surroundings())
    assert (seen.identity, seen.isolated, seen.jobs, seen.held_hosts) == (None, None, None, None)
    assert "cannot be reached" in seen.detail
    assert back.isolate(intent(_A.ISOLATE)).outcome is Outcome.FAILED


# ---- evict


def test_for_a_reset_only_pods_with_gpus_leave(kube: Cluster) -> None:
    """Whoever may have the GPU, a DaemonSet's pod among them; others stay."""
    name, case = kube.new_node(), case_id()
    train, web = kube.new_pod(name, "train", gpus=1), kube.new_pod(name, "web")
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE, case))
    assert back.evict(intent(_A.EVICT, case, before=_A.RESET)).outcome is Outcome.DONE
    assert (kube.leaving(train), kube.leaving(web)) == (True, False)


def test_for_a_reboot_all_leave_but_what_is_the_nodes_own(kube: Cluster) -> None:
    """DaemonSet and mirror pods are not asked; pods of other nodes are none of ours."""
    name, other, case = kube.new_node(), kube.new_node(), case_id()
    work = [kube.new_pod(name, "train", gpus=1), kube.new_pod(name, "web")]
    kept = [
        kube.new_pod(name, "agent", owner="DaemonSet"),
        kube.new_pod(name, "static", annotations={"kubernetes.io/config.mirror": "x"}, owner="Node"),
        kube.new_pod(other, "elsewhere", gpus=1),
    ]
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE, case))
    assert back.evict(intent(_A.EVICT, case, before=_A.REBOOT)).outcome is Outcome.DONE
    assert [kube.leaving(path) for path in work + kept] == [True, True, False, False, False]
    assert back.look(Surroundings()).jobs == 2  # on their way out is not gone


def test_a_node_that_takes_new_work_is_not_emptied(kube: Cluster) -> None:
    """What would come right back is not sent away."""
    name = kube.new_node()
    train = kube.new_pod(name, "train", gpus=1)
    assert kube.backend(name).evict(intent(_A.EVICT, before=_A.REBOOT)).outcome is Outcome.REFUSED
    assert not kube.leaving(train)


def protect(kube: Cluster, app: str) -> str:
    """Make a disruption budget that allows nothing, and return its path."""
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": app}}}
    for version in ("v1", "v1beta1") if kube.fake is None else ("v1",):
        path = f"/apis/policy/{version}/namespaces/default/poddisruptionbudgets"
        body = {
            "apiVersion": f"policy/{version}",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": app},
            "spec": spec,
        }
        try:
            kube.admin("POST", path, body)
        except AssertionError:
            continue
        return f"{path}/{app}"
    raise AssertionError("no disruption budget can be made")


def test_a_disruption_budget_is_waited_for_until_the_deadline(kube: Cluster) -> None:
    """429 is asked again; in the end it is FAILED, with the names, and nobody was forced."""
    name, case, app = kube.new_node(), case_id(), f"app-{secrets.token_hex(3)}"
    protect(kube, app)
    guarded, free = kube.new_pod(name, "guarded", gpus=1, labels={"app": app}), kube.new_pod(name, "free", gpus=1)
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE, case))
    answer = back.evict(intent(_A.EVICT, case, seconds=4.0, before=_A.RESET))
    assert answer.outcome is Outcome.FAILED
    assert f"1 of 2 pods evicted; still there: default/guarded-{name}" in answer.detail
    assert (kube.leaving(guarded), kube.leaving(free)) == (False, True)


def test_a_disruption_budget_that_opens_lets_the_pod_go(kube: Cluster) -> None:
    """The back-off ends as soon as it is allowed."""
    name, case, app = kube.new_node(), case_id(), f"app-{secrets.token_hex(3)}"
    path = protect(kube, app)
    guarded = kube.new_pod(name, "guarded", gpus=1, labels={"app": app})
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE, case))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(back.evict, intent(_A.EVICT, case, seconds=20.0, before=_A.RESET))
        status = {"status": {"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
                             "observedGeneration": 1}}  # fmt: skip
        kube.admin("PATCH", f"{path}/status", status, "application/merge-patch+json")
        assert answer.result().outcome is Outcome.DONE
    assert kube.leaving(guarded)


# ---- co-holders


def test_daemon_sets_that_hold_gpus_are_paused_and_come_back_exactly(kube: Cluster) -> None:
    """Only what is placed now is paused; the driver's own is never; what somebody changed since stays theirs."""
    labels = {PLUGIN: "true", DCGM: "true", DRIVER: "true", "nvidia.com/gpu.deploy.mig-manager": "false"}
    name, case = kube.new_node(labels=labels), case_id()
    back = kube.backend(name)
    assert back.pause_holders(intent(_A.RESET, case)).outcome is Outcome.DONE
    paused = kube.node(name)["metadata"]["labels"]
    assert {key: paused[key] for key in labels} == {
        **labels,
        PLUGIN: "paused-for-gpuwarden",
        DCGM: "paused-for-gpuwarden",
    }
    assert back.pause_holders(intent(_A.RESET, case)).outcome is Outcome.DONE
    assert back.resume_holders(intent(_A.RESET, "other-c2")).outcome is Outcome.REFUSED
    kube.patch_node(name, {"metadata": {"labels": {DCGM: "false"}}})
    assert back.resume_holders(intent(_A.RESET, case)).outcome is Outcome.DONE
    after = kube.node(name)
    assert {key: after["metadata"]["labels"][key] for key in labels} == {**labels, DCGM: "false"}
    assert ours_on(after) == []


def test_a_pause_lasts_until_the_pods_are_gone(kube: Cluster) -> None:
    """A pod that stays is named, and its labels come back with the release at the latest."""
    name, case = kube.new_node(labels={PLUGIN: "true"}), case_id()
    kube.new_pod(name, "plugin", owner="ReplicaSet", node_selector={PLUGIN: "true"})
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE, case))
    answer = back.pause_holders(intent(_A.RESET, case, seconds=4.0))
    assert (answer.outcome, answer.detail) == (Outcome.FAILED, f"still there: default/plugin-{name}")
    back.release(intent(_A.RELEASE, case))
    assert kube.node(name)["metadata"]["labels"][PLUGIN] == "true"
    assert ours_on(kube.node(name)) == []


# ---- slots


def test_of_simultaneous_takers_of_a_slot_one_wins_fifty_times(kube: Cluster) -> None:
    """The API server decides; everybody else is refused, and nothing of theirs stays."""
    names = [kube.new_node() for _ in range(4)]
    backs = [kube.backend(name, fleet_max_hosts=1, slot_rest_seconds=0.0) for name in names]
    with ThreadPoolExecutor(len(backs)) as pool:
        for number in range(50):
            case = f"{number}-c1"
            answers = list(pool.map(lambda back, case=case: back.take_slot(intent(_A.TAKE_SLOT, case)), backs))
            outcomes = [answer.outcome for answer in answers]
            assert sorted(outcomes, key=lambda each: each.value) == [Outcome.DONE] + [Outcome.REFUSED] * 3
            winner = outcomes.index(Outcome.DONE)
            assert kube.leases() == {"gpuwarden-slot-0": f"{names[winner]}/{case}"}
            assert backs[winner].return_slot(intent(_A.RETURN_SLOT, case)).outcome is Outcome.DONE
            assert kube.leases() == {}


def test_a_slot_rests_after_use_and_is_then_taken_over(kube: Cluster) -> None:
    """The lease stays without a holder; before its rest is over nobody gets it."""
    one, two = kube.new_node(), kube.new_node()
    more: dict[str, Any] = {"fleet_max_hosts": 1, "slot_rest_seconds": 1800.0}
    assert kube.backend(one, wall=1000.0, **more).take_slot(intent(_A.TAKE_SLOT, "a-c1")).outcome is Outcome.DONE
    assert kube.backend(one, wall=2000.0, **more).return_slot(intent(_A.RETURN_SLOT, "a-c1")).outcome is Outcome.DONE
    assert kube.leases() == {"gpuwarden-slot-0": None}
    assert kube.backend(two, wall=3799.0, **more).take_slot(intent(_A.TAKE_SLOT, "b-c1")).outcome is Outcome.REFUSED
    assert kube.backend(two, wall=3801.0, **more).take_slot(intent(_A.TAKE_SLOT, "b-c1")).outcome is Outcome.DONE
    assert kube.leases() == {"gpuwarden-slot-0": f"{two}/b-c1"}


def test_a_node_has_one_slot_whatever_it_remembers(kube: Cluster) -> None:
    """Asked twice it is the same slot; one of a forgotten case of the same node is taken on, others' never."""
    one, two = kube.new_node(), kube.new_node()
    back = kube.backend(one, fleet_max_hosts=3)
    for case in ("a-c1", "a-c1", "b-c1"):
        assert back.take_slot(intent(_A.TAKE_SLOT, case)).outcome is Outcome.DONE
        assert kube.leases() == {"gpuwarden-slot-0": f"{one}/{case}"}
    assert kube.backend(two, fleet_max_hosts=3).return_slot(intent(_A.RETURN_SLOT, "b-c1")).outcome is Outcome.DONE
    assert kube.leases() == {"gpuwarden-slot-0": f"{one}/b-c1"}


def test_a_slot_given_back_while_the_isolation_stays_marks_a_held_host(kube: Cluster) -> None:
    """That is how the fleet counts hosts that wait for people; the release takes it away."""
    name, case = kube.new_node(), case_id()
    back = kube.backend(name, fleet_max_hosts=3)
    held = back.look(Surroundings()).held_hosts
    assert held is not None
    back.take_slot(intent(_A.TAKE_SLOT, case))
    back.isolate(intent(_A.ISOLATE, case))
    assert back.return_slot(intent(_A.RETURN_SLOT, case)).outcome is Outcome.DONE
    assert back.look(Surroundings()).held_hosts == held + 1
    condition = next(each for each in kube.node(name)["status"]["conditions"] if each["type"] == "GpuwardenCase")
    assert condition["reason"] == "CaseHeld"
    back.release(intent(_A.RELEASE, case))
    assert back.look(Surroundings()).held_hosts == held
    assert ours_on(kube.node(name)) == []
