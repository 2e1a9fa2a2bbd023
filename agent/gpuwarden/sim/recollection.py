"""What a simulated node's journal remembers, and what its work tells of itself, as observations."""

from __future__ import annotations

from gpuwarden.model.gpu import GpuIdentity
from gpuwarden.model.observation import BaselineRow, Figure, InventoryRow, Restored, Stamp, ThroughputSeen
from gpuwarden.model.rows import CLOCK_FIGURE
from gpuwarden.model.speed import Sketch, clock_bucket, figure_bucket
from gpuwarden.sim.scenario import Scenario
from gpuwarden.sim.world import World


def remembered(scenario: Scenario, world: World, now: Stamp) -> Restored:
    """Return what a journal would tell at the start of a scenario: its cards, and what each usually reached."""
    inventory = tuple(
        InventoryRow(
            identity=GpuIdentity(uuid=card.identity.uuid, bdf=card.identity.bdf, name=card.product.name),
            index=card.slot,
            first_seen=now.wall,
            last_seen=now.wall,
        )
        for card in world.cards
    )
    baselines = tuple(
        BaselineRow(
            uuid=world.cards[row.gpu].identity.uuid,
            figure=row.figure,
            history=Sketch({_bucket(row.figure, row.value): row.seconds}),
        )
        for row in scenario.remembered
    )
    return Restored(at=now, inventory=inventory, latches=(), counters=(), baselines=baselines)


def _bucket(figure: str, value: float) -> int:
    return clock_bucket(value) if figure == CLOCK_FIGURE else figure_bucket(value)


def throughput(metric: str, world: World, now: Stamp) -> ThroughputSeen:
    """Return what the work's own endpoint would answer."""
    if world.node_knobs.throughput_away:
        return ThroughputSeen(at=now, up=False, detail="no answer")
    figures = tuple(
        Figure(gpu=card.identity.uuid, metric=metric, value=card.iterations_per_second) for card in world.listed()
    )
    return ThroughputSeen(at=now, up=True, figures=figures)
