"""What a dashboard is made of, and what is the same on all of them: variables, links, annotations, time."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from boards.panels import DATASOURCE, PanelBuilder

TAG = "gpuwarden"
RUNBOOK = "https://github.com/gpuwarden/gpuwarden/blob/main/docs/runbooks/"
ANYTHING = ".*"  # also a label that is not there: a fleet of one cluster need not set `cluster`

HOST = 'cluster=~"$cluster", host="$host"'
"""Selects the series of the chosen host."""
GPU = f'{HOST}, gpu=~"$gpu"'
"""Selects the series of the chosen GPUs of the chosen host."""
ONE = f'{HOST}, gpu="$gpu"'
"""Selects the series of the chosen GPU."""
FLEET = 'cluster=~"$cluster", host=~"$host"'
"""Selects the series of the chosen hosts, all by default."""


ROOM = 'cluster=~"$cluster", room=~"$room"'
"""Selects the series of the chosen rooms; `room` is a label that service discovery sets, if it knows."""


class Variable(NamedTuple):
    """One variable that is asked of Prometheus. `all`: several or all can be chosen, and all are at first."""

    name: str
    label: str
    query: str
    all: bool = False
    numeric: bool = False


class Section(NamedTuple):
    """One row of panels under a heading."""

    title: str
    panels: tuple[PanelBuilder, ...]


class Board(NamedTuple):
    """One dashboard; `uid` is also the name of its file and part of its address."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    sections: tuple[Section, ...]
    incidents: str  # the selector of the incidents that are marked on every graph
    span: str = "now-1h"


CLUSTER = Variable("cluster", "Cluster", "label_values(gpuwarden_build_info, cluster)", all=True)
ONE_HOST = Variable("host", "Host", 'label_values(gpuwarden_build_info{cluster=~"$cluster"}, host)')
HOSTS = ONE_HOST._replace(all=True)
GPUS = Variable("gpu", "GPU", f"label_values(gpuwarden_gpu_info{{{HOST}}}, gpu)", all=True, numeric=True)
ONE_GPU = GPUS._replace(all=False)
ROOMS = Variable("room", "Room", 'label_values(gpuwarden_build_info{cluster=~"$cluster"}, room)', all=True)
MODEL = Variable("model", "Model", 'label_values(gpuwarden_gpu_info{cluster=~"$cluster"}, name)', all=True)


def build(board: Board) -> dict[str, Any]:
    """Return the dashboard as Grafana reads it. Panels are numbered in their order, so that links to one last."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .time(board.span, "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(_datasource())
        .link(_other_boards())
    )
    for variable in board.variables:
        made.with_variable(_variable(variable))
    for section in board.sections:
        made.with_row(dashboard.Row(section.title))
        for panel in section.panels:
            made.with_panel(panel)
    found: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(made.build()))
    for number, panel in enumerate(found["panels"], 1):
        panel["id"] = number
    for row in found["templating"]["list"]:
        for name in ("id", "auto", "auto_count", "auto_min"):  # the kit's own; no variable of ours has them
            row.pop(name, None)
    del found["style"]  # the viewer chooses
    found["annotations"] = {"list": [_incidents(board.incidents)]}
    return found


def _datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _variable(variable: Variable) -> dashboard.QueryVariable:
    made = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .query(variable.query)
        .datasource(DATASOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NUMERICAL_ASC if variable.numeric else model.VariableSort.ALPHABETICAL_ASC)
        .multi(variable.all)
        .include_all(variable.all)
    )
    if variable.all:
        made.all_value(ANYTHING).current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    return made


def _other_boards() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("GPU dashboards")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
        .as_dropdown(False)
    )


def _incidents(selector: str) -> dict[str, Any]:
    """Return a mark on every graph where an incident began. The kit has no class for a Prometheus annotation."""
    return {
        "name": "Incidents",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "expr": f"gpuwarden_incident_start_timestamp_seconds{{{selector}}} * 1000",
        "useValueForTime": True,
        "titleFormat": "{{kind}}",
        "textFormat": "{{host}} GPU {{gpu}}",
        "step": "60s",
    }
