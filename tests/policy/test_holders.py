"""Who holds each GPU: joined from NVML's lists, /proc and the kubelet, and nobody named on a guess."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpuwarden.capture import opening
from gpuwarden.model.gpu import GpuIdentity, Missing
from gpuwarden.model.mig import MigInstance
from gpuwarden.model.observation import MigSeen, PodsSeen
from gpuwarden.model.snapshot import GpuState
from gpuwarden.model.workload import GpuProcess, Owner, PodDevices, ProcessKind, Source
from gpuwarden.policy.gpus import put
from gpuwarden.policy.holders import is_of
from support.story import Story, bdf, uuid

JOB = Owner(source=Source.SLURM, workload="9", job="9", user="ada", command="python3")
UNIT = Owner(source=Source.SYSTEMD, workload="rig.service", user="root", command="miner")
POD_A = Owner(source=Source.KUBERNETES, workload="uid-a", container="aaaa", user="root", command="python3")
POD_B = Owner(source=Source.KUBERNETES, workload="uid-b", container="bbbb", user="root", command="python3")


def process(pid: int, used: int | None = 100, kind: ProcessKind = ProcessKind.COMPUTE) -> GpuProcess:
    return GpuProcess(pid=pid, kind=kind, used_bytes=used)


def pods(story: Story, *given: tuple[str, str]) -> None:
    """Have the kubelet say which pod has which device."""
    rows = tuple(PodDevices(namespace="ns", pod=pod, container="main", device_ids=(device,)) for pod, device in given)
    story.take(PodsSeen(at=story.at, readable=True, detail="", pods=rows))


def names(story: Story, number: int = 0) -> list[str]:
    return [holder.owner.workload for holder in story.gpu(number).held.holders]


def test_processes_of_one_workload_are_one_holder() -> None:
    """Memory added up, the one that holds most first, commands of its processes no matter."""
    story = Story().started(2)
    story.processes(0, process(1, 10), process(2, 30), process(3, 35))
    story.owners(0, {1: JOB, 2: replace(JOB, command="nvcc"), 3: UNIT})
    held = story.gpu(0).held
    assert [(h.owner.workload, h.processes, h.used_bytes) for h in held.holders] == [
        ("9", 2, 40),
        ("rig.service", 1, 35),
    ]
    assert held.workloads == 2
    assert story.gpu(1).held.workloads is None


def test_an_empty_list_is_nobody() -> None:
    """No processes, and the host's processes are shown to us: zero, not unknown."""
    story = Story().started(1)
    story.processes(0)
    assert story.gpu(0).held.workloads is None
    story.owners(0)
    assert (names(story), story.gpu(0).held.workloads) == ([], 0)


def test_memory_the_driver_does_not_give_by_process_is_unknown() -> None:
    """Never 0."""
    story = Story().started(1)
    story.processes(0, process(1, None), process(2, 5))
    story.owners(0, {1: JOB, 2: JOB})
    assert story.gpu(0).held.holders[0].used_bytes is None


def test_an_owner_goes_with_its_process() -> None:
    """A late answer about a process that is not listed any more names nobody."""
    story = Story().started(1)
    story.processes(0, process(1))
    story.owners(0, {1: JOB})
    story.processes(0, process(2))
    assert names(story) == []
    story.owners(0, {1: JOB})
    assert names(story) == []


@pytest.mark.parametrize("absent", [Missing.NO_PERMISSION, Missing.TIMED_OUT])
def test_blind_nobody_is_named_and_nothing_counted(absent: Missing) -> None:
    """Another pid namespace, or a /proc that hangs: no owner, no count, also of an empty list."""
    story = Story().started(1)
    story.processes(0)
    story.owners(0, absent=absent)
    assert (names(story), story.gpu(0).held.workloads) == ([], None)


def test_the_kubelet_is_believed_where_proc_cannot_be_seen() -> None:
    """Without the host's pid namespace the pods are all there is to know, and that is known."""
    story = Story().started(2)
    pods(story, ("train", uuid(0)))
    story.processes(0)
    story.owners(0, absent=Missing.NO_PERMISSION)
    assert (names(story), story.gpu(0).held.workloads) == (["train"], 1)
    assert story.gpu(1).held.workloads is None


def test_one_pod_and_one_name_are_the_same() -> None:
    """The uid of the cgroup gets the pod's name, namespace and container."""
    story = Story().started(1)
    story.processes(0, process(1, 70))
    story.owners(0, {1: POD_A})
    assert names(story) == ["uid-a"]
    pods(story, ("train", uuid(0)))
    (holder,) = story.gpu(0).held.holders
    assert (holder.owner.pod, holder.owner.namespace, holder.owner.container) == ("train", "ns", "main")
    assert (holder.processes, holder.used_bytes, holder.owner.user) == (1, 70, "root")


