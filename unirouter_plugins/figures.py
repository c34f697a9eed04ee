"""A report as a picture: quality over cost of routing, of the best mixture, and of every single model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unirouter_core.curves import Curve
from unirouter_core.embedding import Array
from unirouter_core.evaluate.report import Report
from unirouter_core.exceptions import InvalidDataError

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox
except ImportError as missing:
    raise ImportError("matplotlib is missing: pip install 'unirouter[report]'.") from missing

ROUTING, MIXTURE, MODEL, TEXT = "#0b6e99", "#9a9a9a", "#d1495b", "#333333"
WIDE_RANGE = 30
"""Costs whose largest is this many times the smallest stand on a logarithmic axis."""

REACHES = (6, 14, 24, 36, 50)
"""How far from its dot a label may stand, in points: all labels try the nearest first."""

ANGLES = np.deg2rad((0, 180, 90, -90, 40, 140, -40, -140, 70, 110, -70, -110))

LINE = np.linspace(0.2, 0.95, 16)
"""Where a line from a dot to its label is tried for what it crosses."""

BESIDE = 10
"""Points within which a label needs no line to its dot."""


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise `InvalidDataError` unless `draw` can write a file of this name.

    Parameters
    ----------
    path : path
    """
    place = Path(path)
    if place.suffix.lower().lstrip(".") not in FigureCanvasAgg.get_supported_filetypes():
        raise InvalidDataError(f"{place}: {place.suffix!r} is no format of pictures; end it in .png, .svg or .pdf.")
    if not place.parent.is_dir():
        raise InvalidDataError(f"{place}: the folder {place.parent} does not exist; make it first.")


