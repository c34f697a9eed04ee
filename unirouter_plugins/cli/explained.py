"""What a decision rests on: the errors in the prompt's region, and what each model did on the prompts most like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unirouter_core.rule import Decision, Explanation, Neighbour
from unirouter_plugins.cli.tables import CANDIDATES_SHOWN, PROMPT_WIDTH, empty_table, open_console, shortened

if TYPE_CHECKING:
    from rich.console import Console

UNLIKE = 0.05
"""Prompts whose similarity is less have no words in common worth showing."""

MARKS, ASCII_MARKS = ("✓", "✗", "·"), ("+", "x", ".")
"""For right, wrong and not asked."""


def show_grounds(explanation: Explanation) -> None:
    """Print the prompt's region and the prompts most like it, the models by their places in the ranking."""
    console, decision = open_console(), explanation.decision
    models = [decision.model, *decision.fallbacks()]
    console.print(_region(explanation, models))
    margin = "no second candidate" if np.isinf(decision.margin) else f"{decision.margin:.4g} to the next"
    console.print(f"Margin: {margin}.")
    if decision.far == 1 or all(near.similarity < UNLIKE for near in explanation.neighbours):
        console.print("No validation prompt is like it.")
    else:
        _show_neighbours(console, explanation, models)


def _region(explanation: Explanation, models: Sequence[str]) -> str:
    """Return how many validation prompts the region has, and the errors there of the first models."""
    there = [(model, *explanation.in_region[model]) for model in models if model in explanation.in_region]
    n = max((n for _, n in explanation.in_region.values()), default=0)
    prompts = f"Region {explanation.decision.region}: {n:,} validation prompt{'s' * (n != 1)}"
    if not there:
        return f"{prompts}; none of the models was asked there."
    errors = [f"{model} {error:.3f}" + (f" (of {own:,})" if own != n else "") for model, error, own in there]
    more = f" and {left} more" if (left := len(errors) - CANDIDATES_SHOWN) > 0 else ""
    return f"{prompts}; error there: {', '.join(errors[:CANDIDATES_SHOWN])}{more}."


def _show_neighbours(console: Console, explanation: Explanation, models: Sequence[str]) -> None:
    """Print a row for each prompt, with a column for each of the first models that fit beside it."""
    right, wrong, not_asked = marks = MARKS if console.encoding.startswith("utf") else ASCII_MARKS
    cells = [[_mark(near, model, marks) for model in models] for near in explanation.neighbours]
    kept = _texts(explanation.decision, explanation.neighbours)
    column = 2 + max(len(str(len(models))), *(len(cell) for row in cells for cell in row))
    room = console.width - len("alike") - 2
    shown = max(min(len(models), (room - min(PROMPT_WIDTH, max(map(len, kept)))) // column), 1)
    table = empty_table(">alike", "prompt", *(f">{place}" for place in range(1, shown + 1)))
    for near, text, row in zip(explanation.neighbours, kept, cells, strict=True):
        table.add_row(f"{near.similarity:.2f}", shortened(text, max(room - shown * column - 2, 8)), *row[:shown])
    console.print(f"\nWhat models 1 to {shown} of the ranking did on the validation prompts most like it:")
    console.print(table)
    console.print(f"{right} right, {wrong} wrong, {not_asked} not asked; a number is an error between.", style="dim")


def _mark(near: Neighbour, model: str, marks: tuple[str, str, str]) -> str:
    right, wrong, not_asked = marks
    error = near.errors.get(model)
    if error is None:
        return not_asked
    return {0.0: right, 1.0: wrong}.get(error) or f"{error:.2f}"


def _texts(decision: Decision, neighbours: Sequence[Neighbour]) -> list[str]:
    """Return the prompts; where only digests were kept, that."""
    sets = {profile.measured.id: profile.measured for profile in decision.pool.values()}.values()
    digests = {digest for measured in sets if measured.texts is None for digest in measured.digests}
    return ["(text not kept)" if near.prompt in digests else near.prompt for near in neighbours]
