"""A benchmark as pictures and as one HTML page that holds them: deferral curves, Area against N_val, reliability."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from unirouter_plugins.bench import CEILING, DEFAULT, GRID, ZERO, Record, Standing

try:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as missing:
    raise ImportError("matplotlib is missing: pip install 'unirouter[report]'.") from missing

TEXT, RULE = "#333333", "#9a9a9a"
EMPHASIS: dict[str, dict[str, Any]] = {
    DEFAULT: {"color": "#0b6e99", "lw": 2.6, "zorder": 3},
    ZERO: {"color": RULE, "lw": 1.8, "ls": (0, (4, 2))},
    CEILING: {"color": "#111111", "lw": 1.4, "ls": (0, (1, 1.5))},
}
"""What is looked for first; every other method is a thin line."""

HIDDEN = ("oracle", "models' hull")
"""Not drawn: far above everything, and nearly on ZeroRouter."""

COLUMNS = (
    ("method", "method", ""),
    ("Area", "area", ".4f"),
    ("±", "area_stderr", ".4f"),
    ("Area(50%)", "area_half", ".4f"),
    ("QNC", "qnc", ".0%"),
    ("of own cost", "qnc_own", ".0%"),
    ("reached", "reached", ".0%"),
    ("peak", "peak", ".4f"),
    ("AIQ", "aiq", ".4f"),
    ("Brier", "brier", ".4f"),
    ("ECE", "ece", ".3f"),
    ("80 % covers", "covered", ".0%"),
    ("gap closed", "gap_closed", ".0%"),
    ("default ahead", "ahead", "d"),
    ("behind", "behind", "d"),
    ("p", "p", ".3f"),
    ("by", "by", "+.4f"),
    ("from", "by_low", "+.4f"),
    ("to", "by_high", "+.4f"),
    ("μ", "mu", ".4f"),
    ("V_R", "v_r", ".3f"),
    ("V_B", "v_b", ".3f"),
    ("E_p, bits", "e_p", ".2f"),
    ("s", "seconds", ".2f"),
)
"""Heading, field of `Standing`, format."""

PAIRED, NAN = ("ahead", "behind", "p", "by", "by_low", "by_high"), float("nan")
"""What a method has only beside another default: not the default itself, nor a point without an Area."""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #333; --rule: #ddd; }
@media (prefers-color-scheme: dark) { :root { --page: #17191c; --text: #d6d6d6; --rule: #3a3d42; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { font-weight: 600; line-height: 1.2; }
h2 { margin-top: 3rem; border-top: 1px solid var(--rule); padding-top: 1rem; }
div.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .2rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
tr.default { font-weight: 600; } figure { margin: 1rem 0; overflow-x: auto; }
svg { max-width: 100%; min-width: 20rem; height: auto; background: #fff; }
"""

HOW_TO_READ = (
    "Every trial is one random split of models and prompts; all methods are compared on the same splits. Area is the "
    "mean quality (1 - error) over cost, from 0 to the dearest new model's mean cost. QNC is the least cost that "
    "reaches the quality of the most accurate new model, as a share of the dearest model's cost and of that model's "
    "own. The gap is the one from ZeroRouter, which ignores the prompt, to the clairvoyant, which knows the new "
    "models' answers to all training prompts. Levels move with the draw of the models; read the paired differences: "
    "“by” is the default's Area minus the method's, with its 90 % bootstrap interval."
)


def write_page(
    standings: Sequence[Standing], records: Sequence[Record], about: Mapping[str, str], folder: Path
) -> list[Path]:
    """Write ``index.html`` and each picture as an .svg file of its own; return the paths.

    Parameters
    ----------
    standings : sequence of Standing
    records : sequence of Record
        Those the standings were made from.
    about : mapping of table to sentence
    folder : path
    """
    parts, written = [], []
    for table, sentence in about.items():
        parts.append(f"<h2>{escape(table)}</h2><p>{escape(sentence)}</p>")
        for name, figure in _figures(table, standings, records):
            drawn = _svg(figure, name)
            path = folder / f"{name}.svg"
            path.write_text(drawn, "utf-8")
            written.append(path)
            parts.append(f"<figure>{drawn[drawn.index('<svg') :]}</figure>")
        for n_val in dict.fromkeys(row.n_val for row in standings if row.table == table):
            rows = [row for row in standings if (row.table, row.n_val) == (table, n_val)]
            parts.append(f"<h3>N_val {n_val}, {rows[0].trials} trials</h3>{_html_table(rows)}")
    sized = '<meta name="viewport" content="width=device-width, initial-scale=1">'  # else a phone shrinks it
    head = f'<meta charset="utf-8">{sized}<title>Routing methods compared</title><style>{STYLE}</style>'
    body = f"<h1>Routing methods compared</h1><p>{escape(HOW_TO_READ)}</p>{''.join(parts)}"
    page = folder / "index.html"
    page.write_text(f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n', "utf-8")
    return [*written, page]


def _html_table(rows: Sequence[Standing]) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head, _, _ in COLUMNS)
    lines = [f"<tr{' class=default' if row.method == DEFAULT else ''}>{_cells(row)}</tr>" for row in rows]
    return f'<div class="wide"><table><tr>{heads}</tr>{"".join(lines)}</table></div>'


