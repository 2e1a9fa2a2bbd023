"""`make pictures`: every dashboard drawn from a Prometheus that scrapes a small fleet going wrong, one PNG each.

Grafana's own components draw (see app.tsx); a browser takes the pictures. Nothing of this is in CI: it fetches some
hundred megabytes of Node packages once. What comes out is to be looked at by a person.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent)]

from support.lab import LARGE, lab  # noqa: E402

ALL = ".*"
WIDE, PHONE = 1600, 412


def pictures() -> list[dict[str, Any]]:
    """Return what is drawn: dashboard, choice of variables, width."""
    node = {"cluster": "lab", "host": "gpu-01", "gpu": ALL}
    everything = {"cluster": ALL, "host": ALL, "model": ALL}
    return [
        {"name": "fleet", "uid": "gpuwarden-fleet", "choice": everything, "width": WIDE},
        {"name": "heat", "uid": "gpuwarden-heat", "choice": everything | {"room": ALL}, "width": WIDE},
        {"name": "node", "uid": "gpuwarden-node", "choice": node, "width": WIDE},
        {"name": "node-rig", "uid": "gpuwarden-node", "choice": node | {"host": "rig-07"}, "width": WIDE},
        {"name": "node-phone", "uid": "gpuwarden-node", "choice": node, "width": PHONE},
        {"name": "gpu", "uid": "gpuwarden-gpu", "choice": node | {"gpu": "1"}, "width": WIDE},
        {"name": "gpu-rig", "uid": "gpuwarden-gpu", "choice": node | {"host": "rig-07", "gpu": "3"}, "width": WIDE},
    ]


def missing() -> list[str]:
    """Return the commands that are needed and not there."""
    return [name for name in ("node", "npm", "prometheus", "chromium") if shutil.which(name) is None]


def draw(seconds: float, out: Path) -> int:
    """Install what draws, run the fleet for some seconds, draw; the exit status of the drawing."""
    print("installing the Node packages that draw (once)...", flush=True)
    subprocess.run(
        ["npm", "install", "--legacy-peer-deps", "--no-audit", "--no-fund", "--no-package-lock", "--silent"],
        cwd=HERE,
        check=True,
    )
    boards = ROOT / "grafana" / "dashboards"
    with tempfile.TemporaryDirectory(dir=HERE / "node_modules") as sources:
        subprocess.run(["node", HERE / "shape.mjs", sources, *sorted(boards.glob("*.json"))], check=True)
    with tempfile.TemporaryDirectory(prefix="gpuwarden-pictures-") as scratch, lab(Path(scratch), LARGE) as fleet:
        print(f"a fleet of {len(LARGE)} simulated hosts goes wrong for {seconds:.0f} s...", flush=True)
        time.sleep(max(0.0, fleet.since + seconds - time.time()))
        now = time.time()
        order = {
            "prometheus": fleet.prometheus.url,
            "boards": str(boards),
            "out": str(out),
            "chromium": shutil.which("chromium"),
            "span": {"from": int((fleet.since + 5) * 1000), "to": int(now * 1000), "step": 1},
            "pictures": pictures(),
        }
        file = Path(scratch) / "order.json"
        file.write_bytes(msgspec.json.encode(order))
        return subprocess.run(["node", HERE / "draw.mjs", file], check=False).returncode


def main() -> int:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0, help="how long the fleet runs before it is drawn")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "pictures")
    arguments = parser.parse_args()
    absent = missing()
    if absent:
        print(f"pictures need: {', '.join(absent)} (Debian: apt-get install nodejs npm prometheus chromium)")
        return 1
    return draw(arguments.seconds, arguments.out.resolve())


if __name__ == "__main__":
    sys.exit(main())
