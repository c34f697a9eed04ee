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
from unirouter_core.reading import LONGEST_LINE, user_text
from unirouter_core.router import UniRouter
from unirouter_core.rule import Request
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
        A folder is read with the models and prices of `pool`; a `UniRouter` is taken with its own.
    prompt : str
        The column of the prompts: texts, or chats in OpenAI's form, routed by the user's newest text.
    cost_weight, models, requires
        As in `UniRouter.route_batch`.
    pool : Members or path, optional
        A `pool.toml`, by default the one beside the folder, None for none. Its `batch` tariffs count.
    embedder, estimator : optional
        As in `UniRouter.load`.

    Raises
    ------
    InvalidDataError
        When a batch is no table, lacks the column of prompts, or has one that would be overwritten; when `pool` is
        given beside a `UniRouter`.
    NoCandidateError
        When no model at all is among `models` and has what `requires` names.

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
        if isinstance(router, UniRouter):
            check_alone(pool)
        else:
            members = members_for(router, pool)
            router = UniRouter.load(router, embedder=embedder, estimator=estimator)
            router = at_batch_tariffs(configured(router, members), members)
        self.router, self.prompt = router, prompt
        self._how: dict[str, Any] = {"cost_weight": cost_weight, "models": models, "requires": requires}
        router.route_batch([], **self._how)  # what is wrong with all rows is one sentence here
        Request(models=models, requires=requires).eligible(router.pool, np.zeros(1))

    def __call__(self, batch: Any) -> Any:
        """Return the batch with the columns of `COLUMNS`."""
        routed = self.route(prompts_of(batch, self.prompt))
        return with_columns(batch, {name: [each[at] for each in routed] for at, name in enumerate(COLUMNS)})

    def route(self, prompts: Sequence[Any]) -> list[Routed]:
        """Return what is decided on each prompt, which may be anything."""
        texts = list(map(text_of, prompts))
        routed = [Routed(error=why_unusable(text)) for text in texts]
        rows = [row for row, each in enumerate(routed) if each.error is None]
        try:
            made = self.router.route_batch([texts[row] for row in rows], **self._how)
        except NoCandidateError:
            for row, why in self._refused(rows, [texts[row] for row in rows]).items():
                routed[row] = Routed(error=why)
            rows = [row for row in rows if routed[row].error is None]
            made = self.router.route_batch([texts[row] for row in rows], **self._how)
        for row, *what in zip(rows, made.models, made.errors.tolist(), made.costs.tolist(), strict=True):
            routed[row] = Routed(*what)
        return routed

    def _refused(self, rows: Sequence[int], texts: Sequence[str]) -> dict[int, str]:
        """Return why no model may answer, of the rows where that is so."""
        request, pool = Request(models=self._how["models"], requires=self._how["requires"]), self.router.pool
        tokens, why = self.router.fit_.count_tokens(texts), dict[int, str]()
        windows = zip(pool.windows[0], pool.values(), strict=True)
        widest = max((size for size, profile in windows if not request.reason(profile)), default=0)
        for at in np.flatnonzero(tokens > widest).tolist():
            try:
                request.eligible(pool, tokens[[at]])
            except NoCandidateError as failed:
                why[rows[at]] = str(failed)
        return why


def check_alone(pool: Any) -> None:
    """Raise `InvalidDataError` where a pool is given beside a router that is no folder."""
    if pool != BESIDE:
        raise InvalidDataError("pool= is read with a router's folder; give the path of the folder, or leave pool= out.")


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


def text_of(prompt: Any) -> Any:
    """Return a prompt; of a chat in OpenAI's form, whose lists may be arrays, the user's newest text."""
    return prompt if isinstance(prompt, str) else user_text(_listed(prompt))


def _listed(value: Any) -> Any:
    if isinstance(value, list | np.ndarray):
        return [_listed(each) for each in value]
    return {name: _listed(each) for name, each in value.items()} if isinstance(value, dict) else value


def why_unusable(prompt: Any) -> str | None:
    """Return why a value is no prompt; None when it is one."""
    if prompt is None or (isinstance(prompt, float) and math.isnan(prompt)) or type(prompt).__name__ == "NAType":
        return "The prompt is null; give it a text."
    if not isinstance(prompt, str):
        return f"The prompt is of type {type(prompt).__name__}, not a text; make it one."
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
    """Return a batch with columns added or replaced, of texts and `numbers`; None in them is null.

    Lone surrogates, which Arrow refuses, are "?".
    """
    columns = {n: each if n in numbers else [_encodable(text) for text in each] for n, each in columns.items()}
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


def _encodable(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode()
