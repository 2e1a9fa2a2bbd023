"""Faults about who holds a GPU: memory that its work left behind, other owners, and an agent that cannot see them."""

from __future__ import annotations

from gpuwarden.errors import InputError
from gpuwarden.sim.card import Card, Knobs
from gpuwarden.sim.fault import Fault, NodeKnobs, Options
from gpuwarden.sim.work import OWNERS


def _left(knobs: Knobs, _: Card, options: Options) -> None:
    knobs.left_bytes, knobs.left_listed = int(float(options["gigabytes"]) * 1e9), bool(options["listed"])


def _work(knobs: Knobs, _: Card, options: Options) -> None:
    owner = str(options["owner"])
    if owner not in OWNERS:
        raise InputError(f"work: owner is one of {', '.join(OWNERS)}, not {owner!r}")
    knobs.owner = owner


def _pid_namespace(knobs: NodeKnobs, _: Options) -> None:
    knobs.pids_hidden = True


ROWS = (
    Fault(
        name="orphan_memory",
        what="work ends and its memory stays in use; with listed=1 a graphics process still stands behind it",
        options={"gigabytes": 8.0, "listed": 0},
        card=_left,
    ),
    Fault(
        name="work",
        what=f"whose work it is: owner is {', '.join(OWNERS)}",
        gpu="any",
        options={"owner": "slurm"},
        card=_work,
    ),
    Fault(
        name="pid_namespace",
        what="the agent is not in the host's pid namespace",
        gpu="none",
        node=_pid_namespace,
    ),
)
