"""What an answer of the simulated driver can be, and the answers by function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Answer: TypeAlias = int | float | str | Sequence[int | Sequence[int]] | dict[str, int | str]
Answers: TypeAlias = dict[str, Answer]
