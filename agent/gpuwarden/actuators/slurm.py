"""The back end `slurm`: drain and undrain of this host's node through `scontrol`, and nothing that is not ours.

What is written: state and reason of one node, its `Extra` where that is empty or ours, and reservations
`gpuwarden-slot-<n>` of that node. Before every write the node is read: it must provably be this host, and nobody else
may have taken it out. Slurm compares nothing on its side, so a change that another makes in the milliseconds between
our reading and our writing is seen by the reading that follows, and told.
"""

from __future__ import annotations

from msgspec.structs import replace

from gpuwarden.actuators import slurm_slots
from gpuwarden.actuators.backend import Answer, done, failed, refused, unknown
from gpuwarden.actuators.site import Site
from gpuwarden.actuators.slurm_calls import Controller, ControllerError
from gpuwarden.actuators.slurm_host import ThisHost
from gpuwarden.actuators.slurm_look import look
from gpuwarden.actuators.slurm_record import Record, at_least, may_write, of_intent, parse_record, words_of
from gpuwarden.actuators.slurm_words import SlurmNode, rebooted_by_slurm, standing_mark
from gpuwarden.model.case import Intent, Surroundings


class SlurmBackend:
    """Isolation through Slurm. Made anew for each effect."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._slurm = Controller(site)
        self._host = ThisHost(site)
        self._budget = site.config.budget

    # ---- effects

    def isolate(self, intent: Intent) -> Answer:
        """Drain this host's node under our mark. One that others took out is theirs, whatever they wrote."""
        try:
            node = self._slurm.node(self._host.node_name())
        except ControllerError as error:
            return refused(str(error))
        if (doubt := self._host.doubt(node)).identity is not True:
            return refused(doubt.why)
        if node.drained and standing_mark(node.reason, intent.mark) and node.by == self._slurm.user:
            return self._recorded(node, intent, "drained already")
        if node.out or node.reason:
            return refused(_theirs(node))
        return self._written(node, intent, "drained", "state=drain", f"reason={intent.mark}")

    def release(self, intent: Intent) -> Answer:
        """Undrain a node that carries our mark to the letter; resume it where it is down by our own reboot.

        REFUSED is final: it is not ours any more. What may change by itself is FAILED, and asked for again.
        """
        try:
            node = self._slurm.node(self._host.node_name())
        except ControllerError as error:
            return failed(str(error))
        if not node.out and not node.reason:
            return done("nothing of ours stands there")
        if not standing_mark(node.reason, intent.mark) or node.by != self._slurm.user:
            return refused(f"not ours any more: {_theirs(node)}")
        by_slurm = intent.resume and node.broken and rebooted_by_slurm(node.reason, intent.mark)
        if not (node.drained or by_slurm):
            return refused(f"not ours any more: {_states(node)}, without a drain")
        if (doubt := self._host.doubt(node)).identity is not True:
            return failed(doubt.why)
        if not (node.broken and intent.resume):
            return self._written(node, intent, "undrained", "state=undrain")
        followed = node.boot_time is not None and node.reason_time is not None and node.boot_time > node.reason_time
        if not (by_slurm or followed):
            return refused("not ours any more: the node is down, and not since a boot that followed our drain")
        return self._written(node, intent, "resumed", "state=resume")

    def evict(self, _: Intent) -> Answer:
        """Requeue or cancel the jobs on this node, as configured. Only on a node that takes no new ones."""
        on_deadline = self._site.config.isolation.on_deadline
        how = {"requeue": self._slurm.requeue, "cancel": self._slurm.cancel}.get(on_deadline)
        if how is None:
            return refused(f'isolation.on_deadline = "{on_deadline}" ends no jobs of Slurm')
        try:
            node = self._slurm.node(self._host.node_name())
            if (doubt := self._host.doubt(node)).identity is not True:
                return refused(doubt.why)
            if not node.out:
                return refused("the node takes new jobs: nothing is gained by ending those it has")
            jobs = self._slurm.jobs(node.name)
        except ControllerError as error:
            return refused(str(error))
        if not jobs:
            return done("no job is on this node")
        try:
            how(jobs)
        except ControllerError as error:
            return unknown(str(error)) if error.maybe else failed(str(error))
        return done(f"{on_deadline}: {', '.join(jobs)}")

    def take_slot(self, _: Intent) -> Answer:
        """Take one of the fleet's slots."""
        try:
            node = self._slurm.node(self._host.node_name())
        except ControllerError as error:
            return refused(str(error))
        if (doubt := self._host.doubt(node)).identity is not True:
            return refused(doubt.why)
        return slurm_slots.take(self._slurm, self._budget, node.name)

    def return_slot(self, intent: Intent) -> Answer:
        """Give the slot of this node back. The host name is enough: right after a release Slurm has no boot time."""
        try:
            node = self._slurm.node(self._host.node_name())
        except ControllerError as error:
            return failed(str(error))
        if (doubt := self._host.doubt(node)).identity is False:
            return failed(doubt.why)
        return slurm_slots.give_back(self._slurm, self._budget, node, intent.mark)

    def reboot(self, intent: Intent) -> Answer:
        """Have Slurm reboot this host, where it has a RebootProgram; the node stays down until it is released."""
        try:
            if not self._slurm.setting("RebootProgram"):
                return refused("Slurm has no RebootProgram")
            node = self._slurm.node(self._host.node_name())
        except ControllerError as error:
            return refused(str(error))
        if (doubt := self._host.doubt(node)).identity is not True:
            return refused(doubt.why)
        if not (node.drained and standing_mark(node.reason, intent.mark)):
            return refused(f"the node does not carry our mark: {_theirs(node)}")
        try:
            self._slurm.reboot(node.name, intent.mark)
        except ControllerError as error:
            return unknown(str(error)) if error.maybe else failed(str(error))
        return done("Slurm was told to reboot this node")

    # ---- looking

    def look(self, around: Surroundings) -> Surroundings:
        """Return what the controller tells of this node. What it does not tell in time stays None."""
        return look(self._site, self._slurm, self._host, around)

    # ---- writing

    def _written(self, node: SlurmNode, intent: Intent, did: str, *changes: str) -> Answer:
        """Change the node, and tell by reading it again what became of that."""
        draining = did == "drained"
        error: ControllerError | None = None
        try:
            self._slurm.update_node(node.name, *changes)
        except ControllerError as raised:
            error = raised
        try:
            after = self._slurm.node(node.name)
        except ControllerError as raised:
            return failed(str(error)) if error and not error.maybe else unknown(str(error or raised))
        stands = after.drained and standing_mark(after.reason, intent.mark)
        if stands is draining:
            out = not draining and after.out
            return self._recorded(after, intent, f"{did}, and still {_theirs(after)}" if out else did)
        if error is not None:
            return unknown(str(error)) if error.maybe else failed(str(error))
        return failed(f"somebody changed it at the same time: {_theirs(after)}" if after.reason else _states(after))

    def _recorded(self, node: SlurmNode, intent: Intent, did: str) -> Answer:
        """Return that it is done, and keep `Extra` true: where the case stands, or nothing of it."""
        old = parse_record(node.extra)
        standing = node.drained and standing_mark(node.reason, intent.mark)
        new = at_least(of_intent(intent), old) if standing else Record()
        wanted = words_of(replace(new, rests=old.rests))
        if not may_write(node.extra):
            return done(f"{did}; Extra is not ours to write into")
        if wanted == node.extra:
            return done(did)
        try:
            self._slurm.update_node(node.name, f"extra={wanted}")
        except ControllerError as error:
            return done(f"{did}; Extra was not written: {error}")
        return done(did)


def _theirs(node: SlurmNode) -> str:
    """Return who took a node out, and why, in their words."""
    by = f" by {node.by}" if node.by else ""
    return f"{_states(node)}{by}: {node.reason or 'no reason given'}"


def _states(node: SlurmNode) -> str:
    return "+".join(sorted(node.states))
