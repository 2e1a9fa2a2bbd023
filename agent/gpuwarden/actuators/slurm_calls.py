"""Slurm's tools in children: what is asked of the controller and what is told it, each with its own deadline.

A controller that is gone is noticed by the tools after 9 to 10 s. Reading changes nothing, so it is given up earlier;
telling is waited for longer than that, so that Slurm's own words say whether anything was sent.
"""

from __future__ import annotations

import os
import pwd

from gpuwarden.actuators.commands import CommandError, Ended, run
from gpuwarden.actuators.site import Site
from gpuwarden.actuators.slurm_words import (
    Reservation,
    SlurmNode,
    parse_job_gpus,
    parse_job_ids,
    parse_nodes,
    parse_reservations,
    parse_setting,
)

ASK_SECONDS = 6.0
TELL_SECONDS = 14.0
_AT_WORK = "R,CG,S,CF,ST,SI,SO"  # states in which a job holds what it was given
_NOT_SENT = (
    "Unable to contact slurm controller",
    "Could not establish a configuration source",
    "Incompatible versions",
)
_MAYBE_SENT = ("timed out", "Zero Bytes", "Unexpected message", "Connection reset", "Broken pipe", "Transport endpoint")


class ControllerError(Exception):
    """The controller did not do or tell what was wanted. `maybe`: it may have done it all the same."""

    def __init__(self, detail: str, *, maybe: bool = False) -> None:
        super().__init__(detail)
        self.maybe = maybe


class Controller:
    """The controller of one cluster, through the tools of this host."""

    def __init__(self, site: Site) -> None:
        self._site = site
        conf = site.config.isolation.slurm_conf
        self._environ = {"TZ": "UTC"} | ({"SLURM_CONF": conf} if conf else {})

    @property
    def user(self) -> str:
        """Return the name under which the controller records what we change."""
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return str(os.geteuid())

    # ---- asking

    def node(self, name: str, seconds: float = ASK_SECONDS) -> SlurmNode:
        """Return one node. Raises: ControllerError."""
        found = [node for node in parse_nodes(self._ask("show", "node", name, seconds=seconds)) if node.name == name]
        if len(found) != 1:
            raise ControllerError(f"Slurm does not tell of a node {name}")
        return found[0]

    def nodes(self, seconds: float = ASK_SECONDS) -> tuple[SlurmNode, ...]:
        """Return all nodes. Raises: ControllerError."""
        return parse_nodes(self._ask("show", "node", seconds=seconds))

    def reservations(self, seconds: float = ASK_SECONDS) -> tuple[Reservation, ...]:
        """Return all reservations. Raises: ControllerError."""
        return parse_reservations(self._ask("-o", "show", "reservation", seconds=seconds))

    def jobs(self, node: str, seconds: float = ASK_SECONDS) -> tuple[str, ...]:
        """Return the ids of the jobs that hold something of a node. Raises: ControllerError."""
        ended = self._run("squeue", "-h", "-w", node, "-t", _AT_WORK, "-o", "%A", seconds=seconds)
        if ended.code != 0:
            raise ControllerError(ended.words)
        return parse_job_ids(ended.out)

    def job_gpus(self, job: str, node: str, seconds: float = ASK_SECONDS) -> tuple[int, ...] | None:
        """Return which GPUs of a node a job holds; None where that is not told. Raises: ControllerError."""
        return parse_job_gpus(self._ask("-d", "show", "job", job, seconds=seconds), node)

    def setting(self, key: str) -> str:
        """Return one setting of the cluster, "" where it is not set. Raises: ControllerError."""
        return parse_setting(self._ask("show", "config", seconds=ASK_SECONDS), key)

    # ---- telling

    def update_node(self, name: str, *changes: str) -> None:
        """Change a node, each change as `key=value`. Raises: ControllerError."""
        self._tell("scontrol", "update", f"nodename={name}", *changes)

    def create_reservation(self, name: str, node: str) -> bool:
        """Reserve a node for root without an end, under a name that is free; False where it is taken.

        Raises: ControllerError. Slurm ends `UNLIMITED` after 365 days.
        """
        try:
            self._tell(
                "scontrol",
                "create",
                "reservation",
                f"ReservationName={name}",
                f"Nodes={node}",
                "StartTime=now",
                "Duration=UNLIMITED",
                "Flags=MAINT,IGNORE_JOBS,OVERLAP",
                "Users=root",
            )
        except ControllerError as error:
            if "Duplicate reservation name" in str(error):
                return False
            raise
        return True

    def end_reservation(self, name: str, minutes: int) -> None:
        """Have a reservation end in so many minutes. Raises: ControllerError."""
        self._tell("scontrol", "update", "reservation", f"ReservationName={name}", f"EndTime=now+{minutes}minutes")

    def delete_reservation(self, name: str) -> None:
        """Delete a reservation. Raises: ControllerError."""
        self._tell("scontrol", "delete", f"reservation={name}")

    def requeue(self, jobs: tuple[str, ...]) -> None:
        """Put jobs back into the queue. Raises: ControllerError where one could not be."""
        self._tell("scontrol", "requeue", ",".join(jobs))

    def cancel(self, jobs: tuple[str, ...]) -> None:
        """Cancel jobs. Raises: ControllerError."""
        self._tell("scancel", *jobs)

    def reboot(self, node: str, mark: str) -> None:
        """Have a node's own slurmd reboot it as soon as no job runs, and stay down after. Raises: ControllerError.

        Without `nextstate=DOWN` Slurm gives the node back to its users by itself.
        """
        self._tell("scontrol", "reboot", "ASAP", "nextstate=DOWN", f"reason={mark}", node)

    # ---- children

    def _ask(self, *arguments: str, seconds: float) -> str:
        ended = self._run("scontrol", *arguments, seconds=seconds)
        if ended.code != 0:
            raise ControllerError(ended.words)
        return ended.out

    def _tell(self, program: str, *arguments: str) -> None:
        ended = self._run(program, *arguments, seconds=TELL_SECONDS)
        if ended.code == 0:
            return
        said = ended.err + ended.out
        sent = not any(words in said for words in _NOT_SENT)
        raise ControllerError(ended.words, maybe=sent and any(words in said for words in _MAYBE_SENT))

    def _run(self, program: str, *arguments: str, seconds: float) -> Ended:
        try:
            return run(self._site, program, *arguments, seconds=seconds, environ=self._environ)
        except CommandError as error:
            raise ControllerError(str(error), maybe=error.late) from None
