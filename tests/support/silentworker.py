"""A worker that never says anything and ends with its stdin: `python -m support.silentworker`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.stdin.read()
