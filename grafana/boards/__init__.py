"""The dashboards, as code: a table of boards, each a table of panels. `grafana/generate.py` writes them out."""

from __future__ import annotations

from boards import fleet, gpu, heat, node
from boards.board import Board

BOARDS: tuple[Board, ...] = (fleet.BOARD, node.BOARD, gpu.BOARD, heat.BOARD)
