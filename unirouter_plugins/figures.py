"""A report as a picture in a file: quality over cost of routing, of the best mixture, and of every single model."""

from __future__ import annotations

import os
from pathlib import Path

from unirouter_core.evaluate import Report
from unirouter_core.exceptions import InvalidDataError, missing_package
from unirouter_core.plotting import MIXTURE, MODEL, ROUTING, TEXT, plain_text, printable, style

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as missing:
    raise missing_package("matplotlib", "report") from missing

__all__ = ["MIXTURE", "MODEL", "ROUTING", "TEXT", "check_picture", "draw", "plain_text", "printable", "style"]


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise `InvalidDataError` unless `draw` can write a file of this name."""
    place = Path(path)
    if place.suffix.lower().lstrip(".") not in FigureCanvasAgg.get_supported_filetypes():
        raise InvalidDataError(f"{place}: {place.suffix!r} is no format of pictures; end it in .png, .svg or .pdf.")
    if not place.parent.is_dir():
        raise InvalidDataError(f"{place}: the folder {place.parent} does not exist; make it first.")


@plain_text()
def draw(report: Report, path: str | os.PathLike[str], *, dark: bool = False) -> None:
    """Draw the curve of a report to a file; its suffix (.png, .svg, .pdf) is the format."""
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    report.plot(figure.add_subplot(), dark=dark)
    figure.savefig(path)
