"""GPUs at work, told second by second: each with its own readings, all of them sampled and then judged."""

from __future__ import annotations

from typing import Any

from gpuwarden.model.gpu import Lane
from gpuwarden.model.observation import Tick
from support.story import Story

H100_AT_WORK = {
    "gpu_utilization_ratio": 1.0,
    "sm_clock_hertz": 1980e6,
    "memory_clock_hertz": 2619e6,
    "clocks_event_reasons": 0,
    "performance_state": 0,
    "power_watts": 600.0,
}
H100_STATIC = {
    "sm_clock_max_hertz": 1980e6,
    "memory_clock_max_hertz": 2619e6,
    "graphics_clock_boost_hertz": 1980e6,
    "power_limit_default_watts": 700.0,
}


def at_work(count: int, **static: Any) -> Story:
    """Return a story with this many H100s, their static readings known; `static` replaces some of them."""
    story = Story().started(count)
    for number in range(count):
        story.sample(number, Lane.STATIC, **(H100_STATIC | static))
        story.sample(number, Lane.NORMAL, power_limit_enforced_watts=700.0)
        story.sample(number, Lane.SLOW, processes=1)
    return story


def work(story: Story, seconds: float, *differing: dict[str, Any]) -> None:
    """Let every GPU work for some seconds; GPU i differs from a healthy one by `differing[i]`, the rest are healthy.

    What the slower lanes brought last is brought again in time.
    """
    for second in range(round(seconds)):
        story.boottime += 1.0
        for number in range(len(story.node.gpus)):
            differs = differing[number] if number < len(differing) else {}
            story.sample(number, **(H100_AT_WORK | differs))
            if second % 10 == 0:
                known = story.gpu(number).readings
                story.sample(number, Lane.NORMAL, power_limit_enforced_watts=known.power_limit_enforced_watts)
                story.sample(number, Lane.SLOW, processes=known.processes)
        story.take(Tick(at=story.at))
