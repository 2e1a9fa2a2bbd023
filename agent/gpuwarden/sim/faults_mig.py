"""What an administrator does to the partition of a card."""

from __future__ import annotations

from gpuwarden.sim.card import Card
from gpuwarden.sim.fault import Fault, Node, Options
from gpuwarden.sim.mig import partition


def _partition(node: Node, card: Card | None, options: Options) -> None:
    names = [name.strip() for name in str(options["profiles"]).split(",") if name.strip()]
    for each in node.cards if card is None else [card]:
        partition(each, names)


ROWS = (
    Fault(
        name="mig",
        what="an administrator cuts the GPU into MIG instances (profiles=3g.40gb,1g.10gb); without any MIG is off",
        gpu="any",
        lasts=False,
        options={"profiles": ""},
        begin=_partition,
    ),
)
