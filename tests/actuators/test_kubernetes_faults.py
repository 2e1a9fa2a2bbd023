"""An API server that fails in every way it can: nothing is written twice, nothing is lost, nothing is made up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuwarden.actuators.backend import Answer
from gpuwarden.actuators.kubernetes import KubernetesBackend
from gpuwarden.actuators.kubernetes_node import HOLDERS
from gpuwarden.model.case import ActionKind, Intent, Outcome, Surroundings
from support.kubeapi import AGENT, Fault
from support.kubecluster import Cluster, cluster, granted, intent, manifest
from support.kubeschema import faults

_A = ActionKind
CASE = "1f0c77aa-c1"
OURS = {"key": "gpuwarden.io/case", "value": CASE, "effect": "NoSchedule"}


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.delenv("GPUWARDEN_KUBERNETES", raising=False)
    with cluster(tmp_path) as found:
        yield found


def put(kube: Cluster, *faults: Fault) -> None:
    assert kube.fake is not None
    kube.fake.faults += faults


def asked(kube: Cluster, verb: str, resource: str) -> int:
    assert kube.fake is not None
    return sum((each.verb, each.resource) == (verb, resource) for each in kube.fake.requests)


def writes(kube: Cluster) -> int:
    assert kube.fake is not None
    return sum(each.verb in ("create", "patch", "delete") for each in kube.fake.requests)


# ---- writes to the node


@pytest.mark.parametrize("resource", ["nodes", "nodes/status"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"code": 409}, id="conflict"),
        pytest.param({"code": 429, "retry_after": 1}, id="busy"),
        pytest.param({"code": 500}, id="internal-error"),
        pytest.param({"code": 503, "landed": True}, id="error-though-it-landed"),
        pytest.param({"cut": True}, id="cut-before"),
        pytest.param({"cut": True, "landed": True}, id="cut-after-it-landed"),
    ],
)
def test_isolation_and_release_come_about_once_whatever_goes_wrong_once(
    kube: Cluster, resource: str, fault: dict[str, object]
) -> None:
    """Read again, write what is still missing: the end is the same as without the failure."""
    name = kube.new_node()
    back = kube.backend(name)
    put(kube, Fault("patch", resource, **fault))
    assert back.isolate(intent(_A.ISOLATE)).outcome is Outcome.DONE
    assert kube.node(name)["spec"]["taints"] == [OURS]
    put(kube, Fault("patch", resource, **fault))
    assert back.release(intent(_A.RELEASE)).outcome is Outcome.DONE
    after = kube.node(name)
    assert (after["spec"].get("taints"), after["metadata"].get("annotations")) == (None, {})
    assert [each["type"] for each in after["status"]["conditions"]] == ["Ready"]


def test_what_somebody_writes_between_our_look_and_our_write_survives(kube: Cluster) -> None:
    """The resource version is of the object that was read: the other's taint stays beside ours."""
    name = kube.new_node()
    theirs = {"key": "dedicated", "value": "ml", "effect": "NoExecute"}
    put(kube, Fault("patch", "nodes", first=lambda: kube.patch_node(name, {"spec": {"taints": [theirs]}})))
    assert kube.backend(name).isolate(intent(_A.ISOLATE)).outcome is Outcome.DONE
    assert [each["key"] for each in kube.node(name)["spec"]["taints"]] == ["dedicated", "gpuwarden.io/case"]


def test_a_host_that_changes_under_our_hands_is_not_written_to(kube: Cluster) -> None:
    """The node turns out to be another boot's before the second write: no second write."""
    name = kube.new_node()
    put(kube, Fault("patch", "nodes", first=lambda: kube.boots(name, "boot-2")))
    assert kube.backend(name).isolate(intent(_A.ISOLATE)).outcome is Outcome.REFUSED
    assert "taints" not in kube.node(name)["spec"]


def test_conflicts_without_end_are_given_up(kube: Cluster) -> None:
    """Bounded: a node that always changes is a failure, and known to have had no effect."""
    name = kube.new_node()
    put(kube, *[Fault("patch", "nodes", code=409)] * 50)
    assert kube.backend(name).isolate(intent(_A.ISOLATE)).outcome is Outcome.FAILED
    assert asked(kube, "patch", "nodes") <= 8


