"""A report as a picture: quality over cost of routing, of the best mixture, and of every single model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unirouter_core.curves import Curve
from unirouter_core.embedding import Array
from unirouter_core.evaluate import Report
from unirouter_core.exceptions import InvalidDataError, missing_package

try:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as missing:
    raise missing_package("matplotlib", "report") from missing

ROUTING, MIXTURE, MODEL, TEXT = "#0b6e99", "#9a9a9a", "#d1495b", "#333333"

WIDE_RANGE = 30  # costs whose largest is this many times the smallest stand on a logarithmic axis
ITERATIONS = 500  # of moving names apart: a time limit would draw another picture on another machine


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise `InvalidDataError` unless `draw` can write a file of this name."""
    place = Path(path)
    if place.suffix.lower().lstrip(".") not in FigureCanvasAgg.get_supported_filetypes():
        raise InvalidDataError(f"{place}: {place.suffix!r} is no format of pictures; end it in .png, .svg or .pdf.")
    if not place.parent.is_dir():
        raise InvalidDataError(f"{place}: the folder {place.parent} does not exist; make it first.")


@contextmanager
def plain_text(**settings: Any) -> Iterator[None]:
    """Give a context, or decorate a function, where "$" begins no formula; `settings` are matplotlib's own."""
    rc: dict[Any, Any] = {"text.parse_math": False, **settings}
    with matplotlib.rc_context(rc):
        yield


def printable(name: str) -> str:
    """Return a name with "?" where a font or an SVG file could not take a character, such as a lone surrogate."""
    return "".join(sign if sign.isprintable() else "?" for sign in name)


@plain_text()
def draw(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw the curve of a report to a file; its suffix (.png, .svg, .pdf) is the format."""
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    costs = 1000 * np.array([cost for cost, _ in report.models.values()])
    qualities = np.array([quality for _, quality in report.models.values()])
    _scale(axes, costs, np.concatenate([qualities, [report.quality], report.curve.hull().qualities]))
    style(axes, "USD per 1,000 prompts", "quality (1 - error)")
    mixture, curve = _line(report.mixture, axes), _line(report.curve, axes)
    axes.plot(*mixture, color=MIXTURE, lw=1.5, ls=(0, (4, 2)), label="best mixture of models")
    axes.plot(*curve, color=ROUTING, lw=2.5, label="routing", solid_capstyle="round")
    axes.plot(costs, qualities, "o", color=MODEL, ms=5, mec="white", mew=0.8, label="one model for all")
    now = f"this router: cost_weight {report.cost_weight:.4g}"
    axes.plot(1000 * report.cost, report.quality, "D", color=ROUTING, ms=9, mec="white", mew=1.5, label=now)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=TEXT)
    axes.set_title(f"Quality and cost on {report.n:,} held-out prompts", loc="left", fontsize=11, color=TEXT)
    canvas.draw()  # type: ignore[no-untyped-call]  # places the axes, so that names can be measured
    figure.set_layout_engine("none")
    dots = np.column_stack([np.append(costs, 1000 * report.cost), np.append(qualities, report.quality)])
    _label(axes, list(report.models), dots, np.concatenate([curve, mixture], axis=1).T[::25])
    figure.savefig(path)


def style(axes: Any, x: str, y: str) -> None:
    """Name the axes; the frame is two thin lines."""
    axes.set_xlabel(x, color=TEXT)
    axes.set_ylabel(y, color=TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MIXTURE)
    axes.tick_params(colors=TEXT, labelsize=9)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)


def _scale(axes: Any, costs: Array, qualities: Array) -> None:
    """Set the scale of costs, and limits with room for names."""
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


def _line(curve: Curve, axes: Any) -> tuple[Array, Array]:
    """Return the hull of a curve in many points: a mixture is no straight line on a logarithmic axis."""
    hull = curve.hull()
    costs = np.unique(np.append(hull.costs, np.linspace(hull.costs[0], hull.costs[-1], 500)))
    if axes.get_xscale() == "log":
        costs = np.unique(np.append(costs, np.geomspace(hull.costs[0], hull.costs[-1], 500)))
    return 1000 * costs, hull.quality_at(costs)


def _label(axes: Any, models: Sequence[str], dots: Array, curves: Array) -> None:
    """Write each model's name beside its dot (the models' come first), off other names, dots and points of curves."""
    from adjustText import adjust_text  # here, because it imports pyplot

    named = zip(map(printable, models), dots, strict=False)
    names = [axes.text(*dot, name, fontsize=7.5, color=TEXT) for name, dot in named]
    x, y = np.concatenate([dots, curves]).T
    line = {"arrowstyle": "-", "color": MIXTURE, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
    adjust_text(names, x, y, ax=axes, iter_lim=ITERATIONS, expand=(1.1, 1.4), min_arrow_len=30, arrowprops=line)
