"""The dashboards, as code: a table of boards, each a table of panels. `grafana/generate.py` writes them out."""

from __future__ import annotations

from boards.board import Board
from boards.gpu import GPU
from boards.node import NODE

BOARDS: tuple[Board, ...] = (NODE, GPU)
