"""Pods are asked to leave through the Eviction API, never deleted; what a disruption budget protects is asked again.

What does not leave before the deadline is named. Nothing here forces anybody.
"""

from __future__ import annotations

from collections.abc import Iterable

from gpuwarden.actuators.backend import Answer, done, failed
from gpuwarden.actuators.kubernetes_api import Api, ApiError, Cause
from gpuwarden.actuators.kubernetes_objects import Pod, gpu_work_of, work_of
from gpuwarden.model.case import ActionKind

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
_POLL_SECONDS = 1.0
_MOST_NAMED = 5


def in_the_way(pods: Iterable[Pod], before: ActionKind | None) -> tuple[Pod, ...]:
    """Return whom an action ends: of a reset whoever may have a GPU, of anything else all the host's work.

    Mirror pods are named when they have a GPU, though no eviction moves them.
    """
    return gpu_work_of(pods) if before is ActionKind.RESET else work_of(pods)


def evict(api: Api, node: str, before: ActionKind | None) -> Answer:
    """Ask those in the way to leave, until all are on their way out or the time is up. Raises: ApiError."""
    version = api.eviction_version()
    first = in_the_way(api.pods_on(node), before)
    wanted = frozenset(pod.metadata.uid for pod in first)
    pause = _FIRST_PAUSE_SECONDS
    why: dict[str, str] = {}
    staying = _staying(first, wanted)
    while staying:
        asked_for = 0.0
        for pod in staying:
            try:
                api.evict(pod, version)
            except ApiError as error:
                why[pod.metadata.uid] = str(error)
                asked_for = max(asked_for, error.pause_seconds)
                if error.cause is Cause.UNREACHED:
                    break
            else:
                why.pop(pod.metadata.uid, None)
        if why and not api.pause(max(pause, asked_for)):
            return _left(first, staying, why)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        staying = _staying(api.pods_on(node), wanted)
        why = {uid: text for uid, text in why.items() if any(pod.metadata.uid == uid for pod in staying)}
    return done(f"{len(first)} pods evicted" if first else "no pod is in the way")


def _staying(pods: Iterable[Pod], wanted: frozenset[str]) -> tuple[Pod, ...]:
    """Return whom nobody has told to leave yet."""
    return tuple(
        pod
        for pod in pods
        if pod.metadata.uid in wanted and not pod.finished and pod.metadata.deletion_timestamp is None
    )


def _left(first: tuple[Pod, ...], staying: tuple[Pod, ...], why: dict[str, str]) -> Answer:
    left = [pod for pod in staying if pod.metadata.uid in why]
    named = "; ".join(f"{pod.name} ({why[pod.metadata.uid]})" for pod in left[:_MOST_NAMED])
    more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
    return failed(f"{len(first) - len(left)} of {len(first)} pods evicted; still there: {named}{more}")


def wait_for_holders(api: Api, node: str, keys: frozenset[str]) -> Answer:
    """Wait until the pods that were placed by these labels are gone. Raises: ApiError."""
    while True:
        there = [pod for pod in api.pods_on(node) if keys & frozenset(pod.spec.node_selector) and not pod.finished]
        if not there:
            return done("no DaemonSet of the GPU operator holds a GPU")
        if not api.pause(_POLL_SECONDS):
            return failed(f"still there: {', '.join(pod.name for pod in there[:_MOST_NAMED])}")
