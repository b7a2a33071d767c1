"""Pictures of tables in Vega-Lite: bars, maps of depth and component, lines, histograms."""

from collections.abc import Mapping
from typing import Any

from sdmw.reporting.pages.page import Chart

ROW = 15  # pixels of a row in a map
WIDEST = 900  # pixels of all maps beside one another
_MODELS = {
    "field": "model", "type": "nominal", "title": None, "sort": None, "scale": {"scheme": "tableau10"},
    "legend": {"orient": "bottom", "columns": 1},
}  # fmt: skip


_FITTED: Mapping[str, Any] = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}


def bars(title: str, table: str, value: str, *, count: int, said: str, share: bool = False) -> Chart:
    """A bar for each model.

    Args:
        title: above it.
        table: with the columns `model` and the value's.
        value: the field that is drawn.
        count: how many models there are.
        said: what it shows, in words.
        share: the value is a share.
    """
    return Chart(
        title,
        table,
        {
            **_FITTED,
            "height": 26 * count,
            "mark": {"type": "bar", "tooltip": {"content": "data"}, "cornerRadiusEnd": 2},
            "encoding": {
                "y": {"field": "model", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 240}},
                "x": {"field": value, "type": "quantitative", "title": None, "axis": _axis(share)},
                "color": {**_MODELS, "legend": None},
            },
        },
        said,
    )


def stacked(title: str, table: str, value: str, *, count: int, said: str) -> Chart:
    """For each of so many components a bar, of which every model has a part: its share of the field over all models."""
    return Chart(
        title,
        table,
        {
            **_FITTED,
            "height": (ROW + 3) * count,
            "mark": {"type": "bar", "tooltip": {"content": "data"}},
            "encoding": {
                "y": {
                    "field": "component", "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 260},
                },
                "x": {
                    "field": value, "type": "quantitative", "stack": "normalize", "title": None,
                    "axis": {"format": ".0%"},
                },
                "color": _MODELS,
            },
        },
        said,
    )  # fmt: skip


