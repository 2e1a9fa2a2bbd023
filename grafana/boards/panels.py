"""How every panel looks: one function per kind of panel, so that a dashboard is a table of titles and queries.

Widths are of Grafana's 24 columns; on a phone Grafana stacks panels, so nothing here is lower than a thumb or needs the
panel beside it to be understood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, statetimeline, table
from grafana_foundation_sdk.builders import timeseries as time_series
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PanelBuilder: TypeAlias = Builder[model.Panel]

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
ABSENT = "no such reading"
GREEN, YELLOW, ORANGE, RED, GREY, BLUE = "green", "yellow", "orange", "red", "#6e7079", "blue"


class Query(NamedTuple):
    """One query. `limit` is the colour of a limit: it is drawn as a dashed line. `fixed` a series' own colour."""

    expr: str
    legend: str = ""
    limit: str = ""
    fixed: str = ""


class Word(NamedTuple):
    """What a value is called, and its colour."""

    text: str
    color: str


class Column(NamedTuple):
    """One column of a table: the label or value it shows, and how."""

    field: str
    header: str
    unit: str = ""
    words: Mapping[str, Word] = {}
    link: tuple[str, str] = ("", "")  # title and URL
    width: int = 0
    steps: tuple[tuple[float | None, str], ...] = ()  # thresholds: the cell's background
    decimals: int | None = None


YES_NO = {"0": Word("no", GREEN), "1": Word("YES", RED)}
ON_OFF = {"0": Word("off", GREY), "1": Word("on", GREEN)}
UP_DOWN = {"0": Word("DOWN", RED), "1": Word("up", GREEN)}
SEVERITIES = {"critical": Word("critical", RED), "warning": Word("warning", ORANGE), "info": Word("info", BLUE)}


def lines(
    title: str,
    unit: str,
    *queries: Query,
    why: str = "",
    width: int = 12,
    height: int = 8,
    low: float | None = None,
    high: float | None = None,
    bars: bool = False,
    stacked: bool = False,
    absent: str = ABSENT,
) -> PanelBuilder:
    """Return readings over time; limits are dashed lines in their own colour."""
    panel = (
        time_series.Panel()
        .title(title)
        .description(why)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .no_value(absent)
        .line_width(1)
        .fill_opacity(60 if bars else (25 if stacked else 0))
        .show_points(looks.VisibilityMode.NEVER)
        .draw_style(looks.GraphDrawStyle.BARS if bars else looks.GraphDrawStyle.LINE)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .span_nulls(False)  # a gap is a gap: what was not read is not drawn
        .legend(
            common.VizLegendOptions()
            .display_mode(looks.LegendDisplayMode.LIST)
            .placement(looks.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    )
    if low is not None:
        panel.min(low)
    if high is not None:
        panel.max(high)
    if unit == "short":  # counts: an axis of whole numbers also while there is nothing to count
        panel.axis_soft_max(5)
    if stacked:
        panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    for ref, query in _refs(queries):
        panel.with_target(_target(ref, query))
        if query.limit:
            panel.override_by_query(ref, [*_fixed(query.limit), *_AS_LIMIT])
        elif query.fixed:
            panel.override_by_query(ref, _fixed(query.fixed))
    return panel


def tiles(
    title: str,
    query: Query,
    *,
    words: Mapping[str, Word] | None = None,
    unit: str = "short",
    steps: tuple[tuple[float | None, str], ...] = ((None, BLUE),),
    why: str = "",
    width: int = 24,
    height: int = 4,
    link: tuple[str, str] = ("", ""),
    absent: str = ABSENT,
) -> PanelBuilder:
    """Return the last value of each series as a coloured tile with its name."""
    panel = (
        stat.Panel()
        .title(title)
        .description(why)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .no_value(absent)
        .color_mode(looks.BigValueColorMode.BACKGROUND)
        .graph_mode(looks.BigValueGraphMode.NONE)
        .text_mode(looks.BigValueTextMode.VALUE_AND_NAME if query.legend else looks.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(steps))
        .with_target(_target("A", query, instant=True))
    )
    if words:
        panel.mappings([_mapping(words)])
    if link[0]:
        panel.data_links([_link(*link)])
    return panel


def ranking(
    title: str,
    unit: str,
    query: Query,
    *,
    steps: tuple[tuple[float | None, str], ...],
    low: float = 0.0,
    high: float | None = None,
    why: str = "",
    width: int = 12,
    height: int = 9,
    link: tuple[str, str] = ("", ""),
) -> PanelBuilder:
    """Return the last value of each series as a horizontal bar: the few at the top of a list."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(why)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .no_value(ABSENT)
        .min(low)
        .display_mode(looks.BarGaugeDisplayMode.BASIC)
        .orientation(looks.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(steps))
        .with_target(_target("A", query, instant=True))
    )
    if high is not None:
        panel.max(high)
    if link[0]:
        panel.data_links([_link(*link)])
    return panel


def states(
    title: str, *queries: Query, words: Mapping[str, Word], why: str = "", width: int = 24, height: int = 8
) -> PanelBuilder:
    """Return one coloured band per series: which state it was in, when."""
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(why)
        .datasource(DATASOURCE)
        .span(width)
        .height(height)
        .no_value(ABSENT)
        .mappings([_mapping(words)])
        .show_value(looks.VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.85)
        .fill_opacity(80)
        .line_width(0)
        .legend(
            common.VizLegendOptions()
            .display_mode(looks.LegendDisplayMode.LIST)
            .placement(looks.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    for ref, query in _refs(queries):
        panel.with_target(_target(ref, query))
    return panel


def facts(
    title: str,
    *queries: Query,
    columns: Sequence[Column],
    why: str = "",
    width: int = 24,
    height: int = 8,
    absent: str = "nothing",
    by: str = "",
    matrix: tuple[str, str] = ("", ""),
) -> PanelBuilder:
    """Return a table of the last values. Several queries are merged by their labels, their values are `Value #A` on.

    `by` sorts by a header, highest first. `matrix` names the labels that become rows and columns instead; its single
    column then says how a cell looks.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(why)
        .datasource(DATASOURCE)
        .span(width)
        .height(height)
        .no_value(absent)
        .show_header(True)
        .cell_height(looks.TableCellHeight.SM)
    )
    for ref, query in _refs(queries):
        panel.with_target(_target(ref, query, instant=True, rows=True))
    if len(queries) > 1:
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    if matrix[0]:
        row_label, column_label = matrix
        options = {"rowField": row_label, "columnField": column_label, "valueField": "Value", "emptyValue": "null"}
        panel.with_transformation(model.DataTransformerConfig(id_val="groupingToMatrix", options=options))
        corner = {
            "renameByName": {f"{row_label}\\{column_label}": columns[0].header},
            "excludeByName": {},
            "indexByName": {},
        }
        panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=corner))
        panel.override_by_field_type("number", _cell(columns[0]))
        return panel
    names = [column.field for column in columns]
    panel.with_transformation(
        model.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": names}})
    )
    order = {
        "excludeByName": {},
        "indexByName": {name: place for place, name in enumerate(names)},
        "renameByName": {column.field: column.header for column in columns},
    }
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=order))
    for column in columns:
        panel.override_by_name(column.header, _cell(column))
    if by:
        panel.sort_by([common.TableSortByFieldState().display_name(by).desc(True)])
    return panel


