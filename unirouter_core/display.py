"""Numbers, tables and findings as people read them: USD in three digits, quality in %, text, HTML and JSON."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of text under heads, as text and as HTML; a head that begins with ">" is of a column of numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        shown = [[head.lstrip(">") for head in self.heads], *self.rows]
        widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
        places = [">" if head.startswith(">") else "<" for head in self.heads]
        pads = list(zip(places, widths, strict=True))
        lines = (zip(cells, pads, strict=True) for cells in shown)
        return "\n".join(
            "  ".join(f"{cell:{place}{width}}" for cell, (place, width) in line).rstrip() for line in lines
        )

    def _repr_html_(self) -> str:
        sides = ["right" if head.startswith(">") else "left" for head in self.heads]

        def row(tag: str, cells: Sequence[str]) -> str:
            pairs = zip(cells, sides, strict=True)
            drawn = (f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>' for cell, side in pairs)
            return f"<tr>{''.join(drawn)}</tr>"

        body = "".join(row("td", cells) for cells in self.rows)
        return (
            f"<table><thead>{row('th', [head.lstrip('>') for head in self.heads])}</thead><tbody>{body}</tbody></table>"
        )


def as_html(*parts: str | Table) -> str:
    """Return paragraphs, the first one bold, and tables as HTML."""
    first, *others = (part._repr_html_() if isinstance(part, Table) else html.escape(part) for part in parts)
    return f"<div><b>{first}</b></div>" + "".join(each if each[:6] == "<table" else f"<p>{each}</p>" for each in others)


class Findings:
    """A base of dataclasses that hold findings with a `verdict`; notebooks show the verdict and `tables`."""

    def tables(self) -> list[str | Table]:
        """Return the tables that are shown below the verdict, and sentences between them."""
        return []

    def as_dict(self: Any) -> dict[str, Any]:
        """Return the fields and the verdict as JSON can hold them: an infinite number is "inf"."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                per_1000 = {"usd_per_1000": 1000 * value["cost"]} if isinstance(value.get("cost"), float) else {}
                return {name: plain(each) for name, each in (value | per_1000).items()}
            if isinstance(value, tuple):
                return [plain(each) for each in value]
            return "inf" if isinstance(value, float) and math.isinf(value) else value

        judged = getattr(self, "judged", None)
        more = {} if judged is None else {"level": judged.level, "reason": judged.reason}
        fields = {name: each for name, each in dataclasses.asdict(self).items() if name != "judged"}
        return {**plain(fields), **more, "verdict": self.verdict}

    def __str__(self: Any) -> str:
        return "\n\n".join(map(str, [self.verdict, *self.tables()]))

    def _repr_html_(self: Any) -> str:
        return as_html(self.verdict, *self.tables())


def shared_prefix(names: Sequence[str]) -> str:
    """Return the provider or folder that all names begin with, so that it can be left out where they stand together.

    >>> shared_prefix(["openai/o1", "openai/o3"]), shared_prefix(["openai/o1", "o3"]), shared_prefix(["openai/o1"])
    ('openai/', '', '')
    """
    heads = {"".join(name.rpartition("/")[:2]) for name in names}
    return heads.pop() if len(heads) == 1 < len(names) else ""


def usd(amount: float) -> str:
    """Return USD in three digits, or to the cent, and never in powers of ten.

    >>> usd(0), usd(0.0000123), usd(0.5), usd(1234.5)
    ('$0', '$0.0000123', '$0.500', '$1,234.50')
    """
    digits = 2 - math.floor(math.log10(amount)) if amount > 0 else 0
    return f"${amount:,.{max(digits, 2 if amount >= 100 else 0)}f}"


def weight(cost_weight: float) -> str:
    """Return a cost_weight in three digits and never in powers of ten, such as "66.7", "42,600" or "inf"."""
    return f"{float(f'{cost_weight:.3g}'):,.10g}"


def plus_minus(ends: tuple[float, float], *, unit: str = "", digits: int = 1, sign: str = "") -> str:
    """Return an interval of shares as its middle, in % or points, and half its width.

    >>> plus_minus((0.6, 0.7), unit="%", digits=0), plus_minus((-0.01, 0.03), sign="+")
    ('65% ± 5', '+1.0 ± 2.0')
    """
    low, high = ends
    return f"{50 * (low + high):{sign}.{digits}f}{unit} ± {50 * (high - low):.{digits}f}"


def times(ratio: float) -> str:
    """Return a cost as a share of another's, or as a multiple of it.

    >>> times(0.67), times(1.8)
    ('67% of', '1.8 ×')
    """
    return f"{ratio:.0%} of" if ratio < 0.995 else f"{ratio:.2g} ×"
