"""Writes grafana/dashboards/<uid>.json from the dashboards' code: `python grafana/generate.py`."""

from __future__ import annotations

import json
from pathlib import Path

from boards import BOARDS
from boards.board import Board, build

DASHBOARDS = Path(__file__).with_name("dashboards")


def text(board: Board) -> str:
    """Return a dashboard's file: sorted and indented, so that a change reads as a change."""
    return json.dumps(build(board), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every dashboard, and remove those that are gone."""
    DASHBOARDS.mkdir(exist_ok=True)
    wanted = {f"{board.uid}.json": text(board) for board in BOARDS}
    for old in DASHBOARDS.glob("*.json"):
        if old.name not in wanted:
            old.unlink()
    for name, content in wanted.items():
        (DASHBOARDS / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