def _cells(row: Standing) -> str:
    lone = row.method == DEFAULT or row.by != row.by  # NaN is not itself
    values = [(NAN if lone and field in PAIRED else getattr(row, field), form) for _, field, form in COLUMNS]
    shown = ["" if value != value else format(value, form) for value, form in values]
    return "".join(f"<td>{escape(each)}</td>" for each in shown)


# --- Pictures ---------------------------------------------------------------------------------------------------------


def _figures(table: str, standings: Sequence[Standing], records: Sequence[Record]) -> Iterator[tuple[str, Figure]]:
    """Yield a table's pictures, each with a name for its file."""
    rows = [row for row in standings if row.table == table]
    n_vals = list(dict.fromkeys(row.n_val for row in rows))
    if len(n_vals) > 1:
        yield f"{table}-area", draw_areas(rows)
    for n_val in n_vals:
        part = [each for each in records if (each.table, each.n_val) == (table, n_val)]
        yield f"{table}-{n_val}-curves", draw_curves(part)
        if any(each.method == DEFAULT for each in part):
            yield f"{table}-{n_val}-reliability", draw_reliability(part)


def draw_curves(records: Sequence[Record]) -> Figure:
    """Return the mean deferral curves of one table and N_val, cost on an even and on a logarithmic axis."""
    figure, even, logarithmic = _figure(2, (11, 4.6))
    for method, rows in _by_method(records).items():
        if method in HIDDEN or any(not row.curve for row in rows):
            continue
        quality = np.mean([row.curve for row in rows], axis=0)
        for axes in (even, logarithmic):
            axes.plot(100 * GRID, quality, label=method, **_look(method))
    single = _by_method(records).get("single model", [])
    for axes in (even, logarithmic) if single else ():
        at = 100 * np.mean([row.mu_cost for row in single]), np.mean([row.mu for row in single])
        axes.plot(*at, "o", color="#d1495b", ms=6, label="single model")
    logarithmic.set_xscale("log")
    logarithmic.xaxis.set_major_formatter(lambda share, _: f"{share:g}")
    for axes in (even, logarithmic):
        _name(axes, "cost, % of the dearest new model's", "quality (1 - error)")
    title = f"{records[0].table}, N_val {records[0].n_val}: mean quality at each cost, mixtures allowed"
    return _finish(figure, even, title)


def draw_areas(rows: Sequence[Standing]) -> Figure:
    """Return Area against N_val."""
    figure, axes = _figure(1, (7.5, 4.6))
    for method in dict.fromkeys(row.method for row in rows):
        points = [(row.n_val, row.area) for row in rows if row.method == method and row.area == row.area]
        if points and method not in HIDDEN:
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, label=method, **_look(method))
    axes.set_xscale("log")
    axes.set_xticks(sorted({row.n_val for row in rows}))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda n, _: f"{n:g}")
    _name(axes, "N_val, answers measured of each new model", "Area")
    return _finish(figure, axes, f"{rows[0].table}: Area against the size of the validation set")


def draw_reliability(records: Sequence[Record]) -> Figure:
    """Return the default's predicted errors in bins, beside those that were seen."""
    figure, axes = _figure(1, (4.6, 4.6))
    rows = _by_method(records)[DEFAULT]
    bins = min(len(row.predicted) for row in rows)
    predicted, seen = (np.mean([getattr(row, name)[:bins] for row in rows], axis=0) for name in ("predicted", "seen"))
    axes.plot([0, 1], [0, 1], color=RULE, lw=1, ls=(0, (4, 2)), label="as predicted")
    axes.plot(predicted, seen, marker="o", ms=4, label=DEFAULT, **_look(DEFAULT))
    _name(axes, "predicted error", "error seen")
    return _finish(figure, axes, f"N_val {records[0].n_val}: are predicted errors true?")


def _by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    by_method: dict[str, list[Record]] = {}
    for each in records:
        by_method.setdefault(each.method, []).append(each)
    return by_method


def _look(method: str) -> dict[str, Any]:
    return EMPHASIS.get(method, {"lw": 1.1, "alpha": 0.9})


def _figure(panels: int, size: tuple[float, float]) -> tuple[Any, ...]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, *np.ravel(figure.subplots(1, panels, sharey=True))


def _name(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, color=TEXT)
    axes.set_ylabel(y, color=TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=TEXT, labelsize=9)
    axes.grid(alpha=0.25, lw=0.6)


def _finish(figure: Figure, axes: Any, title: str) -> Figure:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9, labelcolor=TEXT)
    figure.suptitle(title, fontsize=11, color=TEXT, x=0.01, ha="left")
    return figure


def _svg(figure: Figure, name: str) -> str:
    """Return a picture as SVG, the same for the same numbers; text stays text."""
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()