def test_silence_after_a_write_is_unknown_and_silence_before_it_is_not(kube: Cluster) -> None:
    """A write that may have landed is looked for; where that does not answer either, nobody knows."""
    name = kube.new_node()
    put(kube, Fault("patch", "nodes", hang=True, landed=True))
    answer = kube.backend(name).isolate(intent(_A.ISOLATE, seconds=3.0))
    assert answer.outcome is Outcome.EFFECT_UNKNOWN
    put(kube, Fault("get", "nodes", hang=True))
    assert kube.backend(name).isolate(intent(_A.ISOLATE, seconds=3.0)).outcome is Outcome.FAILED


def test_a_condition_that_may_not_be_written_does_not_undo_the_isolation(kube: Cluster) -> None:
    """The taint is what isolates: it is said that the condition is missing."""
    name = kube.new_node()
    put(kube, Fault("patch", "nodes/status", code=403))
    answer = kube.backend(name).isolate(intent(_A.ISOLATE))
    assert (answer.outcome, kube.node(name)["spec"]["taints"]) == (Outcome.DONE, [OURS])
    assert "condition does not" in answer.detail


# ---- credentials


def test_an_expired_token_is_read_anew_once(kube: Cluster) -> None:
    """The kubelet replaces it in its file: what comes after goes on with the new one."""
    name = kube.new_node()
    assert kube.fake is not None
    fake, back = kube.fake, kube.backend(name)

    def expire() -> None:
        fake.tokens = {token: who for token, who in fake.tokens.items() if who != "agent"} | {"fresh": "agent"}
        kube.token_file.write_text("fresh")

    put(kube, Fault("get", "nodes", first=expire))
    assert back.isolate(intent(_A.ISOLATE)).outcome is Outcome.DONE
    assert kube.node(name)["spec"]["taints"] == [OURS]


def test_a_token_that_stays_expired_writes_nothing_and_forgets_nothing(kube: Cluster) -> None:
    """Forward it is refused. A release stays to be done: REFUSED would say that the taint is not ours any more."""
    name = kube.new_node()
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE))
    assert kube.fake is not None
    del kube.fake.tokens[AGENT]
    before = writes(kube)
    answer = back.isolate(intent(_A.ISOLATE))
    assert (answer.outcome, "401" in answer.detail) == (Outcome.REFUSED, True)
    assert back.release(intent(_A.RELEASE)).outcome is Outcome.FAILED
    assert back.return_slot(intent(_A.RETURN_SLOT)).outcome is Outcome.FAILED
    assert back.look(Surroundings()).identity is None
    assert writes(kube) == before


