"""Why a prompt went where it went: its region, the validation prompts like it, what each model did there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unirouter_core.decision import Decision
from unirouter_core.embedding import Array, Mask, normalise
from unirouter_core.profiles import MeasuredPrompts
from unirouter_core.regions import Regions


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
    in_region : dict of model to (float, int)
        Each model's mean error on the validation prompts of the prompt's region, and how many they are.
    """

    decision: Decision
    neighbours: tuple[Neighbour, ...]
    in_region: dict[str, tuple[float, int]]

    def as_dict(self) -> dict[str, object]:
        """Return the explanation as JSON can hold it."""
        margin = self.decision.margin
        return {
            **self.decision.as_dict(),
            "margin": None if np.isinf(margin) else margin,
            "in_region": {model: {"error": error, "n": n} for model, (error, n) in self.in_region.items()},
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
        there = ", ".join(f"{model} {error:.2f} (n={n})" for model, (error, n) in self.in_region.items())
        lines.append(f"errors in region {decision.region}: {there or 'nobody was measured there'}")
        for near in self.neighbours:
            did = ", ".join(f"{model} {error:g}" for model, error in near.errors.items())
            lines.append(f"like ({near.similarity:.2f}) {near.prompt[:60]!r}: errors {did}")
        return "\n".join(lines)


def explain(decision: Decision, X: Array, n_neighbours: int, regions: Regions) -> Explanation:
    """Return the decision on the prompt of vector X (1, d), its region, and `n_neighbours` prompts like it."""
    there: dict[str, Mask] = {}
    found: dict[str, Neighbour] = {}
    sets: dict[str, MeasuredPrompts] = {profile.measured.id: profile.measured for profile in decision.profiles}
    for measured in sets.values():
        vectors = normalise(measured.vectors)
        there[measured.id] = regions.locate(vectors)[0] == decision.region
        near = (X @ vectors.T)[0]
        for row in np.argsort(-near, kind="stable")[:n_neighbours].tolist():
            text = measured.digests[row] if measured.texts is None else measured.texts[row]
            name = measured.digests[row]  # two may ask the same of other documents
            errors = found[name].errors if name in found else {}
            for profile in decision.profiles:
                if profile.measured.id == measured.id and not np.isnan(profile.errors[row]):
                    errors[profile.model] = float(profile.errors[row])
            found[name] = Neighbour(text, float(near[row]), dict(sorted(errors.items())))
    nearest = sorted(found.values(), key=lambda neighbour: -neighbour.similarity)[:n_neighbours]
    in_region = {}
    for profile in decision.profiles:
        errors_there = profile.errors[there[profile.measured.id] & ~np.isnan(profile.errors)]
        if len(errors_there):
            in_region[profile.model] = (float(errors_there.mean()), len(errors_there))
    return Explanation(decision, tuple(nearest), in_region)