def test_several_pods_on_one_gpu_are_named_without_their_processes() -> None:
    """Nothing says which uid has which name, so no process is put on a pod."""
    story = Story().started(1)
    story.processes(0, process(1), process(2), process(3, 7))
    story.owners(0, {1: POD_A, 2: POD_B, 3: UNIT})
    pods(story, ("a", f"{uuid(0)}::0"), ("b", f"{uuid(0)}::1"))
    held = story.gpu(0).held
    assert [(h.owner.workload, h.processes) for h in held.holders] == [("rig.service", 1), ("a", 0), ("b", 0)]
    assert held.workloads == 3


def test_a_silent_kubelet_takes_its_word_back() -> None:
    """Pods of minutes ago are nobody's now."""
    story = Story().started(1)
    pods(story, ("train", uuid(0)))
    story.take(PodsSeen(at=story.at, readable=False, detail="gone", pods=()))
    assert (names(story), story.gpu(0).held.workloads) == ([], None)


def test_a_list_grows_old_and_goes_with_its_gpu() -> None:
    """After two periods and the deadline, and at once where the GPU is lost."""
    story = Story().started(2)
    for number in (0, 1):
        story.processes(number, process(1))
        story.owners(number, {1: JOB})
    story.failed(1, 15)
    story.wait(1)
    assert (names(story, 0), names(story, 1)) == (["9"], [])
    story.running(130, 0)
    assert story.gpu(0).held.absent is Missing.TIMED_OUT
    assert story.gpu(0).held.workloads is None


def test_many_holders_are_counted_and_few_kept() -> None:
    """State stays small."""
    story = Story().started(1)
    story.processes(0, *(process(pid) for pid in range(1, 41)))
    story.owners(0, {pid: replace(JOB, workload=str(pid), job=str(pid)) for pid in range(1, 41)})
    assert (len(story.gpu(0).held.holders), story.gpu(0).held.workloads) == (16, 40)


@pytest.mark.parametrize(
    ("device", "is_it"),
    [
        ("GPU-00000000", True),
        ("GPU-00000000::7", True),
        ("MIG-GPU-00000000/3/0", True),
        ("nvidia4", True),
        ("nvidia4/gi2", True),
        ("nvidia4/vgpu0", True),
        ("GPU-00000001", False),
        ("GPU-000000001", False),
        ("nvidia40", False),
        ("MIG-0d5f3c5a-0000-1111-2222-333344445555", False),
        ("4", False),
        ("", False),
    ],
)
def test_forms_of_device_ids(device: str, is_it: bool) -> None:
    """Uuid, MIG of the old form, device name, GKE's parts, shares of time."""
    identity = GpuIdentity(uuid=uuid(0), bdf="0000:10:00.0", minor=4)
    assert is_of(device, GpuState(identity=identity, index=0, first_seen=0, last_seen=0)) is is_it


def test_an_instance_is_of_its_gpu_once_it_is_listed() -> None:
    """A MIG uuid says nothing of its GPU by itself."""
    story = Story().started(2)
    pods(story, ("train", "MIG-0d5f3c5a"))
    assert (names(story, 0), names(story, 1)) == ([], [])
    story.take(MigSeen(at=story.at, index=1, bdf=bdf(1), instances=(MigInstance(gi=1, ci=0, uuid="MIG-0d5f3c5a"),)))
    pods(story, ("train", "MIG-0d5f3c5a"))
    assert (names(story, 0), names(story, 1)) == ([], ["train"])


def test_a_gpu_without_a_minor_number_is_nobodys_device_name() -> None:
    """A number the driver does not say is not compared."""
    story = Story().started(1)
    story.node = put(story.node, replace(story.gpu(0), identity=replace(story.gpu(0).identity, minor=None)))
    pods(story, ("train", "nvidia0"))
    assert names(story) == []


def test_a_capture_begins_with_the_holders_of_its_node() -> None:
    """Another machine that replays it starts with the same owners."""
    story = Story().started(2)
    pods(story, ("train", uuid(1)))
    story.processes(0, process(1, 70))
    story.owners(0, {1: JOB})
    again = Story()
    for observation in opening(story.node):
        again.take(observation)
    assert (names(again, 0), names(again, 1)) == (["9"], ["train"])
    assert again.gpu(0).held.workloads == 1
