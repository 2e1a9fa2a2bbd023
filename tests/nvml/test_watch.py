"""What a worker's silence means, second by second."""

from __future__ import annotations

from gpuwarden.model.gpu import GpuIdentity
from gpuwarden.nvml.watch import SilenceWatch
from gpuwarden.nvml.wire import Beat, Busy, Fault, Gpu, Opened

OPENED = Opened(driver="", nvml="", cuda="", count=2)


def beat(*since: float, call: str = "nvmlDeviceGetTemperature") -> Beat:
    return Beat(threads=tuple(Busy(index=i, bdf=f"b{i}", call=call, since=at) for i, at in enumerate(since)))


def watch(*messages: object, at: float) -> SilenceWatch:
    made = SilenceWatch(5.0, 0.0)
    for message in messages:
        made.heard(message, at)  # type: ignore[arg-type]
    return made


def test_a_thread_past_its_deadline_is_late_and_only_that_one() -> None:
    """5 s are the deadline: 5 is in time, more is late."""
    seen = watch(OPENED, beat(10.0, 14.0), at=15.0)
    assert seen.late(15.0) == []
    assert [busy.index for busy in seen.late(15.1)] == [0]
    assert seen.verdict(15.1) is None


def test_a_thread_between_calls_is_never_late() -> None:
    """No call, no deadline."""
    assert watch(OPENED, beat(0.0, call=""), at=100.0).late(100.0) == []


def test_a_worker_without_a_word_is_replaced() -> None:
    """Deadline and two seconds; a stopped process or a call that holds everything."""
    seen = watch(OPENED, at=10.0)
    assert seen.verdict(17.0) is None
    ending = seen.verdict(17.1)
    assert ending is not None
    assert (ending.reason, ending.since) == ("blocked", 10.0)


def test_an_init_that_does_not_return_is_replaced_at_its_deadline() -> None:
    """There is nothing in such a worker that could still be of use."""
    seen = SilenceWatch(5.0, 0.0)
    init = Busy(index=-1, bdf="", call="nvmlInit_v2", since=1.0)
    seen.heard(Beat(threads=(init,)), 6.5)
    ending = seen.verdict(6.5)
    assert ending is not None
    assert ending.detail == "nvmlInit_v2 does not return"


def test_all_threads_late_is_replaced_only_after_a_grace() -> None:
    """Calls that return by themselves cost no worker; one that answers keeps it."""
    seen = watch(OPENED, beat(100.0, 102.0), at=110.0)
    assert seen.verdict(110.0) is None
    seen.heard(beat(100.0, 102.0), 117.1)
    ending = seen.verdict(117.1)
    assert ending is not None
    assert ending.reason == "blocked"
    seen.heard(beat(100.0, 117.0), 117.2)
    assert seen.verdict(117.2) is None


def test_a_gpu_out_of_reach_for_ten_minutes_is_worth_a_new_session() -> None:
    """A reset by somebody else is seen by a new session only; one that answers again needs none."""
    fault = Fault(index=1, bdf="b1", code=15, where="handle")
    seen = watch(OPENED, fault, at=100.0)
    seen.heard(beat(), 701.0)
    ending = seen.verdict(701.0)
    assert ending is not None
    assert (ending.reason, ending.planned) == ("topology", True)
    back = watch(fault, Gpu(index=1, identity=GpuIdentity(uuid="u", bdf="b1")), at=100.0)
    back.heard(beat(), 701.0)
    assert back.verdict(701.0) is None
