"""What Slurm tells of this host's surroundings: is the node ours, is it out, what is at work, how is the fleet.

One look has a time of its own for all of its questions. What is not told within it stays None.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from msgspec.structs import replace

from gpuwarden.actuators import slurm_slots
from gpuwarden.actuators.notes import Notes, NotesError
from gpuwarden.actuators.site import Site
from gpuwarden.actuators.slurm_calls import ASK_SECONDS, Controller, ControllerError
from gpuwarden.actuators.slurm_host import ThisHost
from gpuwarden.actuators.slurm_words import SlurmNode, plain_reason
from gpuwarden.model.case import Surroundings

_LOOK_SECONDS = 12.0  # whoever started this look waits for 15 s
_LEAST_SECONDS = 0.5  # below this no question is asked any more
_FLEET_SECONDS = 60.0  # how long the answer about the whole fleet is good for: it costs the controller most
_MOST_JOBS = 16  # asked for one by one; with more, all of them count for every GPU


def look(site: Site, slurm: Controller, host: ThisHost, around: Surroundings) -> Surroundings:
    """Return the surroundings with what the controller tells."""
    end = time.monotonic() + _LOOK_SECONDS
    try:
        node = slurm.node(host.node_name(), _left(end))
    except ControllerError as error:
        return replace(around, detail=_joined(around.detail, str(error)))
    doubt = host.doubt(node)
    around = replace(
        around, identity=doubt.identity, isolated=node.out, mark=plain_reason(node.reason), record=node.extra
    )
    told = [around.detail, doubt.why]
    try:
        jobs = slurm.jobs(node.name, _left(end))
        around = replace(around, jobs=len(jobs))
        around = replace(around, jobs_on=_jobs_on(slurm, host, node, jobs, end))
        if (fleet := _fleet(site, slurm, node.name, end)) is not None:
            around = replace(around, slots_free=fleet[0], held_hosts=fleet[1])
    except ControllerError as error:
        told.append(str(error))
    return replace(around, detail=_joined(*told))


def _jobs_on(
    slurm: Controller, host: ThisHost, node: SlurmNode, jobs: tuple[str, ...], end: float
) -> dict[str, int] | None:
    """Return the jobs by GPU; None where an index of Slurm's cannot be brought to a GPU of this host.

    Source: gres.conf(5): indices follow the device files; a host of which all GPUs are in Slurm has them in the order
    of their minors.
    """
    gpus = host.gpus_by_minor()
    if not gpus or node.gpus != len(gpus) or len(jobs) > _MOST_JOBS:
        return None
    found = dict.fromkeys(gpus, 0)
    for job in jobs:
        indices = slurm.job_gpus(job, node.name, _left(end))
        if indices is None or any(index >= len(gpus) for index in indices):
            return None
        for index in indices:
            found[gpus[index]] += 1
    return found


def _fleet(site: Site, slurm: Controller, name: str, end: float) -> tuple[int, int] | None:
    """Return the free slots and the held hosts, at most so old as the answer is good for. None: no limit is set."""
    budget = site.config.budget
    if slurm_slots.limit_of(budget, 1) is None:
        return None
    notes = Notes(Path(site.place.state_dir), "slurm-fleet")
    now = time.time()
    try:
        told = notes.read()
        if 0.0 <= now - float(told["at"]) < _FLEET_SECONDS:
            return int(told["slots_free"]), int(told["held_hosts"])
    except (NotesError, KeyError, ValueError):
        pass
    fleet = slurm_slots.fleet_of(budget, name, slurm.nodes(_left(end)), slurm.reservations(_left(end)), now)
    if fleet is None:
        return None
    with contextlib.suppress(NotesError):  # then it is asked for again
        notes.write({"at": str(now), "slots_free": str(fleet.free), "held_hosts": str(fleet.held)})
    return fleet.free, fleet.held


def _left(end: float) -> float:
    """Return how long the next question may take. Raises: ControllerError where the time is over."""
    left = end - time.monotonic()
    if left < _LEAST_SECONDS:
        raise ControllerError("the controller is too slow")
    return min(ASK_SECONDS, left)


def _joined(*told: str) -> str:
    return "; ".join(each for each in told if each)
