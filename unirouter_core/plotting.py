"""Curves of quality over cost as a picture, on any matplotlib axes; needs matplotlib and adjustText."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from unirouter_core.curves import Curve
from unirouter_core.display import shared_prefix
from unirouter_core.embedding import Array
from unirouter_core.exceptions import missing_package

try:
    import matplotlib
except ImportError as missing:
    raise missing_package("matplotlib", "report") from missing

ROUTING, MIXTURE, MODEL, TEXT = "#0b6e99", "#9a9a9a", "#d1495b", "#333333"
DARK = {ROUTING: "#4fb3dd", MODEL: "#ef7d8d", TEXT: "#dddddd"}  # in the place of these on a dark ground
GROUND = "#161616"  # the dark one

WIDE_RANGE = 100  # costs whose largest is this many times the smallest stand on a logarithmic axis
TITLE_WIDTH, RIGHT = 100, 0.75  # letters; where the right end of the axes begins
ITERATIONS = 500  # of moving names apart: a time limit would draw another picture on another machine


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
def plot(
    axes: Any,
    curves: Mapping[str, Curve],
    band: Sequence[tuple[float, float, float]],
    models: Mapping[str, tuple[float, float]],
    here: tuple[str, float, float],
    title: str,
    *,
    dark: bool = False,
) -> Any:
    """Draw curves, models at (cost, quality) and the point `here`; return the axes.

    The first curve is emphasised, and `band` has its interval as (cost, low, high). New axes of pyplot are made where
    none are given.
    """
    if axes is None:
        from matplotlib import pyplot  # only where a notebook wants a figure of its own

        axes = pyplot.subplots(figsize=(8, 5), layout="constrained")[1]
    routing, model, text = (DARK[color] if dark else color for color in (ROUTING, MODEL, TEXT))
    if dark:
        axes.figure.set_facecolor(GROUND)
        axes.set_facecolor(GROUND)
    ground = GROUND if dark else "white"
    costs, qualities = 1000 * np.array([cost for cost, _ in models.values()]), np.array([q for _, q in models.values()])
    _, own_cost, own_quality = here
    lines, (first, *others) = {name: _line(curve, costs) for name, curve in curves.items()}, curves
    drawn = [
        qualities,
        np.array([own_quality]),
        *(line[1] for line in lines.values()),
        np.array([end for _, *ends in band for end in ends]),
    ]
    _scale(axes, costs, np.concatenate(drawn))
    style(axes, "USD per 1,000 prompts", "quality", text)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.3g}" if share > 1 else f"{100 * share:.3g}%")
    if band:
        at, low, high = np.transpose(band)
        axes.fill_between(1000 * at, low, high, color=routing, alpha=0.15, lw=0, label="90% interval of its lead")
    for name in others:
        axes.plot(*lines[name], color=MIXTURE, lw=1.5, ls=(0, (4, 2)), label=name)
    axes.plot(*lines[first], color=routing, lw=2.5, label=first, solid_capstyle="round")
    axes.plot(costs, qualities, "o", color=model, ms=5, mec=ground, mew=0.8, label="one model for all")
    axes.plot(1000 * own_cost, own_quality, "D", color=routing, ms=9, mec=ground, mew=1.5, label=here[0])
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=text)
    shared = shared_prefix(list(models))
    found = textwrap.fill(printable(title.replace(shared, "") if shared else title), TITLE_WIDTH)
    axes.set_title(found, loc="left", fontsize=10, color=text)
    axes.figure.draw_without_rendering()  # places the axes, so that names can be measured
    axes.figure.set_layout_engine("none")
    dots = np.column_stack([np.append(costs, 1000 * own_cost), np.append(qualities, own_quality)])
    _label(
        axes,
        [printable(model.removeprefix(shared)) for model in models],
        dots,
        np.concatenate(list(lines.values()), axis=1).T[::25],
        text,
    )
    return axes


def style(axes: Any, x: str, y: str, text: str = TEXT) -> None:
    """Name the axes; the frame is two thin lines."""
    axes.set_xlabel(x, color=text)
    axes.set_ylabel(y, color=text)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MIXTURE)
    axes.tick_params(colors=text, labelsize=9)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)


def _is_wide(costs: Array) -> bool:
    return bool(costs.max() > WIDE_RANGE * costs.min() > 0)


def _scale(axes: Any, costs: Array, qualities: Array) -> None:
    """Set the scale of costs, and limits with room for names."""
    cheapest, dearest = float(costs.min()), float(costs.max())
    if _is_wide(costs):
        axes.set_xscale("log")
        axes.set_xlim(cheapest / 2.5, dearest * 3)
        axes.xaxis.set_major_formatter(lambda usd, _: f"${usd:,.4g}")
    else:
        axes.set_xlim(-0.03 * dearest, 1.12 * dearest)
        axes.xaxis.set_major_formatter(lambda usd, _: f"${usd:,.6g}")
    room = 0.08 * max(float(qualities.max() - qualities.min()), 0.05)
    axes.set_ylim(qualities.min() - room, min(qualities.max() + 1.5 * room, 1 + room))


def _line(curve: Curve, costs: Array) -> tuple[Array, Array]:
    """Return a curve in many points: a mixture is no straight line on a logarithmic axis."""
    at = np.unique(np.append(curve.costs, np.linspace(curve.costs[0], curve.costs[-1], 500)))
    if _is_wide(costs):
        at = np.unique(np.append(at, np.geomspace(curve.costs[0], curve.costs[-1], 500)))
    return 1000 * at, curve.quality_at(at)


def _label(axes: Any, names: Sequence[str], dots: Array, curves: Array, color: str) -> None:
    """Write each name beside its dot, the first ones, inside the frame and off other names, dots and curves."""
    from adjustText import adjust_text  # here, because it imports pyplot

    across = axes.transAxes.inverted().transform(axes.transData.transform(dots))[:, 0]
    sides = np.where(across > RIGHT, "right", "left").tolist()  # names of dots at the right end at their left
    texts = [
        axes.text(*dot, name, fontsize=7.5, color=color, ha=side)
        for name, dot, side in zip(names, dots, sides, strict=False)
    ]
    x, y = np.concatenate([dots, curves]).T
    line = {"arrowstyle": "-", "color": MIXTURE, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
    adjust_text(texts, x, y, ax=axes, iter_lim=ITERATIONS, expand=(1.1, 1.4), min_arrow_len=30, arrowprops=line)
    frame = axes.get_window_extent()
    for each in texts:
        box, (x_at, y_at) = each.get_window_extent(), axes.transData.transform(each.get_position())
        over = max(box.x1 - frame.x1, 0) - max(frame.x0 - box.x0, 0)
        each.set_position(axes.transData.inverted().transform((x_at - over, y_at)))
