"""Which prompts need which effort of a model: the least one that answers right, on the validation prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unirouter_core.embedding import Labels, normalise
from unirouter_core.evaluate.holdout import shared_prompts
from unirouter_core.pool import ModelProfile, Pool
from unirouter_core.router import UniRouter

NONE = "none"
"""What stands for an effort where none of them answers right."""

FEWEST = 20  # prompts of a region whose shares are worth telling
RIGHT = 0.5  # an answer with less error is right


@dataclass(frozen=True)
class Efforts:
    """The share of prompts for which each effort of a model is the least that answers right.

    Parameters
    ----------
    model : str
    n : int
        The validation prompts that were answered with every effort.
    shares : mapping of str to float
        By the effort, from the cheapest to the dearest, and "none".
    regions : mapping of int to (int, mapping of str to float)
        The prompts and the shares of each region that has at least 20 of them, the largest first.
    """

    model: str
    n: int
    shares: Mapping[str, float]
    regions: Mapping[int, tuple[int, Mapping[str, float]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        regions = [{"region": name, "n": n, "shares": dict(shares)} for name, (n, shares) in self.regions.items()]
        return {"model": self.model, "n": self.n, "shares": dict(self.shares), "regions": regions}


def efforts(router: UniRouter) -> list[Efforts]:
    """Return what each model of the pool with efforts (`gpt-5@low`, `gpt-5@high`) needs them for.

    They are in the order of their mean cost. One answer to each prompt is not much: what was right by luck counts as
    right.

    Examples
    --------
    >>> efforts(UniRouter.starter(examples=True))
    []
    """
    groups: dict[str, dict[str, ModelProfile]] = {}
    for name, profile in router.pool.items():
        model, is_effort, _ = name.rpartition("@")
        if is_effort:
            groups.setdefault(model, {})[name] = profile
    found = (_of(router, model, Pool(profiles)) for model, profiles in groups.items() if len(profiles) > 1)
    return [each for each in found if each is not None]


def _of(router: UniRouter, model: str, pool: Pool) -> Efforts | None:
    prompts, rows = shared_prompts(pool)
    if not prompts:
        return None
    profiles = list(pool.values())
    order = sorted(range(len(pool)), key=lambda column: float(np.nanmean(profiles[column].usd)))
    right = np.stack([profiles[column].errors[rows[column]] < RIGHT for column in order], axis=1)
    least = np.where(right.any(axis=1), right.argmax(axis=1), len(order))
    names = [*(pool.models[column].removeprefix(f"{model}@") for column in order), NONE]
    regions = router.fit_.regions.locate(normalise(profiles[0].measured.vectors[rows[0]]))[0]
    sizes = np.bincount(regions)

    def shares(of: Labels) -> dict[str, float]:
        return dict(zip(names, (np.bincount(of, minlength=len(names)) / len(of)).tolist(), strict=True))

    large = [region for region in np.argsort(-sizes, kind="stable").tolist() if sizes[region] >= FEWEST]
    by_region = {region: (int(sizes[region]), shares(least[regions == region])) for region in large}
    return Efforts(model, len(prompts), shares(least), by_region)
