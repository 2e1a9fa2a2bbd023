"""The dashboards: current with their code, sound in shape, and every query answered by a real Prometheus."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import generate
from boards import BOARDS
from boards.board import Board, build
from gpuwarden.model.kinds import KINDS
from support.daemonproc import wait_for
from support.lab import SMALL, Lab, lab

GRAFANA = Path(__file__).parents[2] / "grafana"
BUILT = {board.uid: build(board) for board in BOARDS}
RATE_INTERVAL = "15s"
ANY_GPU = (".*", *map(str, range(8)))


def panels(uid: str) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, without the headings of its rows."""
    return [panel for panel in BUILT[uid]["panels"] if panel["type"] != "row"]


QUERIES = [
    pytest.param(uid, panel, target, id=f"{uid}:{panel['title']}:{target['refId']}")
    for uid in BUILT
    for panel in panels(uid)
    for target in panel["targets"]
]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_committed_dashboard_is_what_its_code_says(board: Board) -> None:
    """After a change of the code: `python grafana/generate.py`."""
    assert (GRAFANA / "dashboards" / f"{board.uid}.json").read_text(encoding="utf-8") == generate.text(board)


def test_there_are_no_other_dashboards() -> None:
    """What no code makes is not shipped."""
    assert {path.stem for path in (GRAFANA / "dashboards").iterdir()} == set(BUILT)


@pytest.mark.parametrize("uid", BUILT)
def test_panels_are_named_numbered_and_do_not_overlap(uid: str) -> None:
    """Each has a title, an id of its own, and its place on the grid for itself."""
    taken: set[tuple[int, int]] = set()
    for panel in BUILT[uid]["panels"]:
        assert panel["title"]
        place = panel["gridPos"]
        cells = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in BUILT[uid]["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("uid", BUILT)
def test_every_panel_has_a_unit_and_asks_the_chosen_data_source(uid: str) -> None:
    """A figure without a unit is a riddle; a fixed data source works on one Grafana only."""
    for panel in panels(uid):
        if panel["type"] in ("timeseries", "stat", "bargauge"):
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_links_lead_to_dashboards_variables_and_runbooks_that_exist() -> None:
    """A link's dashboard is shipped and has the variables that the link sets."""
    text = json.dumps(BUILT)
    links = re.findall(r'"/d/([^?"]+)\?([^"]*)"', text)
    assert links
    for uid, query in links:
        variables = {variable["name"] for variable in BUILT[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)|\$\{(\w+):queryparam\}", query)) - {("", "")}
        for name in re.findall(r"var-(\w+)", query) + re.findall(r"\$\{(\w+):queryparam\}", query):
            assert name in variables, (uid, name)
    for kind in re.findall(r"docs/runbooks/([a-z_.]+)\.md", text):
        assert kind in KINDS


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts on which something of every room goes wrong, and the Prometheus that scraped it."""
    with lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


def filled(expression: str, host: str, gpu: str) -> str:
    """Return a query as Grafana would send it for these choices."""
    expression = expression.replace("$__rate_interval", RATE_INTERVAL).replace("$__range", "5m")
    for name, value in {"cluster": ".*", "host": host, "gpu": gpu, "model": ".*", "room": ".*"}.items():
        expression = expression.replace(f'"${name}"', f'"{value}"')
    assert not re.search(r"\$[a-z_]", expression), expression
    return expression


def answered(running: Lab, expression: str, *, instant: bool) -> bool:
    """Whether a query has a number to show for some host and GPU that can be chosen."""
    hosts = [host.host for host in SMALL] if '"$host"' in expression else [""]
    gpus = ANY_GPU if 'gpu="$gpu"' in expression else (".*",)
    for host, gpu in itertools.product([*hosts, ".*"], gpus):
        query = filled(expression, host, gpu)
        if instant:
            values = [series["value"] for series in running.prometheus.query(query)]
        else:
            found = running.prometheus.query_range(query, running.since, time.time())
            values = [value for series in found for value in series["values"]]
        if any(math.isfinite(float(value)) for _, value in values):
            return True
    return False


@pytest.mark.real
@pytest.mark.parametrize(("uid", "panel", "target"), QUERIES)
def test_every_query_is_answered(fleet: Lab, uid: str, panel: dict[str, Any], target: dict[str, Any]) -> None:
    """Each query of each panel returns data from the Prometheus that scraped the bad hour."""
    wait_for(
        lambda: answered(fleet, target["expr"], instant=bool(target.get("instant"))),
        fleet.patience(),
        f"data for {panel['title']}: {target['expr']}",
    )


@pytest.mark.real
@pytest.mark.parametrize("uid", BUILT)
def test_variables_and_marks_have_values(fleet: Lab, uid: str) -> None:
    """Every variable offers something, and the incidents that are marked on graphs are there."""
    asked = [row["query"] for row in BUILT[uid]["templating"]["list"] if row["type"] == "query"]
    for query in asked:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found, query
        match = {"match[]": filled(found[1], SMALL[0].host, ".*")}
        wait_for(lambda: fleet.prometheus.ask(f"label/{found[2]}/values", **match), fleet.patience(), query)  # noqa: B023
    for mark in BUILT[uid]["annotations"]["list"]:
        wait_for(lambda: answered(fleet, mark["expr"], instant=False), fleet.patience(), mark["expr"])  # noqa: B023


def test_provisioning_names_the_folder_and_a_data_source() -> None:
    """Both files are what Grafana's provisioning reads: version 1, a file provider, a Prometheus."""
    read = YAML(typ="safe").load
    provider = read(GRAFANA / "provisioning" / "dashboards" / "gpuwarden.yml")
    assert provider["apiVersion"] == 1
    assert [(row["type"], bool(row["options"]["path"])) for row in provider["providers"]] == [("file", True)]
    source = read(GRAFANA / "provisioning" / "datasources" / "gpuwarden.yml")
    assert source["apiVersion"] == 1
    assert [(row["type"], row["jsonData"]["timeInterval"]) for row in source["datasources"]] == [("prometheus", "15s")]