def test_a_kubeconfig_that_others_may_write_is_not_used(kube: Cluster, tmp_path: Path) -> None:
    """Whoever can change it decides where root's requests go."""
    back = kube.backend(kube.new_node())
    (tmp_path / "kubeconfig").chmod(0o666)
    answer = back.isolate(intent(_A.ISOLATE))
    assert (answer.outcome, writes(kube)) == (Outcome.REFUSED, 0)
    assert "written by others" in answer.detail


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{", "current-context: x\nclusters: []\ncontexts: []\n"])
def test_a_kubeconfig_that_makes_no_sense_is_refused(kube: Cluster, tmp_path: Path, text: str) -> None:
    """Whatever is wrong with it, it is an answer."""
    back = kube.backend(kube.new_node())
    (tmp_path / "kubeconfig").write_text(text)
    answer = back.isolate(intent(_A.ISOLATE))
    assert (answer.outcome, "cannot be used" in answer.detail) == (Outcome.REFUSED, True)


def test_without_the_library_it_is_said_what_to_install(kube: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an optional extra, imported when used."""
    back = kube.backend(kube.new_node())
    monkeypatch.setitem(sys.modules, "httpx2", None)
    answer = back.isolate(intent(_A.ISOLATE))
    assert (answer.outcome, "pip install 'gpuwarden[kubernetes]'" in answer.detail) == (Outcome.REFUSED, True)


# ---- slots


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"code": 500}, id="internal-error"),
        pytest.param({"code": 503, "landed": True}, id="error-though-it-landed"),
        pytest.param({"cut": True}, id="cut-before"),
        pytest.param({"cut": True, "landed": True}, id="cut-after-it-landed"),
    ],
)
def test_a_slot_whose_taking_was_not_answered_is_one_slot(kube: Cluster, fault: dict[str, object]) -> None:
    """The same name is tried again: made by us before, it is ours."""
    name = kube.new_node()
    back = kube.backend(name, fleet_max_hosts=3)
    put(kube, Fault("create", "leases", **fault))
    assert back.take_slot(intent(_A.TAKE_SLOT)).outcome is Outcome.DONE
    assert kube.leases() == {"gpuwarden-slot-0": f"{name}/{CASE}"}


def test_a_slot_that_somebody_takes_first_is_left_to_them(kube: Cluster) -> None:
    """409 is an answer: the next slot, or none."""
    one, two = kube.new_node(), kube.new_node()
    for number, outcome in ((0, Outcome.DONE), (1, Outcome.REFUSED)):
        kube.forget_leases()
        most = 2 - number
        first = lambda: kube.backend(two, fleet_max_hosts=2).take_slot(intent(_A.TAKE_SLOT, "b-c1"))  # noqa: E731
        put(kube, Fault("create", "leases", first=first))
        back = kube.backend(one, fleet_max_hosts=most)
        assert back.take_slot(intent(_A.TAKE_SLOT)).outcome is outcome
        assert kube.leases()["gpuwarden-slot-0"] == f"{two}/b-c1"


def test_a_rested_slot_is_taken_over_by_one(kube: Cluster) -> None:
    """The update carries the version that was read: the second comes too late."""
    one, two = kube.new_node(), kube.new_node()
    kube.backend(one, wall=1000.0, fleet_max_hosts=1).take_slot(intent(_A.TAKE_SLOT))
    kube.backend(one, wall=1000.0, fleet_max_hosts=1).return_slot(intent(_A.RETURN_SLOT))
    late = kube.backend(two, wall=9000.0, fleet_max_hosts=1)
    put(kube, Fault("patch", "leases", first=lambda: late.take_slot(intent(_A.TAKE_SLOT, "b-c1"))))
    answer = kube.backend(one, wall=9000.0, fleet_max_hosts=1).take_slot(intent(_A.TAKE_SLOT))
    assert (answer.outcome, kube.leases()) == (Outcome.REFUSED, {"gpuwarden-slot-0": f"{two}/b-c1"})


@pytest.mark.parametrize("rest_seconds", [0.0, 1800.0])
@pytest.mark.parametrize("fault", [{"code": 409}, {"code": 500}, {"cut": True, "landed": True}])
def test_a_slot_is_given_back_once_whatever_goes_wrong_once(
    kube: Cluster, fault: dict[str, object], rest_seconds: float
) -> None:
    """Given back by somebody's count already, it is given back."""
    back = kube.backend(kube.new_node(), fleet_max_hosts=1, slot_rest_seconds=rest_seconds)
    back.take_slot(intent(_A.TAKE_SLOT))
    put(kube, Fault("patch" if rest_seconds else "delete", "leases", **fault))
    assert back.return_slot(intent(_A.RETURN_SLOT)).outcome is Outcome.DONE
    assert kube.leases() == ({"gpuwarden-slot-0": None} if rest_seconds else {})


def test_of_a_ratio_those_that_others_took_out_are_taken_off(kube: Cluster) -> None:
    """A cordoned host and one that is not ready are out; hosts without GPUs are none of the pool."""
    names = [kube.new_node() for _ in range(10)]
    kube.new_node(gpus=0, unschedulable=True)
    for number, name in enumerate(names[:3]):
        answer = kube.backend(name, fleet_max_ratio=0.3).take_slot(intent(_A.TAKE_SLOT, f"{number}-c1"))
        assert answer.outcome is Outcome.DONE
    fourth = kube.backend(names[3], fleet_max_ratio=0.3)
    assert fourth.take_slot(intent(_A.TAKE_SLOT, "3-c1")).outcome is Outcome.REFUSED
    kube.forget_leases()
    kube.patch_node(names[8], {"spec": {"unschedulable": True}})
    kube.patch_node(names[9], {"status": {"conditions": []}}, "/status")
    assert fourth.take_slot(intent(_A.TAKE_SLOT, "3-c1")).outcome is Outcome.DONE
    third = kube.backend(names[2], fleet_max_ratio=0.3)
    assert third.take_slot(intent(_A.TAKE_SLOT, "2-c1")).outcome is Outcome.REFUSED


def test_without_a_limit_there_is_no_slot(kube: Cluster) -> None:
    """Unset is nothing disruptive."""
    answer = kube.backend(kube.new_node()).take_slot(intent(_A.TAKE_SLOT))
    assert (answer.outcome, kube.leases()) == (Outcome.REFUSED, {})


# ---- pods


@pytest.mark.parametrize(
    "fault", [{"code": 429, "retry_after": 1}, {"code": 500}, {"cut": True}, {"cut": True, "landed": True}]
)
def test_an_eviction_that_fails_once_is_asked_for_again(kube: Cluster, fault: dict[str, object]) -> None:
    """Until the pod is on its way out; asking for the same twice does no more than once."""
    name = kube.new_node()
    path = kube.new_pod(name, "train", gpus=1)
    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE))
    put(kube, Fault("create", "pods/eviction", **fault))
    assert back.evict(intent(_A.EVICT, before=_A.RESET)).outcome is Outcome.DONE
    assert kube.leaving(path)


