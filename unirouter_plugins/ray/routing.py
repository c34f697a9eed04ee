"""`RouteBatch`: batches of rows with prompts to the same rows with the models that the router chooses."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from unirouter_core.exceptions import InvalidDataError, NoCandidateError
from unirouter_core.pool import Pool
from unirouter_core.reading import LONGEST_LINE
from unirouter_core.router import UniRouter
from unirouter_core.tables import quoted
from unirouter_plugins.litellm import configured
from unirouter_plugins.litellm.pool_file import BESIDE, Members, members_for
from unirouter_plugins.litellm.prices import quote
from unirouter_plugins.litellm.snapshot import TABLES

T = TypeVar("T")

MODEL, ERROR, USD, WHY = "unirouter_model", "expected_error", "expected_usd", "error"
COLUMNS = (MODEL, ERROR, USD, WHY)
"""The columns that routing adds; those of an earlier routing are replaced."""


class Routed(NamedTuple):
    """What was decided on a prompt: a model with its expected error and USD, or why there is none."""

    model: str | None = None
    expected_error: float | None = None
    expected_usd: float | None = None
    error: str | None = None


class RouteBatch:
    """Routes the prompts of a batch; a batch is a pandas or pyarrow table, or a dict of arrays.

    Made for Ray Data, where each actor reads the router once, and free of any framework: see the pages on batches for
    Spark, Daft and pandas. The batch is returned, of its own kind, with the columns ``unirouter_model``,
    ``expected_error``, ``expected_usd`` and ``error``. A row without a usable prompt, or that no model may answer,
    fails nothing: its ``error`` says why and the others are null. ::

        ds.map_batches(RouteBatch, fn_constructor_args=("my.router",), batch_format="pyarrow", concurrency=8)

    Parameters
    ----------
    router : UniRouter or path
        A folder is read with the models and prices of `pool`.
    prompt : str
        The column of the prompts.
    cost_weight, models, requires
        As in `UniRouter.route_batch`.
    pool : Members or path, optional
        A `pool.toml`, by default the one beside the folder, None for none. Its `batch` tariffs count.
    embedder, estimator : optional
        As in `UniRouter.load`.

    Raises
    ------
    InvalidDataError
        When a batch is no table, lacks the column of prompts, or has one that would be overwritten.

    Examples
    --------
    >>> rows = {"prompt": ["What is 17 times 23?", None]}
    >>> done = RouteBatch(UniRouter.starter(examples=True))(rows)
    >>> done["unirouter_model"][0] is not None, done["error"][1]
    (True, 'The prompt is null; give it a text.')
    """

    def __init__(
        self,
        router: UniRouter | str | os.PathLike[str],
        *,
        prompt: str = "prompt",
        cost_weight: float | None = None,
        models: Sequence[str] | None = None,
        requires: Sequence[str] = (),
        pool: Members | str | os.PathLike[str] | None = BESIDE,
        embedder: Any = None,
        estimator: Any = None,
    ) -> None:
        if not isinstance(router, UniRouter):
            members = members_for(router, pool)
            router = UniRouter.load(router, embedder=embedder, estimator=estimator)
            router = at_batch_tariffs(configured(router, members), members)
        router.pool.check_known(models or ())
        self.router, self.prompt = router, prompt
        self._how: dict[str, Any] = {"cost_weight": cost_weight, "models": models, "requires": requires}

    def __call__(self, batch: Any) -> Any:
        """Return the batch with the columns of `COLUMNS`."""
        routed = self.route(prompts_of(batch, self.prompt))
        return with_columns(batch, {name: [each[at] for each in routed] for at, name in enumerate(COLUMNS)})

    def route(self, prompts: Sequence[Any]) -> list[Routed]:
        """Return what is decided on each prompt, which may be anything."""
        routed = [Routed(error=why_unusable(prompt)) for prompt in prompts]
        self._fill([row for row, each in enumerate(routed) if each.error is None], prompts, routed)
        return routed

    def _fill(self, rows: list[int], prompts: Sequence[str], routed: list[Routed]) -> None:
        """Route the prompts at `rows`; where no model may answer one, by halves, until it stands alone."""
        if not rows:
            return
        try:
            made = self.router.route_batch([prompts[row] for row in rows], **self._how)
        except NoCandidateError as failed:
            if len(rows) == 1:
                routed[rows[0]] = Routed(error=str(failed))
                return
            self._fill(rows[: len(rows) // 2], prompts, routed)
            self._fill(rows[len(rows) // 2 :], prompts, routed)
            return
        for row, *what in zip(rows, made.models, made.errors.tolist(), made.costs.tolist(), strict=True):
            routed[row] = Routed(*what)


def at_batch_tariffs(router: UniRouter, members: Members) -> UniRouter:
    """Return the router with its models at what they cost in a batch, as the `batch` of the table's prices says."""
    profiles = dict(router.pool)
    for name, profile in router.pool.items():
        if name in members and (share := members[name].batch) != 1:
            found, cost = quote(members[name], profile), profile.cost
            prices = None if found is None else _scaled(found.prices, share)
            profiles[name] = dataclasses.replace(
                profile, prices=prices, cost=_scaled(cost, share), usd=profile.usd * share
            )
    made = router.with_pool(Pool(profiles))
    TABLES[made] = members
    return made


