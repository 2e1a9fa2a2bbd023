"""The shipped Prometheus rules under the real promtool: made-up series in, firing alerts out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = ("gpuwarden.kinds.yml", "gpuwarden.rules.yml", "gpuwarden.alerts.yml")


def run(*command: str, cwd: Path | None = None) -> None:
    """Run a tool and fail with what it says."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Firing(NamedTuple):
    """At `at`, exactly these alerts of a name fire, each told by some of its labels."""

    at: str
    alerts: tuple[Mapping[str, str], ...] = ()


def promtool_test(directory: Path, tests: Sequence[Mapping[str, Any]]) -> None:
    """Run rule tests on all shipped rules; the file is JSON, which is YAML."""
    for name in RULES:
        shutil.copy(PROMETHEUS / name, directory)
    file = directory / "tests.yml"
    file.write_bytes(msgspec.json.encode({"rule_files": RULES, "evaluation_interval": "1m", "tests": tests}))
    run("promtool", "test", "rules", str(file), cwd=directory)


def alert_test(name: str, series: Mapping[str, str], firing: Sequence[Firing], by: str) -> dict[str, Any]:
    """Return one promtool test: what fires of alert `name`, counted by the labels `by`, at each of these times."""
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count by ({by}) (ALERTS{{alertname="{name}", alertstate="firing"}})',
                "eval_time": moment.at,
                "exp_samples": [{"labels": _selector(labels), "value": 1} for labels in moment.alerts],
            }
            for moment in firing
        ],
    }


def _selector(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
