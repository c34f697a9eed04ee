"""Why a prompt went where it went: its region, the validation prompts like it, what each model did there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unirouter_core.decision import Decision
from unirouter_core.embedding import Array, normalise
from unirouter_core.profiles import MeasuredPrompts


@dataclass(frozen=True)
class Neighbour:
    """A validation prompt like the one explained.

    Parameters
    ----------
    prompt : str
        Its text, or its digest where the text was left out.
    similarity : float
        The cosine of the two vectors.
    errors : dict of model to float
        What each model did on it; models without an answer are left out.
    """

    prompt: str
    similarity: float
    errors: dict[str, float]


@dataclass(frozen=True)
class Explanation:
    """A decision with what it rests on; printed, it is a plain table.

    Parameters
    ----------
    decision : Decision
    neighbours : tuple of Neighbour
        The most similar first.
    """

    decision: Decision
    neighbours: tuple[Neighbour, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the explanation as JSON can hold it."""
        margin = self.decision.margin
        return {
            **self.decision.as_dict(),
            "margin": None if np.isinf(margin) else margin,
            "neighbours": [
                {"prompt": near.prompt, "similarity": near.similarity, "errors": near.errors}
                for near in self.neighbours
            ],
        }

    def __str__(self) -> str:
        decision = self.decision
        far = f", {decision.far:.0%} far from all that was seen" if decision.far else ""
        least = "cost" if np.isinf(decision.cost_weight) else f"error + {decision.cost_weight:g} * cost"
        width = max(len(row.model) for row in decision.ranking)
        lines = [
            f"{decision.model}: least {least} (region {decision.region}{far})",
            f"{'model':<{width}} {'error ± stderr':>16} {'n':>6} {'USD':>10} {'score':>9}",
        ]
        for row in decision.ranking:
            excluded = f"  excluded: {row.excluded}" if row.excluded else ""
            lines.append(
                f"{row.model:<{width}} {row.error:>8.3f} ± {row.stderr:.3f} {row.n:>6} "
                f"{row.cost:>10.3g} {row.score:>9.4g}{excluded}"
            )
        lines.append(f"margin to the next: {decision.margin:.4g}")
        for near in self.neighbours:
            wrong = ", ".join(f"{model} {error:g}" for model, error in near.errors.items() if error) or "no model"
            lines.append(f"like ({near.similarity:.2f}) {near.prompt[:60]!r}: wrong were {wrong}")
        return "\n".join(lines)


def explain(decision: Decision, X: Array, n_neighbours: int) -> Explanation:
    """Return the decision on the prompt of vector X (1, d) with the `n_neighbours` validation prompts nearest to it."""
    found: dict[str, Neighbour] = {}
    sets: dict[str, MeasuredPrompts] = {profile.measured.id: profile.measured for profile in decision.profiles}
    for measured in sets.values():
        near = (X @ normalise(measured.vectors).T)[0]
        for row in np.argsort(-near, kind="stable")[:n_neighbours].tolist():
            text = measured.digests[row] if measured.texts is None else measured.texts[row]
            errors = found[text].errors if text in found else {}
            for profile in decision.profiles:
                if profile.measured.id == measured.id and not np.isnan(profile.errors[row]):
                    errors[profile.model] = float(profile.errors[row])
            found[text] = Neighbour(text, float(near[row]), dict(sorted(errors.items())))
    nearest = sorted(found.values(), key=lambda neighbour: -neighbour.similarity)[:n_neighbours]
    return Explanation(decision, tuple(nearest))
