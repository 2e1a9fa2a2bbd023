"""Whose a process is, from its cgroup: every form that Slurm, the kubelet's drivers and container runtimes use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.model.cgroup import owner_of
from gpuwarden.model.workload import Source

UID = "0f9c7f5e-2c5e-4d0a-9c7a-3f1f6f4f7b11"
FLAT = UID.replace("-", "_")
ID = "4b825dc642cb6eb9a060e54bf8d69288fbee4904e7d7c1b8f0c1b2a3d4e5f607"
V1 = "12:pids:{0}\n11:devices:{0}\n1:name=systemd:/system.slice/slurmd.service\n0::/\n"

SLURM = [
    pytest.param("0::/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0", id="v2"),
    pytest.param("0::/system.slice/node12_slurmstepd.scope/job_4711/step_batch/user/task_0", id="v2-several-slurmds"),
    pytest.param("0::/system.slice/slurmstepd.scope/job_4711/step_extern/user/task_special", id="v2-extern"),
    pytest.param("0::/system.slice/slurmstepd.scope/job_4711", id="v2-job-alone"),
    pytest.param(V1.format("/slurm/uid_1000/job_4711/step_0/task_0"), id="v1"),
    pytest.param(V1.format("/slurm_node12/uid_1000/job_4711/step_batch"), id="v1-several-slurmds"),
    pytest.param(
        f"0::/kubepods.slice/kubepods-pod{FLAT}.slice/cri-containerd-{ID}.scope/system.slice/slurmstepd.scope/job_4711",
        id="a-slurm-job-inside-a-pod",
    ),
]


@pytest.mark.parametrize("cgroup", SLURM)
def test_a_slurm_job(cgroup: str) -> None:
    """The job id is in the path, in version 1 and 2, with and without the node's name in it."""
    owner = owner_of(cgroup, "python3", "ada")
    assert (owner.source, owner.workload, owner.job, owner.user) == (Source.SLURM, "4711", "4711", "ada")


SYSTEMD_POD = "/kubepods.slice/kubepods-{0}.slice/kubepods-{0}-pod" + FLAT + ".slice/"
PODS = [
    pytest.param(f"/kubepods/burstable/pod{UID}/{ID}", id="cgroupfs-burstable"),
    pytest.param(f"/kubepods/besteffort/pod{UID}/{ID}", id="cgroupfs-besteffort"),
    pytest.param(f"/kubepods/pod{UID}/{ID}", id="cgroupfs-guaranteed"),
    pytest.param(SYSTEMD_POD.format("burstable") + f"cri-containerd-{ID}.scope", id="systemd-burstable-containerd"),
    pytest.param(SYSTEMD_POD.format("besteffort") + f"crio-{ID}.scope", id="systemd-besteffort-crio"),
    pytest.param(SYSTEMD_POD.format("besteffort") + f"crio-{ID}.scope/container", id="crio-with-a-group-below"),
    pytest.param(f"/kubepods.slice/kubepods-pod{FLAT}.slice/docker-{ID}.scope", id="systemd-guaranteed-docker"),
    pytest.param(
        f"/system.slice/containerd.service/kubepods-burstable-pod{FLAT}.slice:cri-containerd:{ID}",
        id="drivers-that-disagree",
    ),
    pytest.param(f"/docker/{'a' * 64}/kubelet/kubepods/burstable/pod{UID}/{ID}", id="kind-cgroupfs"),
    pytest.param(
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{FLAT}.slice/cri-containerd-{ID}.scope",
        id="kind-systemd",
    ),
    pytest.param(f"/../../kubepods/pod{UID}/{ID}", id="seen-from-another-cgroup-namespace"),
]


@pytest.mark.parametrize("path", PODS)
def test_a_kubernetes_pod(path: str) -> None:
    """The pod's uid with its dashes, whatever driver and quality of service; its name is not in there."""
    for cgroup in (f"0::{path}\n", V1.format(path)):
        owner = owner_of(cgroup, "python3", "root")
        assert (owner.source, owner.workload, owner.pod, owner.namespace) == (Source.KUBERNETES, UID, "", "")


def test_a_pods_container_is_the_innermost_one() -> None:
    """In a node that is a container itself, the pod's container counts."""
    path = f"/docker/{'a' * 64}/kubelet/kubepods/burstable/pod{UID}/{ID}"
    assert owner_of(f"0::{path}", "python3", "root").container == ID[:12]


def test_a_static_pod() -> None:
    """A pod from a file has a uid without dashes."""
    owner = owner_of(f"0::/kubepods/burstable/pod{'c0ffee00' * 4}/{ID}", "etcd", "root")
    assert (owner.source, owner.workload) == (Source.KUBERNETES, "c0ffee00" * 4)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(f"/docker/{ID}", id="docker-cgroupfs"),
        pytest.param(f"/system.slice/docker-{ID}.scope", id="docker-systemd"),
        pytest.param(f"/machine.slice/libpod-{ID}.scope/container", id="podman-root"),
        pytest.param(
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope", id="podman-rootless"
        ),
        pytest.param(f"/system.slice/nerdctl-{ID}.scope", id="nerdctl"),
        pytest.param(f"/default/{ID}", id="containerd-namespace"),
    ],
)
def test_a_container_that_no_scheduler_started(path: str) -> None:
    """It is named by its command, with the container's id beside it."""
    owner = owner_of(f"0::{path}", "miner", "ada")
    assert (owner.source, owner.workload, owner.container) == (Source.PROCESS, "miner", ID[:12])


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        pytest.param("/system.slice/rig@3.service", "rig@3.service", id="instance"),
        pytest.param("/system.slice/system-rig.slice/rig@3.service/work", "rig@3.service", id="group-below-the-unit"),
        pytest.param("/user.slice/user-1000.slice/user@1000.service/app.slice/t.service", "t.service", id="users-own"),
        pytest.param("/system.slice/run-u42.scope", "run-u42.scope", id="systemd-run"),
    ],
)
def test_a_systemd_unit(path: str, unit: str) -> None:
    """The innermost unit that is not a session or a user's manager."""
    owner = owner_of(f"0::{path}\n", "hashcat", "ada")
    assert (owner.source, owner.workload, owner.command) == (Source.SYSTEMD, unit, "hashcat")


@pytest.mark.parametrize(
    "cgroup",
    [
        pytest.param("0::/user.slice/user-1000.slice/session-3.scope", id="login-session"),
        pytest.param("0::/user.slice/user-1000.slice/user@1000.service/init.scope", id="user-manager"),
        pytest.param("0::/", id="root-group"),
        pytest.param("", id="nothing"),
        pytest.param("garbage\n::\n7", id="garbage"),
        pytest.param("0::/system.slice/slurmstepd.scope/job_x/step_0", id="no-job-number"),
    ],
)
def test_a_plain_process(cgroup: str) -> None:
    """Nobody's unit, job or container: its command and its user."""
    owner = owner_of(cgroup, "python3", "ada")
    if "slurmstepd" in cgroup:
        assert (owner.source, owner.workload) == (Source.SYSTEMD, "slurmstepd.scope")
    else:
        assert (owner.source, owner.workload, owner.user) == (Source.PROCESS, "python3", "ada")


@given(st.text(max_size=200))
def test_no_text_raises(cgroup: str) -> None:
    """A cgroup file may hold anything: someone is always named, by command at least."""
    assert owner_of(cgroup, "x", "y").user == "y"