def draw(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw the curve of a report to a file; its suffix (.png, .svg, .pdf) is the format.

    Every model is a dot; in a crowd of dozens, a dot or two may stay without its name.

    Parameters
    ----------
    report : Report
    path : path
    """
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    costs = 1000 * np.array([cost for cost, _ in report.models.values()])
    qualities = np.array([quality for _, quality in report.models.values()])
    _set_axes(axes, costs, np.concatenate([qualities, [report.quality], report.curve.hull().qualities]))
    mixture, curve = _line(report.mixture, axes), _line(report.curve, axes)
    axes.plot(*mixture, color=MIXTURE, lw=1.5, ls=(0, (4, 2)), label="best mixture of models")
    axes.plot(*curve, color=ROUTING, lw=2.5, label="routing", solid_capstyle="round")
    axes.plot(costs, qualities, "o", color=MODEL, ms=5, mec="white", mew=0.8, label="one model for all")
    now = f"this router: cost_weight {report.cost_weight:.4g}"
    axes.plot(1000 * report.cost, report.quality, "D", color=ROUTING, ms=9, mec="white", mew=1.5, label=now)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=TEXT)
    axes.set_title(f"Quality and cost on {report.n:,} held-out prompts", loc="left", fontsize=11, color=TEXT)
    canvas.draw()  # type: ignore[no-untyped-call]  # places the axes, so that labels can be measured
    figure.set_layout_engine("none")
    dots = np.column_stack([np.append(costs, 1000 * report.cost), np.append(qualities, report.quality)])
    _label(axes, canvas, list(report.models), dots, np.concatenate([curve, mixture], axis=1).T)
    figure.savefig(path)


def _set_axes(axes: Any, costs: Array, qualities: Array) -> None:
    """Set scales, limits with room for labels, and ticks; the frame is two thin lines."""
    cheapest, dearest = float(costs.min()), float(costs.max())
    if dearest > WIDE_RANGE * cheapest > 0:
        axes.set_xscale("log")
        axes.set_xlim(cheapest / 2.5, dearest * 3)
        axes.xaxis.set_major_formatter(lambda usd, _: f"${usd:,.4g}")
    else:
        axes.set_xlim(0, 1.25 * dearest)
        axes.xaxis.set_major_formatter(lambda usd, _: f"${usd:,.6g}")
    room = 0.08 * max(float(qualities.max() - qualities.min()), 0.05)
    axes.set_ylim(qualities.min() - room, min(qualities.max() + 1.5 * room, 1 + room))
    axes.set_xlabel("USD per 1,000 prompts", color=TEXT)
    axes.set_ylabel("quality (1 - error)", color=TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MIXTURE)
    axes.tick_params(colors=TEXT, labelsize=9)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)


def _line(curve: Curve, axes: Any) -> tuple[Array, Array]:
    """Return the hull of a curve in many points: a mixture is no straight line on a logarithmic axis."""
    hull = curve.hull()
    costs = np.unique(np.append(hull.costs, np.linspace(hull.costs[0], hull.costs[-1], 500)))
    if axes.get_xscale() == "log":
        costs = np.unique(np.append(costs, np.geomspace(hull.costs[0], hull.costs[-1], 500)))
    return 1000 * costs, hull.quality_at(costs)


# --- Labels -----------------------------------------------------------------------------------------------------------


def _label(axes: Any, canvas: FigureCanvasAgg, models: Sequence[str], dots: Array, curves: Array) -> None:
    """Write each model's name where it meets no dot, curve or other name; where there is no such place, leave it out.

    Parameters
    ----------
    axes, canvas
    models : sequence of str
    dots : array (n_dots, 2)
        The models' come first.
    curves : array (n, 2)
        Points of the curves, which lines from dots to names may cross.
    """
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    point = axes.figure.dpi / 72
    marks = [_around(at, 3 * point) for at in axes.transData.transform(dots)]
    lines = [_around(at, 2 * point) for at in axes.transData.transform(curves)]
    bare = np.argsort(-dots[: len(models), 1]).tolist()
    for reach in REACHES:
        for j in list(bare):
            others = marks[:j] + marks[j + 1 :]
            for label, name, line in _tries(axes, renderer, models[j], dots[j], reach):
                if not name.count_overlaps(others + lines) and not any(part.count_overlaps(others) for part in line):
                    marks += [name, *line]
                    bare.remove(j)
                    break
                label.remove()


def _tries(axes: Any, renderer: Any, name: str, dot: Array, reach: float) -> Iterator[tuple[Any, Bbox, list[Bbox]]]:
    """Yield labels at `reach` points around a dot and inside the picture, with what name and line cover."""
    point = axes.figure.dpi / 72
    centre = axes.transData.transform(dot)
    for right, up in reach * np.column_stack([np.cos(ANGLES), np.sin(ANGLES)]):
        label = _text(axes, name, dot, right, up)
        label.update_positions(renderer)
        box = Text.get_window_extent(label, renderer)  # without the line
        if axes.bbox.x0 <= box.x0 and box.x1 < axes.figure.bbox.x1 - point and axes.bbox.y0 <= box.y0:
            yield label, box, [_around(centre + share * point * np.array([right, up]), 1) for share in LINE]
        else:
            label.remove()


def _around(at: Array, reach: float) -> Bbox:
    return Bbox.from_extents(at[0] - reach, at[1] - reach, at[0] + reach, at[1] + reach)


def _text(axes: Any, name: str, dot: Array, right: float, up: float) -> Any:
    """Return a label `right` and `up` points from its dot, with a thin line between them where it is far."""
    side, level = np.sign(np.round(right)), np.sign(np.round(up))
    line = {"arrowstyle": "-", "color": MIXTURE, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
    return axes.annotate(
        name,
        dot,
        (right, up),
        textcoords="offset points",
        ha={1: "left", -1: "right", 0: "center"}[int(side)],
        va={1: "bottom", -1: "top", 0: "center"}[int(level)],
        fontsize=7.5,
        color=TEXT,
        arrowprops={**line, "relpos": ((1 - side) / 2, (1 - level) / 2)} if np.hypot(right, up) > BESIDE else None,
    )