def heat_map(title: str, table: str, value: str, *, depths: int, said: str, share: bool = False) -> Chart:
    """For each model a map of depth and component.

    Args:
        title: above it.
        table: with the columns `model`, `depth`, `component` and the value's.
        value: the field that is drawn.
        depths: how many there are.
        said: what it shows, in words.
        share: the value is a share.
    """
    step = max(2, min(20, WIDEST // (2 * max(depths, 1))))
    return Chart(
        title,
        table,
        {
            "transform": [{"filter": f"isValid(datum.depth) && isValid(datum.{value})"}],
            "facet": {
                "field": "model", "type": "nominal", "sort": None, "title": None,
                "header": {"labelAnchor": "start", "labelLimit": 500},
            },
            "columns": 2 if step * depths < WIDEST // 2 else 1,
            "spec": {
                "width": {"step": step},
                "height": {"step": ROW},
                "mark": {"type": "rect", "tooltip": {"content": "data"}},
                "encoding": {
                    "x": {
                        "field": "depth", "type": "ordinal", "title": "block",
                        "axis": {"labelOverlap": "greedy", "labelAngle": 0},
                    },
                    "y": {"field": "component", "type": "nominal", "title": None, "axis": {"labelLimit": 220}},
                    "color": {
                        "field": value, "type": "quantitative", "title": None,
                        "scale": {"scheme": "viridis", "zero": False},
                        "legend": {"format": ".1%" if share else ".3~g", "gradientLength": 90},
                    },
                },
            },
        },
        said,
    )  # fmt: skip


def square(title: str, table: str, value: str, *, said: str, share: bool = False) -> Chart:
    """A matrix of models by models; the fields are `model`, `other` and the value's: from -1 to 1, or a share."""
    axis = {"labelLimit": 200}
    encoding = {
        "x": {"field": "other", "type": "nominal", "sort": None, "title": None, "axis": {**axis, "labelAngle": -30}},
        "y": {"field": "model", "type": "nominal", "sort": None, "title": None, "axis": axis},
    }
    colour = {
        "field": value, "type": "quantitative", "title": None,
        "scale": {"scheme": "blueorange", "domain": [0, 1] if share else [-1, 1]},
        "legend": {"gradientLength": 90, "format": ".0%" if share else ".1f"},
    }  # fmt: skip
    text = {"field": value, "type": "quantitative", "format": ".1%" if share else ".3f"}
    return Chart(
        title,
        table,
        {
            "width": {"step": 64},
            "height": {"step": 40},
            "encoding": encoding,
            "layer": [
                {"mark": {"type": "rect", "tooltip": {"content": "data"}}, "encoding": {"color": colour}},
                {"mark": {"type": "text", "color": "#1b1f24"}, "encoding": {"text": text}},
            ],
        },
        said,
    )  # fmt: skip


def lines(
    title: str, table: str, x: str, y: str, *, said: str, names: tuple[str, str], by: str = "model", share: bool = False
) -> Chart:
    """A line for each model, or for each of what `by` names; `names` are the axes' titles."""
    return Chart(
        title,
        table,
        {
            **_FITTED,
            "height": 200,
            "mark": {"type": "line", "point": {"size": 16}, "tooltip": {"content": "data"}},
            "encoding": {
                "x": {
                    "field": x, "type": "quantitative", "title": names[0], "scale": {"nice": False},
                    "axis": {"tickMinStep": 1, "format": "d"},
                },
                "y": {
                    "field": y, "type": "quantitative", "title": names[1], "axis": _axis(share),
                    "scale": {"zero": False},
                },
                "color": {**_MODELS, "field": by},
            },
        },
        said,
    )  # fmt: skip


def area(title: str, table: str, *, bound: str, said: str) -> Chart:
    """Memory over time, in the fields `seconds` and `megabytes`, and a line at the field of the bound."""
    x = {"field": "seconds", "type": "quantitative", "title": "seconds", "scale": {"nice": False}}
    y = {"type": "quantitative", "title": "MB"}
    return Chart(
        title,
        table,
        {
            **_FITTED,
            "height": 160,
            "layer": [
                {"mark": {"type": "area", "line": True, "opacity": 0.4, "tooltip": {"content": "data"}},
                 "encoding": {"x": x, "y": {**y, "field": "megabytes"}}},
                {"mark": {"type": "rule", "strokeDash": [4, 4]},
                 "encoding": {"y": {**y, "field": bound, "aggregate": "max"}}},
            ],
        },
        said,
    )  # fmt: skip


def histogram(title: str, table: str, *, cut: bool, said: str) -> Chart:
    """How many deltas have which magnitude: the fields `model`, `power`, `share`, and `cut` where there is a cut."""
    x = {"type": "quantitative", "title": "|delta|, as a power of two"}
    drawn: list[dict[str, Any]] = [
        {
            "mark": {"type": "area", "interpolate": "step-after", "opacity": 0.6, "tooltip": {"content": "data"}},
            "encoding": {
                "x": {**x, "field": "power"},
                "y": {"field": "share", "type": "quantitative", "title": None, "axis": {"format": ".0%"}},
                "color": {**_MODELS, "legend": None},
            },
        }
    ]
    if cut:
        drawn.append({"mark": {"type": "rule", "strokeDash": [4, 4]},
                      "encoding": {"x": {**x, "field": "cut", "aggregate": "median"}}})  # fmt: skip
    facet = {"field": "model", "type": "nominal", "sort": None, "title": None, "header": {"labelAnchor": "start"}}
    return Chart(
        title,
        table,
        {"facet": facet, "columns": 2, "spec": {"width": 380, "height": 140, "layer": drawn}},
        said,
    )


def _axis(share: bool) -> Mapping[str, Any]:
    return {"format": ".2~%"} if share else {"format": ".3~g"}
