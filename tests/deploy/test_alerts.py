"""The shipped rules through the real promtool and amtool: they load, and every critical kind pages."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gpuwarden.model.kinds import KINDS
from gpuwarden.model.severity import Severity
from support.rules import PROMETHEUS, RULES, promtool_test, run

ROOT = Path(__file__).parents[2]
DOCS = "https://github.com/gpuwarden/gpuwarden/blob/main/docs"
CRITICAL = sorted(name for name, kind in KINDS.items() if kind.defaults.severity is Severity.CRITICAL)
GPU = '{cluster="c", host="h", gpu="3", uuid="GPU-3"'

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", RULES)
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
            "summary": f"h GPU 3: {KINDS[kind].title}, {kind}",
            "description": f"GPU 3 of h (slot slot3, serial S3, H100, GPU-3): {KINDS[kind].meaning} "
            f"On the host: gpuwarden explain finding {kind}",
            "runbook_url": f"{DOCS}/runbooks/{kind}.md",
            "dashboard_url": "http://localhost:3000/d/gpuwarden-gpu?var-cluster=c&var-host=h&var-gpu=3",
        },
    }  # fmt: skip


def test_every_critical_kind_pages_by_slot_and_serial(tmp_path: Path) -> None:
    """One generic rule for all of them, and a page that outlives the host's series by half an hour."""
    series = [{"series": f'gpuwarden_gpu_info{GPU}, serial="S3", slot="slot3", name="H100"}}', "values": "1x5"}]
    for kind in CRITICAL:
        finding = f'gpuwarden_finding_active{GPU}, kind="{kind}", severity="critical"}}'
        series.append({"series": finding, "values": "1x5"})
    pages = [
        {"eval_time": time, "alertname": "GpuCritical", "exp_alerts": [page(kind) for kind in CRITICAL if fires]}
        for time, fires in (("1m", True), ("30m", True), ("50m", False))
    ]
    promtool_test(tmp_path, [{"interval": "1m", "input_series": series, "alert_rule_test": pages}])


def test_a_host_level_finding_pages_without_a_gpu(tmp_path: Path) -> None:
    """No uuid, no join."""
    kind = "presence.nvml_blocked"
    series = f'gpuwarden_finding_active{{cluster="c", host="h", kind="{kind}", severity="critical"}}'
    alert = {
        "exp_labels": {"cluster": "c", "host": "h", "kind": kind, "severity": "critical"},
        "exp_annotations": {
            "summary": f"h: {KINDS[kind].title}, {kind}",
            "description": f"h as a whole: {KINDS[kind].meaning} On the host: gpuwarden explain finding {kind}",
            "runbook_url": f"{DOCS}/runbooks/{kind}.md",
            "dashboard_url": "http://localhost:3000/d/gpuwarden-node?var-cluster=c&var-host=h",
        },
    }
    expected = [{"eval_time": "2m", "alertname": "GpuHostFinding", "exp_alerts": [alert]}]
    promtool_test(
        tmp_path,
        [{"interval": "1m", "input_series": [{"series": series, "values": "1x5"}], "alert_rule_test": expected}],
    )


ALERTS = [
    rule for group in YAML(typ="safe").load(PROMETHEUS / "gpuwarden.alerts.yml")["groups"] for rule in group["rules"]
]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_it_means_and_where_to_look(rule: dict[str, dict[str, str]]) -> None:
    """Text, a dashboard that is shipped, and a runbook that is written."""
    told = rule["annotations"]
    assert told["summary"]
    assert told["description"]
    board = re.fullmatch(r"http://localhost:3000/d/([a-z-]+)(\?.*)?", told["dashboard_url"])
    assert board
    assert (ROOT / "grafana" / "dashboards" / f"{board[1]}.json").exists()
    page = told["runbook_url"].removeprefix(f"{DOCS}/")
    if page != "runbooks/{{ $labels.kind }}.md":
        headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert page in {f"alerts.md#{heading.lower()}" for heading in headings}


def test_alerts_know_what_the_catalogue_says() -> None:
    """After a change of the catalogue: `make docs`."""
    written = runpy.run_path(str(ROOT / "docs" / "generate_alerts.py"))
    assert written["KIND_RULES"].read_text(encoding="utf-8") == written["kind_rules"]()