def _refs(queries: Sequence[Query]) -> list[tuple[str, Query]]:
    return [(chr(ord("A") + place), query) for place, query in enumerate(queries)]


def _target(ref: str, query: Query, *, instant: bool = False, rows: bool = False) -> prometheus.Dataquery:
    made = prometheus.Dataquery().ref_id(ref).expr(query.expr).datasource(DATASOURCE).legend_format(query.legend)
    if rows:
        made.format(PromQueryFormat.TABLE)
    return made.instant() if instant else made.range()


def _property(name: str, value: object) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)


_AS_LIMIT = (
    _property("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
    _property("custom.stacking", {"mode": "none", "group": "A"}),
    _property("custom.fillOpacity", 0),
)


_NOTHING = model.SpecialValueMap(
    model.DashboardSpecialValueMapOptions(
        match=model.SpecialValueMatch.NULL_AND_NAN, result=model.ValueMappingResult(text="–", color="transparent")
    )
)


def _fixed(color: str) -> list[model.DynamicConfigValue]:
    return [_property("color", {"mode": "fixed", "fixedColor": color})]


def _mapping(words: Mapping[str, Word]) -> model.ValueMap:
    return model.ValueMap(
        options={
            value: model.ValueMappingResult(text=word.text, color=word.color, index=place)
            for place, (value, word) in enumerate(words.items())
        }
    )


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def _link(title: str, url: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).url(url)


def _cell(column: Column) -> list[model.DynamicConfigValue]:
    """Return how the cells of a column look: unit, words, colours, link, width."""
    properties: list[tuple[str, Any]] = []
    if column.unit:
        properties.append(("unit", column.unit))
    if column.decimals is not None:
        properties.append(("decimals", column.decimals))
    properties.append(("mappings", [*([_mapping(column.words)] if column.words else []), _NOTHING]))
    if column.words or column.steps:
        properties.append(("custom.cellOptions", {"type": "color-background", "mode": "basic"}))
    if column.steps:
        steps = [{"value": value, "color": color} for value, color in column.steps]
        properties += [("thresholds", {"mode": "absolute", "steps": steps}), ("color", {"mode": "thresholds"})]
    elif column.words:
        properties.append(("color", {"mode": "thresholds"}))
        properties.append(("thresholds", {"mode": "absolute", "steps": [{"value": None, "color": "transparent"}]}))
    if column.link[0]:
        title, url = column.link
        properties.append(("links", [{"title": title, "url": url, "targetBlank": url.startswith("http")}]))
    if column.width:
        properties.append(("custom.width", column.width))
    return [_property(name, value) for name, value in properties]