def _scaled(record: T, share: float) -> T:
    """Return a record of amounts, each times `share`."""
    return type(record)(**{name: None if usd is None else usd * share for name, usd in vars(record).items()})


def why_unusable(prompt: Any) -> str | None:
    """Return why a value is no prompt; None when it is one."""
    if prompt is None or (isinstance(prompt, float) and math.isnan(prompt)) or type(prompt).__name__ == "NAType":
        return "The prompt is null; give it a text."
    if not isinstance(prompt, str):
        return f"The prompt is {type(prompt).__name__} {prompt!r:.40}, not a text; make it one."
    if not prompt or prompt.isspace():
        return "The prompt is empty; give it a text."
    if len(prompt) > LONGEST_LINE:
        return f"The prompt has {len(prompt):,} characters; give at most {LONGEST_LINE:,}."
    return None


# --- Batches of any kind ----------------------------------------------------------------------------------------------


def prompts_of(batch: Any, column: str, added: Collection[str] = COLUMNS) -> list[Any]:
    """Return a column of a batch as Python's values; see `check_names`."""
    check_names(list(getattr(batch, "column_names", None) or getattr(batch, "columns", batch)), column, added)
    values = batch[column]
    read = getattr(values, "to_pylist", None) or getattr(values, "tolist", None) or partial(list, values)
    return list(read())


def check_names(names: Collection[str], column: str, added: Collection[str] = COLUMNS) -> None:
    """Raise `InvalidDataError` where there is no `column`, or one to be added that no earlier routing has added."""
    if column not in names:
        raise InvalidDataError(f"There is no column {column!r}; name that of the prompts, of {quoted(names)}.")
    if (taken := {name for name in added if name in names}) not in (set(), set(COLUMNS), set(added)):
        raise InvalidDataError(f"The rows have a column {min(taken)!r}, which would be overwritten; rename or drop it.")


def with_columns(batch: Any, columns: Mapping[str, Sequence[Any]], numbers: Collection[str] = (ERROR, USD)) -> Any:
    """Return a batch with columns added or replaced, of texts and `numbers`; None in them is null."""
    if hasattr(batch, "column_names"):
        import pyarrow as pa

        for name, values in columns.items():
            made = pa.array(values, pa.float64() if name in numbers else pa.string())
            at = batch.schema.get_field_index(name)
            batch = batch.append_column(name, made) if at < 0 else batch.set_column(at, name, made)
        return batch
    arrays = {name: np.array(each, np.float64 if name in numbers else object) for name, each in columns.items()}
    if isinstance(batch, Mapping):
        return {**batch, **arrays}
    import pandas as pd

    return batch.assign(**{n: a if n in numbers else pd.array(a, dtype="string") for n, a in arrays.items()})
