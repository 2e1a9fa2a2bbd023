"""The shipped rules through the real promtool and amtool: they load, and every critical kind pages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from gpuwarden.model.kinds import KINDS
from gpuwarden.model.severity import Severity

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
CRITICAL = sorted(name for name, kind in KINDS.items() if kind.defaults.severity is Severity.CRITICAL)
GPU = '{cluster="c", host="h", gpu="3", uuid="GPU-3"'

pytestmark = pytest.mark.real


def run(*command: str, cwd: Path | None = None) -> None:
    """Run a tool and fail with what it says."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["gpuwarden.rules.yml", "gpuwarden.alerts.yml"])
def test_the_rules_load(name: str) -> None:
    """promtool has nothing against them."""
    run("promtool", "check", "rules", str(PROMETHEUS / name))


def test_the_configurations_load() -> None:
    """Both servers would start with what is shipped."""
    run("promtool", "check", "config", "prometheus.yml", cwd=PROMETHEUS)
    run("amtool", "check-config", str(ROOT / "deploy" / "alertmanager" / "alertmanager.yml"))


def page(kind: str) -> dict[str, object]:
    """Return the page that a critical finding of GPU 3 must be."""
    return {
        "exp_labels": {
            "cluster": "c", "host": "h", "gpu": "3", "uuid": "GPU-3", "kind": kind, "severity": "critical",
            "serial": "S3", "slot": "slot3", "name": "H100",
        },
        "exp_annotations": {
            "summary": f"h GPU 3: {kind}",
            "description": f"GPU 3 of h (slot slot3, serial S3, GPU-3): {kind}. "
            f"On the host: gpuwarden explain finding {kind}",
            "runbook_url": f"https://github.com/gpuwarden/gpuwarden/blob/main/docs/runbooks/{kind}.md",
        },
    }  # fmt: skip


def promtool_test(tmp_path: Path, tests: list[dict[str, object]]) -> None:
    """Run rule tests; the file is JSON, which is YAML."""
    shutil.copy(PROMETHEUS / "gpuwarden.alerts.yml", tmp_path)
    file = tmp_path / "tests.yml"
    file.write_bytes(
        msgspec.json.encode({"rule_files": ["gpuwarden.alerts.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    run("promtool", "test", "rules", str(file), cwd=tmp_path)


def test_every_critical_kind_pages_by_slot_and_serial(tmp_path: Path) -> None:
    """One generic rule for all of them, and a page that outlives the host's series by half an hour."""
    tests: list[dict[str, object]] = []
    for kind in CRITICAL:
        series = [
            {"series": f'gpuwarden_finding_active{GPU}, kind="{kind}", severity="critical"}}', "values": "1x5"},
            {"series": f'gpuwarden_gpu_info{GPU}, serial="S3", slot="slot3", name="H100"}}', "values": "1x5"},
        ]
        pages = [
            {"eval_time": time, "alertname": "GpuCritical", "exp_alerts": alerts}
            for time, alerts in (("1m", [page(kind)]), ("30m", [page(kind)]), ("50m", []))
        ]
        tests.append({"interval": "1m", "input_series": series, "alert_rule_test": pages})
    promtool_test(tmp_path, tests)


def test_a_host_level_finding_pages_without_a_gpu(tmp_path: Path) -> None:
    """No uuid, no join."""
    kind = "presence.nvml_blocked"
    series = f'gpuwarden_finding_active{{cluster="c", host="h", kind="{kind}", severity="critical"}}'
    alert = {
        "exp_labels": {"cluster": "c", "host": "h", "kind": kind, "severity": "critical"},
        "exp_annotations": {
            "summary": f"h: {kind}",
            "description": f"h as a whole: {kind}. On the host: gpuwarden explain finding {kind}",
            "runbook_url": f"https://github.com/gpuwarden/gpuwarden/blob/main/docs/runbooks/{kind}.md",
        },
    }
    expected = [{"eval_time": "2m", "alertname": "GpuHostFinding", "exp_alerts": [alert]}]
    promtool_test(
        tmp_path,
        [{"interval": "1m", "input_series": [{"series": series, "values": "1x5"}], "alert_rule_test": expected}],
    )
