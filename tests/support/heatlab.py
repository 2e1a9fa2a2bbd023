"""A simulated rig under the heat governor on virtual time: whatever is ordered is set, through the driver's setters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpuwarden.engine import advance, initial
from gpuwarden.model.finding import Event
from gpuwarden.model.heat import Heat, HeatOrder, HeatSettings, Lease, Refusal, Setting
from gpuwarden.model.kinds import default_settings
from gpuwarden.model.observation import HeatHandsSeen, StopRead, Tick
from gpuwarden.model.settings import RemedySettings, Settings
from gpuwarden.model.snapshot import NodeState
from gpuwarden.model.step import Govern
from gpuwarden.sim.card import Card
from gpuwarden.sim.scenario import Scenario, Step, Work
from gpuwarden.sim.virtual import VirtualNode


class Second(NamedTuple):
    """One card at one second."""

    at: float
    celsius: float
    watts: float
    limit_watts: float
    fan_ratio: float
    clock_hertz: float


class HeatLab:
    """A rig whose cards all work; `steps` are faults of its timeline. `run` gives each card's life by second."""

    def __init__(
        self,
        spec: str = "rtx4090x1",
        *,
        target: float | None = None,
        ambient: float = 45.0,
        seconds: float = 1800.0,
        steps: Sequence[Step] = (),
        mode: str = "enforce",
        stopped: bool | None = False,
        leases: tuple[Lease, ...] = (),
    ) -> None:
        self.settings = Settings(
            kinds=default_settings(),
            heat=HeatSettings(governor=True, target_celsius=target),
            remedy=RemedySettings(actions={"mitigate": mode}),
        )
        scenario = Scenario(
            version=1, product=spec, seconds=seconds, ambient_celsius=ambient, at=tuple(steps), load=(Work(),)
        )
        self.node = VirtualNode(scenario, self.settings)
        self.state: NodeState = initial(self.node.now, self.settings)
        self.events: list[Event] = []
        self.orders: list[HeatOrder] = []
        self.seconds: list[list[Second]] = [[] for _ in self.node.world.cards]
        self.started = self.node.now.boottime
        self._stopped = stopped
        self._leases = leases
        self._refusals: list[Refusal] = []

    def run(self) -> HeatLab:
        """Live through the scenario."""
        self._take(StopRead(at=self.node.now, stopped=self._stopped))
        self._take(HeatHandsSeen(at=self.node.now, up=True, leases=self._leases))
        for observation in self.node.observations():
            self._take(
                StopRead(at=observation.at, stopped=self._stopped) if isinstance(observation, StopRead) else observation
            )
            if isinstance(observation, Tick):
                for card, life in zip(self.node.world.cards, self.seconds, strict=True):
                    life.append(
                        Second(
                            self.node.world.seconds,
                            card.core_celsius,
                            card.power_watts,
                            card.limit_watts,
                            max(card.fans, default=0.0),
                            card.clock_hertz,
                        )
                    )
        return self

    def heat(self, number: int = 0) -> Heat:
        """Return what is wanted of one card."""
        return self.state.heat[self.node.world.cards[number].identity.uuid]

    def _take(self, observation: object) -> None:
        step = advance(self.state, observation)  # type: ignore[arg-type]
        self.state = step.state
        self.events += [event for event in step.events if event.kind == "action"]
        for command in step.commands:
            if isinstance(command, Govern):
                self.orders.append(command.order)
                self._obey(command.order)

    def _obey(self, order: HeatOrder) -> None:
        card = next(card for card in self.node.world.cards if card.identity.bdf == order.bdf)
        refused = [setting for setting in Setting if not self._set(card, setting, order.wanted.get(setting))]
        self._refusals += [Refusal(uuid=order.uuid, setting=setting, why="not supported") for setting in refused]
        if refused:
            told = HeatHandsSeen(at=self.node.now, up=True, leases=self._held(), refusals=tuple(self._refusals))
            self._take(told)

    def _held(self) -> tuple[Lease, ...]:
        return tuple(
            Lease(
                uuid=uuid, bdf="", setting=setting, value=value, before=None, taken=0.0, renewed=0.0, target_celsius=0.0
            )
            for uuid, heat in self.state.heat.items()
            for setting, value in heat.wanted.items()
        )

    def _set(self, card: Card, setting: Setting, value: float | None) -> bool:
        """Set or give back one setting; False where the card refuses it."""
        world, slot = self.node.world, card.slot
        if value is not None and _FUNCTION[setting] in card.knobs.codes:
            return False
        limits = card.product.power_limit_watts
        match setting:
            case Setting.FAN:
                for fan in range(card.product.fans):
                    if value is None:
                        world.set_on(slot, "nvmlDeviceSetDefaultFanSpeed_v2", [fan])
                    else:
                        assert world.set_on(slot, "nvmlDeviceSetFanSpeed_v2", [fan, max(30, round(100 * value))]) == 0
            case Setting.POWER:
                watts = limits.default if value is None else value
                assert world.set_on(slot, _FUNCTION[setting], [round(1000 * watts)]) == 0
            case Setting.CLOCK:
                if value is None:
                    world.set_on(slot, "nvmlDeviceResetGpuLockedClocks", [])
                else:
                    assert world.set_on(slot, _FUNCTION[setting], [0, round(value / 1e6)]) == 0
        return True


_FUNCTION = {
    Setting.FAN: "nvmlDeviceSetFanSpeed_v2",
    Setting.POWER: "nvmlDeviceSetPowerManagementLimit",
    Setting.CLOCK: "nvmlDeviceSetGpuLockedClocks",
}
