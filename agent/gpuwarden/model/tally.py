"""How often something was seen lately: an aggregate over a sliding window, no list of events."""

from __future__ import annotations

import msgspec

NO_INSTANCE = -1
"""Stands for no MIG instance in particular."""
TALLY_SECONDS = 10.0
TALLY_WINDOW_SECONDS = 300.0
_TALLY_BUCKETS = int(TALLY_WINDOW_SECONDS / TALLY_SECONDS) + 1


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How often something was seen within the last TALLY_WINDOW_SECONDS, in buckets of TALLY_SECONDS of boot time.

    `counts` begins with bucket number `bucket` and goes back; one bucket more than the window, so that nothing falls
    out of it early. `total` counts since this process started.
    """

    bucket: int = 0
    counts: tuple[int, ...] = ()
    total: int = 0

    def plus(self, count: int, at: float) -> Tally:
        """Return the tally with `count` more at boot time `at`."""
        now = int(at // TALLY_SECONDS)
        counts = (0,) * max(0, min(now - self.bucket, _TALLY_BUCKETS)) + self.counts or (0,)
        counts = (counts[0] + count, *counts[1:_TALLY_BUCKETS])
        return Tally(bucket=max(now, self.bucket), counts=counts, total=self.total + count)

    def within(self, at: float) -> int:
        """Return the number seen in the window that ends at boot time `at`."""
        return sum(self.counts[: max(0, _TALLY_BUCKETS - max(0, int(at // TALLY_SECONDS) - self.bucket))])
