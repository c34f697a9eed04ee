"""One trial's split: which models are new, which prompts are learned from, measured on and judged by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unirouter_core.embedding import Labels
from unirouter_core.exceptions import InvalidDataError

USUAL_N_VAL = 400
"""The largest validation set of the protocol; a table whose tenth is smaller gives a fifth."""

TEST_SHARE = 0.3
"""Of the prompts."""

KNOWN_SHARE = 2 / 3
"""Of the models."""

FEWEST_NEW = 2
"""Models to choose between; a group of twins that would leave fewer is not known but new."""

_VARIANT = re.compile(r"(-fc(-any|-auto)?|@[^@]*)$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Split:
    """Columns and rows of one trial.

    Parameters
    ----------
    known, new : array of int
        The models to learn from, and those that join.
    train, validation, test : array of int
        The prompts; the first N_val of `validation` are used.
    """

    known: Labels
    new: Labels
    train: Labels
    validation: Labels
    test: Labels


def twins(models: Sequence[str]) -> list[str]:
    """Return for each model the name it shares with its twins: one model called in two ways, or at two providers.

    Examples
    --------
    >>> twins(["gpt-4o-FC", "gpt-4o", "Llama-3.1-405B@hyperbolic", "mistral-large-FC-Auto"])
    ['gpt-4o', 'gpt-4o', 'Llama-3.1-405B', 'mistral-large']
    """
    return [_VARIANT.sub("", model) or model for model in models]


def validation_share(n_prompts: int) -> float:
    """Return the share of the prompts to measure on: 10 %, or 20 % where that is fewer than 400 prompts.

    Examples
    --------
    >>> validation_share(11_762), validation_share(1_700)
    (0.1, 0.2)
    """
    return 0.1 if 0.1 * n_prompts >= USUAL_N_VAL else 0.2


def reachable(n_vals: Sequence[int], n_prompts: int) -> tuple[list[int], list[int]]:
    """Return the sizes of the validation set that a table of `n_prompts` reaches, and those that it does not.

    Examples
    --------
    >>> reachable([50, 100, 400], 1_700)
    ([50, 100], [400])
    """
    most = int(validation_share(n_prompts) * n_prompts)
    return [n for n in n_vals if n <= most], [n for n in n_vals if n > most]


def split(models: Sequence[str], n_prompts: int, seed: Sequence[int], groups: Mapping[str, str] | None = None) -> Split:
    """Return a random split: two thirds of the models known, twins on one side; 60 / 10 / 30 % of the prompts.

    Parameters
    ----------
    models : sequence of str
    n_prompts : int
        Where a tenth is fewer than 400, the split is 50 / 20 / 30 %.
    seed : sequence of int
    groups : mapping of model to group, optional
        Models of one group stay together; those it does not name are grouped as `twins` does.

    Raises
    ------
    InvalidDataError
        When every group would leave fewer than 2 new models.
    """
    rng = np.random.default_rng(list(seed))
    given = groups or {}
    names = [given.get(model, twin) for model, twin in zip(models, twins(models), strict=True)]
    chosen: set[str] = set()
    for name in rng.permutation(sorted(set(names))):
        if sum(each in chosen for each in names) >= KNOWN_SHARE * len(models):
            break
        if sum(each not in chosen and each != name for each in names) >= FEWEST_NEW:
            chosen.add(str(name))
    is_known = np.array([name in chosen for name in names])
    if not chosen:
        raise InvalidDataError(
            f"The {len(models)} models are {len(set(names))} groups of twins; a benchmark needs one to learn from and "
            f"{FEWEST_NEW} models of others to choose between."
        )
    order = rng.permutation(n_prompts)
    n_test, n_validation = int(TEST_SHARE * n_prompts), int(validation_share(n_prompts) * n_prompts)
    n_train = n_prompts - n_test - n_validation
    train, validation, test = np.split(order, [n_train, n_train + n_validation])
    return Split(np.flatnonzero(is_known), np.flatnonzero(~is_known), train, validation, test)
