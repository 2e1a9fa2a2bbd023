"""Isolation by Kubernetes: our own taint and condition on the node that is provably this host, and the fleet's slots.

Nothing is written before `status.nodeInfo.bootID` is this host's boot id. What it writes, and what it never touches, is
in docs/remediation-kubernetes.md.

What gives back answers FAILED where it could not be asked for: REFUSED would say that it is not ours any more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from gpuwarden.actuators import kubernetes_node as plans
from gpuwarden.actuators import kubernetes_pods as pods
from gpuwarden.actuators import kubernetes_slots as slots
from gpuwarden.actuators.backend import Answer, done, failed, refused
from gpuwarden.actuators.kubernetes_api import Api, ApiError, Cause
from gpuwarden.actuators.kubernetes_objects import HELD_LABEL, MARK, Node, gpu_work_of, work_of
from gpuwarden.actuators.site import Site
from gpuwarden.model.case import GIVES_BACK, Intent, Outcome, Surroundings

_TRIES = 8
_PAUSE_SECONDS = 0.2
_MARGIN_SECONDS = 2.0  # before an intent's deadline, at which this process is killed
_LOOK_SECONDS = 12.0
Plan = Callable[[Node], plans.Write | Answer]


class IdentityError(Exception):
    """The node of our name is not provably this host."""


class KubernetesBackend:
    """Implements `Backend`; `pause_holders` and `resume_holders` are for the reset's co-holders."""

    def __init__(self, site: Site, *, wall: Callable[[], float] = time.time) -> None:
        isolation = site.config.isolation
        self._budget = site.config.budget
        self._cordon = isolation.cordon
        self._kubeconfig = isolation.kubeconfig
        self._space = isolation.namespace
        self._node = os.uname().nodename.lower() if isolation.node_name == "auto" else isolation.node_name
        self._boot_id_file = Path(site.place.proc) / "sys" / "kernel" / "random" / "boot_id"
        self._wall = wall

    def isolate(self, intent: Intent) -> Answer:
        """Set our taint and condition, and cordon where that is configured."""
        return self._effect(intent, self._isolate)

    def release(self, intent: Intent) -> Answer:
        """Take our taint, condition, annotations, labels and cordon away: those of this case."""
        return self._effect(intent, lambda api, intent: self._converge(api, lambda node: plans.release(node, intent)))

    def evict(self, intent: Intent) -> Answer:
        """Evict the pods that are in the way of what this case is about to do."""
        return self._effect(intent, self._evict)

    def take_slot(self, intent: Intent) -> Answer:
        """Take one of the fleet's slots; the first write of a case, so the node is proven to be this host before."""
        return self._effect(intent, self._take_slot)

    def return_slot(self, intent: Intent) -> Answer:
        """Give the slot back; where our isolation stays, the host is marked as held for a person."""
        return self._effect(intent, self._return_slot)

    def pause_holders(self, intent: Intent) -> Answer:
        """Send the GPU operator's DaemonSets that hold GPUs off this node, and wait until they are gone."""
        return self._effect(intent, self._pause_holders)

    def resume_holders(self, intent: Intent) -> Answer:
        """Let the DaemonSets back that `pause_holders` sent away."""
        return self._effect(
            intent, lambda api, intent: self._converge(api, lambda node: plans.resume(node, intent.case))
        )

    def look(self, around: Surroundings) -> Surroundings:
        """Return the surroundings with what the API server says of this node. A part that fails stays None."""
        try:
            api = Api(self._kubeconfig, _LOOK_SECONDS)
        except ApiError as error:
            return _told(around, str(error))
        try:
            for see in (self._see_node, self._see_pods, self._see_fleet):
                try:
                    around = see(api, around)
                except ApiError as error:
                    around = _told(around, str(error))
        finally:
            api.close()
        return around

    # ---- effects

    def _effect(self, intent: Intent, act: Callable[[Api, Intent], Answer]) -> Answer:
        """Return what an effect comes to, over one connection that ends before the intent's deadline."""
        try:
            api = Api(self._kubeconfig, intent.deadline_seconds - _MARGIN_SECONDS)
            try:
                answer = act(api, intent)
            finally:
                api.close()
        except ApiError as error:
            return _kept(intent, error.answer)
        except IdentityError as error:
            return _kept(intent, refused(str(error)))
        return answer

    def _isolate(self, api: Api, intent: Intent) -> Answer:
        try:
            return self._converge(api, lambda node: plans.isolation(node, intent, self._wall(), cordon=self._cordon))
        except ApiError as error:
            if error.cause not in (Cause.DENIED, Cause.ABSENT) or self._own_node(api).case != intent.case:
                raise
            return done(f"the taint stands, the condition does not: {error}")

    def _evict(self, api: Api, intent: Intent) -> Answer:
        node = self._own_node(api)
        if node.case is None and not node.spec.unschedulable:
            return refused(f"{self._node} takes new work: whoever is evicted would come back")
        return pods.evict(api, self._node, intent.before)

    def _take_slot(self, api: Api, intent: Intent) -> Answer:
        self._own_node(api)
        return slots.take(api, self._asker(intent))

    def _return_slot(self, api: Api, intent: Intent) -> Answer:
        returned = slots.give_back(api, self._asker(intent))
        if returned.outcome is not Outcome.DONE:
            return returned
        held = self._converge(api, lambda node: plans.holding(node, intent.case, self._wall()))
        return done(f"{returned.detail}; {held.detail}")

    def _pause_holders(self, api: Api, intent: Intent) -> Answer:
        paused = self._converge(api, lambda node: plans.pause(node, intent.case))
        if paused.outcome is not Outcome.DONE:
            return paused
        return pods.wait_for_holders(api, self._node, plans.paused_keys(self._own_node(api)))

    def _asker(self, intent: Intent) -> slots.Asker:
        return slots.Asker(self._budget, self._space, self._node, intent.case, self._wall())

    def _converge(self, api: Api, plan: Plan) -> Answer:
        """Read, plan, write, until the plan says what it came to. A write that may have landed is looked for."""
        last: ApiError | None = None
        for _ in range(_TRIES):
            try:
                step = plan(self._own_node(api))
                if isinstance(step, Answer):
                    return step
                (api.patch_status if step.status else api.patch_node)(self._node, step.change)
            except ApiError as error:
                if error.cause in (Cause.DENIED, Cause.ABSENT):
                    raise
                unsure = last is not None and last.cause is Cause.UNSURE
                last = last if unsure and error.cause is Cause.UNREACHED else error
                if not api.pause(max(error.pause_seconds, _PAUSE_SECONDS)):
                    break
        raise last if last is not None else ApiError(Cause.CONFLICT, f"{self._node} changes all the time")

    # ---- identity

    def _own_node(self, api: Api) -> Node:
        """Return our node. Raises: IdentityError where it is not provably this host."""
        try:
            node = api.node(self._node)
        except ApiError as error:
            if error.cause is Cause.ABSENT:
                raise IdentityError(f"there is no node {self._node}: set isolation.node_name") from None
            raise
        ours = self._boot_id()
        if not ours or node.status.node_info.boot_id != ours:
            theirs = node.status.node_info.boot_id or "unknown"
            raise IdentityError(f"node {self._node} is of boot {theirs}, this host of {ours or 'unknown'}")
        return node

    def _boot_id(self) -> str:
        try:
            return self._boot_id_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    # ---- looks

    def _see_node(self, api: Api, around: Surroundings) -> Surroundings:
        try:
            node = self._own_node(api)
        except IdentityError as error:
            return _told(replace(around, identity=False), str(error))
        mark = ""
        if node.case is not None:
            mark = node.metadata.annotations.get(MARK) or f"gpuwarden {node.case}"
        elif node.spec.unschedulable:
            mark = "unschedulable"
        isolated = node.case is not None or node.spec.unschedulable
        return replace(around, identity=True, isolated=isolated, mark=mark)

    def _see_pods(self, api: Api, around: Surroundings) -> Surroundings:
        """Tell the work on the node. Which GPU a pod has is not told here, so each may have any."""
        there = api.pods_on(self._node, cached=True)
        on_gpus = len(gpu_work_of(there))
        by_gpu = None if around.holders is None else dict.fromkeys(around.holders, on_gpus)
        return replace(around, jobs=len(work_of(there)), jobs_on=by_gpu)

    def _see_fleet(self, api: Api, around: Surroundings) -> Surroundings:
        held = len(api.nodes(f"{HELD_LABEL}=true"))
        around = replace(around, held_hosts=held)
        most = self._budget.fleet_max_hosts
        if most == "unset":
            return around
        there = slots.slots_of(api.leases(self._space))
        return replace(around, slots_free=slots.free_slots(most, there, self._wall()))


def _kept(intent: Intent, answer: Answer) -> Answer:
    """Return an answer that does not make a case forget what still stands outside."""
    if intent.action in GIVES_BACK and answer.outcome is Outcome.REFUSED:
        return failed(answer.detail)
    return answer


def _told(around: Surroundings, words: str) -> Surroundings:
    return replace(around, detail="; ".join(part for part in (around.detail, words) if part))
