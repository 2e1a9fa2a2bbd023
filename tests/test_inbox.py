"""The inbox keeps every event and only the newest reading."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gpuwarden.inbox import Inbox
from gpuwarden.model.gpu import Lane
from gpuwarden.model.observation import AnyObservation, GpuSampled, KernelLogged, LineKind, MigSeen, Stamp, Tick


def sample(gpu: int, lane: Lane, watts: float) -> GpuSampled:
    return GpuSampled(
        at=Stamp("boot", watts, watts), index=gpu, bdf=f"0000:0{gpu}:00.0", lane=lane, values={"power_watts": watts}
    )


def xid(sequence: int) -> KernelLogged:
    return KernelLogged(
        at=Stamp("boot", 0.0, 0.0),
        kind=LineKind.XID,
        code=79,
        bdf="0000:00:00",
        pid=None,
        text="",
        from_kernel=True,
        sequence=sequence,
    )


async def drain(inbox: Inbox) -> list[AnyObservation]:
    return [await inbox.get() for _ in range(len(inbox))]


async def test_a_newer_reading_replaces_the_waiting_one_and_the_loss_is_counted() -> None:
    """Readings that nobody took are overtaken, per GPU and lane, and counted."""
    inbox = Inbox()
    for observation in (sample(0, Lane.FAST, 1), sample(1, Lane.FAST, 2), sample(0, Lane.FAST, 3)):
        inbox.put(observation)
    assert await drain(inbox) == [sample(1, Lane.FAST, 2), sample(0, Lane.FAST, 3)]
    assert inbox.dropped == 1


async def test_a_newer_look_at_instances_replaces_the_waiting_one() -> None:
    """As with readings, per GPU."""
    inbox = Inbox()
    looks = [
        MigSeen(at=Stamp("boot", float(at), 0.0), index=gpu, bdf=f"0000:0{gpu}:00.0", instances=())
        for at, gpu in ((1, 0), (2, 1), (3, 0))
    ]
    for each in looks:
        inbox.put(each)
    assert await drain(inbox) == looks[1:]
    assert inbox.dropped == 1


async def test_get_waits_until_something_is_put() -> None:
    """The consumer sleeps on an empty inbox and wakes for the first observation."""
    inbox = Inbox()
    waiting = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.put(xid(1))
    assert await asyncio.wait_for(waiting, 1) == xid(1)


async def test_a_replaced_tick_is_no_lost_reading() -> None:
    """Ticks fold without being counted as dropped readings."""
    inbox = Inbox()
    inbox.put(Tick(at=Stamp("boot", 1.0, 1.0)))
    inbox.put(Tick(at=Stamp("boot", 2.0, 2.0)))
    assert await drain(inbox) == [Tick(at=Stamp("boot", 2.0, 2.0))]
    assert inbox.dropped == 0


OBSERVATIONS = st.one_of(
    st.builds(sample, st.integers(0, 3), st.sampled_from(Lane), st.floats(0, 9)), st.builds(xid, st.integers(0, 99))
)


@given(st.lists(OBSERVATIONS))
def test_events_survive_in_order_and_readings_stay_bounded(observations: list[AnyObservation]) -> None:
    """Whatever is put: events all come out in order, readings at most one per GPU and lane, the newest."""

    async def scenario() -> list[AnyObservation]:
        inbox = Inbox()
        for observation in observations:
            inbox.put(observation)
        return await drain(inbox)

    out = asyncio.run(scenario())
    assert [o for o in out if isinstance(o, KernelLogged)] == [o for o in observations if isinstance(o, KernelLogged)]
    newest = {(o.index, o.lane): o for o in observations if isinstance(o, GpuSampled)}
    readings = [o for o in out if isinstance(o, GpuSampled)]
    assert len(readings) == len(newest)
    assert all(newest[o.index, o.lane] is o for o in readings)
