"""What models did on prompts: a table of errors, costs and tokens, with gaps where nothing is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unirouter_core.costs import Prices
from unirouter_core.documents import Documents, GivenDocuments, check_documents
from unirouter_core.embedding import Array
from unirouter_core.exceptions import InvalidDataError, UnknownModelError


def check_prompts(prompts: Iterable[str]) -> list[str]:
    """Return the prompts as a list; raise `InvalidDataError` unless they are non-blank strings, naming the first."""
    if isinstance(prompts, str):
        raise InvalidDataError(f"Prompts must be a list of strings, not one string {prompts[:40]!r}; put it in a list.")
    prompts = list(prompts)
    for position, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise InvalidDataError(
                f"Prompt {position} is {type(prompt).__name__} {prompt!r:.40}, not a string; remove it or make it one."
            )
        if not prompt or prompt.isspace():
            raise InvalidDataError(f"Prompt {position} is empty; remove it or give it text.")
    return prompts


def check_errors(errors: Array, names: str) -> None:
    """Raise `InvalidDataError` when an error is outside [0, 1]; NaN means not known and passes."""
    outside = (errors < 0) | (errors > 1)
    if outside.any():
        value = errors[outside].flat[0]
        raise InvalidDataError(
            f"Error {value:g} in {names} is outside [0, 1]; give 1 - quality, with quality in [0, 1]."
        )


def check_amounts(amounts: Array, what: str) -> None:
    """Raise `InvalidDataError` when a cost or a count is negative or infinite; NaN passes."""
    bad = (amounts < 0) | np.isinf(amounts)
    if bad.any():
        raise InvalidDataError(f"{what} {amounts[bad].flat[0]:g} must be finite and >= 0; leave unknown ones NaN.")


@dataclass(frozen=True, eq=False, init=False)
class Outcomes:
    """What each model did on each prompt. NaN means not known, and is never read as 0.

    Parameters
    ----------
    prompts : sequence of str
    models : sequence of str
        Names, as LiteLLM calls them.
    errors : array (n_prompts, n_models)
        In [0, 1]; 0 is right, 1 is wrong.
    costs : array (n_prompts, n_models), optional
        USD of each call.
    tokens_in, tokens_out : array (n_prompts, n_models), optional
        Tokens of the prompt and of the answer, as the model's provider counts them.
    prices : mapping of model to Prices, optional
        List prices, for the models where they are known.
    documents : sequence of Documents or sequence of str, optional
        What was retrieved for each prompt, and sent with it.

    Raises
    ------
    InvalidDataError
        When shapes differ, a model stands twice, or a value is outside its range.

    Examples
    --------
    >>> table = Outcomes(["2 + 2?", "A poem."], ["poet", "sage"], [[1, 0], [0, 0]], costs=[[1e-5, 1e-3]] * 2)
    >>> table.of(["sage"]).errors.tolist()
    [[0.0], [0.0]]
    """

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    errors: Array
    costs: Array
    tokens_in: Array
    tokens_out: Array
    prices: Mapping[str, Prices]
    documents: tuple[Documents, ...] | None

    def __init__(
        self,
        prompts: Sequence[str],
        models: Sequence[str],
        errors: npt.ArrayLike,
        costs: npt.ArrayLike | None = None,
        tokens_in: npt.ArrayLike | None = None,
        tokens_out: npt.ArrayLike | None = None,
        prices: Mapping[str, Prices] | None = None,
        documents: Sequence[GivenDocuments | None] | None = None,
    ) -> None:
        check_prompts(prompts)
        if len(set(models)) != len(models):
            twice = next(model for model in models if list(models).count(model) > 1)
            raise InvalidDataError(f"Model {twice!r} stands twice in the table; merge its columns or rename one.")
        shape = (len(prompts), len(models))
        arrays = {
            "errors": _table("errors", errors, np.float32, shape),
            "costs": _table("costs", costs, np.float64, shape),
            "tokens_in": _table("tokens_in", tokens_in, np.float64, shape),
            "tokens_out": _table("tokens_out", tokens_out, np.float64, shape),
        }
        check_errors(arrays["errors"], "the table")
        check_amounts(arrays["costs"], "Cost")
        check_amounts(arrays["tokens_in"], "Token count")
        check_amounts(arrays["tokens_out"], "Token count")
        fields: dict[str, object] = {"prompts": tuple(prompts), "models": tuple(models), **arrays}
        fields["prices"] = dict(prices or {})
        fields["documents"] = None if documents is None else check_documents(documents, len(prompts))
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.prompts)

    def __repr__(self) -> str:
        return f"Outcomes({len(self)} prompts, {len(self.models)} models)"

    def rows(self, positions: Iterable[int]) -> Outcomes:
        """Return the table of the prompts at `positions`, in that order."""
        rows = np.asarray(list(positions), int)
        return Outcomes(
            [self.prompts[row] for row in rows],
            self.models,
            self.errors[rows],
            self.costs[rows],
            self.tokens_in[rows],
            self.tokens_out[rows],
            self.prices,
            None if self.documents is None else [self.documents[row] for row in rows],
        )

    def of(self, models: Sequence[str]) -> Outcomes:
        """Return the table of `models`, in that order.

        Raises
        ------
        UnknownModelError
            When one of them is not in the table.
        """
        columns = [self.column(model) for model in models]
        return Outcomes(
            self.prompts,
            models,
            self.errors[:, columns],
            self.costs[:, columns],
            self.tokens_in[:, columns],
            self.tokens_out[:, columns],
            {model: self.prices[model] for model in models if model in self.prices},
            self.documents,
        )

    def column(self, model: str) -> int:
        """Return the position of `model` among the models.

        Raises
        ------
        UnknownModelError
            When it is not in the table.
        """
        if model not in self.models:
            raise UnknownModelError(f"{model!r} is not in the table; it holds {', '.join(map(repr, self.models))}.")
        return self.models.index(model)


def _table(name: str, given: npt.ArrayLike | None, dtype: npt.DTypeLike, shape: tuple[int, int]) -> Array:
    """Return a column of the table as an array of `shape`, all NaN when it was not given."""
    try:
        array = np.full(shape, np.nan, dtype) if given is None else np.array(given, dtype)
    except (ValueError, TypeError) as failed:
        raise InvalidDataError(
            f"{name} is not a table of numbers ({failed}); give one row for each prompt."
        ) from failed
    if array.shape != shape:
        raise InvalidDataError(
            f"{name} has shape {array.shape}, but {shape[0]} prompts and {shape[1]} models need {shape}."
        )
    return array
