"""Which pod a sample of the dcgm dialect is about: dcgm-exporter's `container`, `namespace` and `pod` labels."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwarden.exposition.dcgm_events import Labels
from gpuwarden.exposition.dcgm_subject import Subject
from gpuwarden.model.tally import NO_INSTANCE
from gpuwarden.model.workload import Source


def pod_labels(subject: Subject) -> Labels:
    """Return the labels of the pod that holds a GPU or an instance; of several the one that uses most. Else none."""
    for container, namespace, pod in _pods(subject):
        if pod:
            found = (("container", container), ("namespace", namespace), ("pod", pod))
            return tuple((name, text) for name, text in found if text)
    return ()


def _pods(subject: Subject) -> Iterator[tuple[str, str, str]]:
    if subject.instance == NO_INSTANCE:
        for holder in subject.gpu.held.holders:
            owner = holder.owner
            if owner.source is Source.KUBERNETES:
                yield owner.container, owner.namespace, owner.pod
        return
    for given in subject.node.pods:
        if any(_is_of(device, subject) for device in given.device_ids):
            yield given.container, given.namespace, given.pod
    for process in subject.gpu.held.processes:
        known = subject.gpu.held.owners.get(process.pid)
        if process.gi == subject.instance and known is not None and known.source is Source.KUBERNETES:
            yield known.container, known.namespace, known.pod


def _is_of(device: str, subject: Subject) -> bool:
    """Return whether a device id names this instance: `MIG-<its uuid>`, `MIG-GPU-<uuid>/gi/ci`, GKE's `nvidia0/gi1`."""
    name = device.partition("::")[0]
    gpu, gi = subject.gpu, subject.instance
    if name in {each.uuid for each in gpu.mig if each.gi == gi}:
        return True
    head, _, place = name.removeprefix("MIG-").partition("/")
    mine = head == gpu.identity.uuid or (gpu.identity.minor is not None and head == f"nvidia{gpu.identity.minor}")
    return mine and place.partition("/")[0].removeprefix("gi") == str(gi)
