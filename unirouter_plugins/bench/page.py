"""Plots of a benchmark and one HTML page of them: deferral curves, Area against N_val, reliability."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unirouter_plugins.bench.results import CLAIRVOYANT, DEFAULT, GRID, ZERO, shown
from unirouter_plugins.figures import MIXTURE, MODEL, ROUTING, TEXT, plain_text, printable, style

EMPHASIS: dict[str, dict[str, Any]] = {
    DEFAULT: {"color": ROUTING, "lw": 2.6, "zorder": 3},
    ZERO: {"color": MIXTURE, "lw": 1.8, "ls": (0, (4, 2))},
    CLAIRVOYANT: {"color": "#111111", "lw": 1.4, "ls": (0, (1, 1.5))},
}  # every other method is a thin line
HIDDEN = ("oracle", "models' hull")  # not drawn: far above everything, and nearly on the zero router


@plain_text()
def write_page(
    standings: pd.DataFrame, records: Sequence[Mapping[str, Any]], about: Mapping[str, str], folder: Path
) -> list[Path]:
    """Write ``index.html`` and each plot as an .svg file; return the paths.

    The standings were made from `records`; `about` has a sentence for each table.
    """
    trials, tables, written = pd.DataFrame(records), [], []
    for name, sentence in about.items():
        rows, drawn = standings[standings["table"] == name], []
        for file, figure in _figures(rows, trials[trials["table"] == name]):
            svg = _svg(figure, file)
            written.append(folder / f"{file}.svg")
            written[-1].write_text(svg, "utf-8")
            drawn.append(svg[svg.index("<svg") :])
        parts = [
            {"n_val": n_val, "trials": part["trials"].iloc[0], **shown(part).to_dict("split")}
            for n_val, part in rows.groupby("n_val", sort=False)
        ]
        tables.append({"name": name, "about": sentence, "figures": drawn, "parts": parts})
    template = Path(__file__).with_name("page.html").read_text("utf-8")
    page = jinja2.Environment(autoescape=True).from_string(template)
    (folder / "index.html").write_text(page.render(tables=tables, default=DEFAULT) + "\n", "utf-8")
    return [*written, folder / "index.html"]


def _figures(rows: pd.DataFrame, trials: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    if rows["n_val"].nunique() > 1:
        yield f"{rows['table'].iloc[0]}-area", draw_areas(rows)
    for n_val, part in trials.groupby("n_val", sort=False):
        name = f"{part['table'].iloc[0]}-{n_val}"
        yield f"{name}-curves", draw_curves(part)
        if (part["method"] == DEFAULT).any():
            yield f"{name}-reliability", draw_reliability(part[part["method"] == DEFAULT])


def draw_curves(trials: pd.DataFrame) -> Figure:
    """Return the mean deferral curves of one table and N_val, cost on a linear and on a logarithmic axis."""
    figure, both = _figure(2, (11, 4.6))
    single = trials[trials["method"] == "single model"]
    for axes in both:
        for method, part in trials.groupby("method", sort=False):
            if method not in HIDDEN and part["curve"].map(len).all():
                axes.plot(100 * GRID, np.mean(part["curve"].tolist(), axis=0), label=method, **_look(method))
        if len(single):
            at = 100 * single["mu_cost"].mean(), single["mu"].mean()
            axes.plot(*at, "o", color=MODEL, ms=6, label="single model")
        style(axes, "cost, % of the most expensive new model's", "quality (1 - error)")
    both[1].set_xscale("log")
    both[1].xaxis.set_major_formatter(lambda share, _: f"{share:g}")
    title = f"{trials['table'].iloc[0]}, N_val {trials['n_val'].iloc[0]}: mean quality at each cost, cross-fitted"
    return _finish(figure, both[0], title)


def draw_areas(rows: pd.DataFrame) -> Figure:
    """Return Area against N_val."""
    figure, (axes,) = _figure(1, (7.5, 4.6))
    for method, part in rows.dropna(subset="crossfit_area").groupby("method", sort=False):
        if method not in HIDDEN:
            axes.plot(part["n_val"], part["crossfit_area"], marker="o", ms=4, label=method, **_look(method))
    axes.set_xscale("log")
    axes.set_xticks(sorted(set(rows["n_val"])))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda n, _: f"{n:g}")
    style(axes, "N_val, answers measured of each new model", "Area")
    return _finish(figure, axes, f"{rows['table'].iloc[0]}: Area against the size of the validation set")


def draw_reliability(trials: pd.DataFrame) -> Figure:
    """Return the default's predicted errors in bins, beside the real ones."""
    figure, (axes,) = _figure(1, (4.6, 4.6))
    bins = trials["predicted"].map(len).min()
    predicted, seen = (np.mean([row[:bins] for row in trials[name]], axis=0) for name in ("predicted", "seen"))
    axes.plot([0, 1], [0, 1], color=MIXTURE, lw=1, ls=(0, (4, 2)), label="as predicted")
    axes.plot(predicted, seen, marker="o", ms=4, label=DEFAULT, **_look(DEFAULT))
    style(axes, "predicted error", "real error")
    return _finish(figure, axes, f"N_val {trials['n_val'].iloc[0]}: are predicted errors true?")


def _look(method: Any) -> dict[str, Any]:
    return EMPHASIS.get(method, {"lw": 1.1, "alpha": 0.9})


def _figure(panels: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.ravel(figure.subplots(1, panels, sharey=True))


def _finish(figure: Figure, axes: Any, title: str) -> Figure:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, map(printable, labels), loc="outside right upper", frameon=False, fontsize=9, labelcolor=TEXT
    )
    figure.suptitle(printable(title), fontsize=11, color=TEXT, x=0.01, ha="left")
    return figure


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG, the same for the same numbers; text stays text."""
    drawn = io.StringIO()
    with plain_text(**{"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()
