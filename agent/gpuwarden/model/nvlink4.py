"""What an Xid 74 (NVLink up to generation 4) says in its words: copies of the link's error registers.

Source: the vendor's Xid catalogue, sheet "Xid 74"; words are numbered from 1, as printed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator


class Cause(enum.Enum):
    """What a bit of an error register points at."""

    ECC = "ecc_or_parity"
    MECHANICAL = "mechanical_or_connector"
    SIGNAL_INTEGRITY = "signal_integrity"
    UNEXPECTED = "unexpected"
    DIAGNOSE_ON_REPEAT = "field_diagnostic_if_it_repeats"
    ACT_ON_REPEAT = "act_if_it_repeats"
    THRESHOLD = "error_threshold"
    SYMPATHETIC = "follows_the_other_end"
    IGNORE = "nothing"


HARMLESS = frozenset({Cause.IGNORE, Cause.SYMPATHETIC, Cause.THRESHOLD})
"""Causes that are no fault of the GPU that reports them."""

NVLINK4_XID = 74

NVLINK4_BITS: dict[tuple[int, tuple[int, ...]], Cause] = {
    (1, (0, 23, 30)): Cause.IGNORE,
    (1, (1, 20)): Cause.SYMPATHETIC,
    (1, (4, 5)): Cause.ECC,
    (1, (8, 9, 12, 16, 17, 24, 28)): Cause.MECHANICAL,
    (1, (21, 22)): Cause.SIGNAL_INTEGRITY,
    (1, (27, 29)): Cause.ACT_ON_REPEAT,
    (3, (0, 1, 2, 6)): Cause.ECC,
    (3, (13,)): Cause.UNEXPECTED,
    (3, (16, 19)): Cause.DIAGNOSE_ON_REPEAT,
    (3, (17, 18)): Cause.ACT_ON_REPEAT,
    (4, (16, 17, 18)): Cause.SYMPATHETIC,
    (5, (18, 19, 21, 22, 24, 25, 27, 28)): Cause.ECC,
    (5, (20, 23, 26, 29)): Cause.THRESHOLD,
}


def causes(words: str) -> tuple[Cause, ...]:
    """Return what the words of an Xid 74 point at, each cause once, the gravest first; none where no bit is known.

    `words` as the line has them: hexadecimal numbers with commas between.
    """
    found = set(_found([int(word, 16) for word in words.split(",")]))
    return tuple(cause for cause in Cause if cause in found)


def _found(words: list[int]) -> Iterator[Cause]:
    for (register, bits), cause in NVLINK4_BITS.items():
        if len(words) >= register and any(words[register - 1] >> bit & 1 for bit in bits):
            yield cause