def test_a_pod_that_has_come_by_the_same_name_is_not_evicted(kube: Cluster) -> None:
    """The eviction is of the pod that was seen: its uid goes with it."""
    name = kube.new_node()
    path = kube.new_pod(name, "train", gpus=1)

    def replaced() -> None:
        kube.admin("DELETE", path)
        kube.new_pod(name, "train", gpus=1)

    back = kube.backend(name)
    back.isolate(intent(_A.ISOLATE))
    put(kube, Fault("create", "pods/eviction", first=replaced))
    assert back.evict(intent(_A.EVICT, before=_A.RESET)).outcome is Outcome.DONE
    assert not kube.leaving(path)


def test_more_pods_than_fit_one_answer_are_all_seen(kube: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists come in pages."""
    monkeypatch.setattr("gpuwarden.actuators.kubernetes_api._CHUNK", 2)
    name = kube.new_node()
    for number in range(5):
        kube.new_pod(name, f"train-{number}", gpus=1)
    assert kube.backend(name).look(Surroundings()).jobs == 5


# ---- the manifest


def test_the_manifest_is_what_kubernetes_takes() -> None:
    """Each object is held against its published schema, strictly."""
    assert [(each["kind"], faults(each)) for each in manifest() if faults(each)] == []


def test_the_manifest_grants_what_is_used_and_nothing_else(kube: Cluster) -> None:
    """Everything above ran with these rights; here each of them is used."""
    name = kube.new_node(labels={HOLDERS[0]: "true"})
    kube.new_pod(name, "train", gpus=1)
    back = kube.backend(name, fleet_max_ratio=1.0, slot_rest_seconds=0.0)
    for action, act in effects(back):
        assert act(intent(action, before=_A.RESET)).outcome is Outcome.DONE
    back.look(Surroundings())
    resting = kube.backend(name, fleet_max_hosts=1)
    resting.take_slot(intent(_A.TAKE_SLOT))
    resting.return_slot(intent(_A.RETURN_SLOT))
    assert kube.fake is not None
    allowed = {
        (group, resource, verb)
        for _, rule in granted()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert kube.fake.used == allowed


def effects(back: KubernetesBackend) -> list[tuple[ActionKind, Callable[[Intent], Answer]]]:
    """Return every effect in the order of a case."""
    return [
        (_A.TAKE_SLOT, back.take_slot),
        (_A.ISOLATE, back.isolate),
        (_A.EVICT, back.evict),
        (_A.RESET, back.pause_holders),
        (_A.RESET, back.resume_holders),
        (_A.RELEASE, back.release),
        (_A.RETURN_SLOT, back.return_slot),
    ]


def test_without_rights_nothing_is_done_and_that_is_said(kube: Cluster) -> None:
    """403 is an answer with the server's own words."""
    assert kube.fake is not None
    kube.fake.rules = []
    name = kube.new_node()
    answer = kube.backend(name).isolate(intent(_A.ISOLATE))
    assert (answer.outcome, "forbidden" in answer.detail) == (Outcome.REFUSED, True)
    assert "taints" not in kube.node(name)["spec"]
