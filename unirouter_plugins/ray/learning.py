"""A stream of graded answers to a fitted router, in memory that does not grow with the stream."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from unirouter_core import Prices, UniRouter
from unirouter_core.data import digests
from unirouter_core.embedding import Mask
from unirouter_core.exceptions import InvalidDataError, missing_package
from unirouter_core.outcome_files import read_outcomes
from unirouter_core.pool import as_numbers
from unirouter_core.tables import GivenColumns, GivenScale, find_layout
from unirouter_plugins.ray.routing import text_of

try:
    import pandas as pd
except ImportError as missing:
    raise missing_package("pandas", "ray") from missing

SAMPLE = 50_000  # prompts: on public sets, a fit on 1,000 has the Area of one on all to about .001
MOST_PARTS = 16  # late in a stream a batch adds a row or two, and a frame's own size is that of hundreds


class PromptSample:
    """A uniform sample of the different prompts in a stream, each with all of its rows.

    A prompt is in it when the hash of its text is among the `size` smallest of all. So the sample is the same whatever
    the order of the rows, a prompt's answers are together however far apart they come, and a sample of samples of the
    parts of a stream is that of the whole. Rows without a prompt are left out; `left_out` counts them.

    Examples
    --------
    >>> rows = [{"prompt": f"{a} + 1?", "model": model, "error": 0} for model in ("poet", "sage") for a in range(100)]
    >>> sample = PromptSample(5)
    >>> for start in range(0, 200, 10):
    ...     _ = sample.add(rows[start : start + 10])
    >>> frame = sample.frame()
    >>> frame["prompt"].nunique(), len(frame)
    (5, 10)
    """

    def __init__(self, size: int = SAMPLE, columns: GivenColumns | None = None) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InvalidDataError(f"A sample of {size!r} prompts must be a whole number of at least 1.")
        self.size, self.columns, self.left_out = size, columns, 0
        self._smallest = np.empty(0, np.uint64)  # the hashes of the prompts in the sample so far, sorted
        self._parts, self._n_rows, self._most_rows = list[tuple[npt.NDArray[np.uint64], Any]](), 0, 2 * size

    def add(self, batch: Any) -> Any:
        """Add a batch (a data frame, an Arrow table, columns or rows); return the rows that are in the sample so far.

        Raises `InvalidDataError` when its columns are not those of graded answers, see `read_outcomes`.
        """
        frame = batch if isinstance(batch, pd.DataFrame) else _frame(batch)
        if frame.empty:
            return frame
        layout = find_layout(list(frame.columns), self.columns)
        frame = frame[layout.needed(with_texts=True)]
        texts = list(map(text_of, values := frame[layout.prompt].tolist()))
        if any(
            text is not value for text, value in zip(texts, values, strict=True)
        ):  # chats, whose lists may be arrays
            frame = frame.assign(**{layout.prompt: texts})
        usable = np.array([isinstance(text, str) and text != "" and not text.isspace() for text in texts])
        if not usable.all():
            self.left_out += int((~usable).sum())
            texts, frame = [text for text, kept in zip(texts, usable, strict=True) if kept], frame[usable]
        hashes = as_numbers(digests(texts))
        inside = self._inside(hashes)
        hashes, frame = hashes[inside], frame[inside]
        if len(frame):
            smallest = np.sort(np.concatenate([self._smallest, hashes]))  # a quarter of the time of `union1d`
            different = np.concatenate([[True], smallest[1:] != smallest[:-1]])
            self._smallest = smallest[different][: self.size]
            self._parts.append((hashes, frame))
            self._n_rows += len(frame)
            if self._n_rows > self._most_rows or len(self._parts) > MOST_PARTS:
                self._compact()
                self._most_rows = 2 * max(self._n_rows, self.size)
        return frame

    def __call__(self, batch: Any) -> Any:
        """Return the rows that are in the sample so far, for Ray's `map_batches`: they are not kept here."""
        rows = self.add(batch)
        self._parts, self._n_rows = [], 0
        return rows

    def _inside(self, hashes: npt.NDArray[np.uint64]) -> Mask:
        full = len(self._smallest) == self.size
        return hashes <= self._smallest[-1] if full else np.ones(len(hashes), bool)

    def _compact(self) -> None:
        """Drop the rows of prompts that were in the sample and are not any more."""
        hashes = np.concatenate([each for each, _ in self._parts])
        kept = self._inside(hashes)
        self._parts = [(hashes[kept], pd.concat([frame for _, frame in self._parts], ignore_index=True)[kept])]
        self._n_rows = int(kept.sum())

    def frame(self) -> Any:
        """Return the sample's rows, in the order in which they came."""
        if not self._parts:
            raise InvalidDataError("The stream holds no graded answers; give at least one batch of them.")
        self._compact()
        return self._parts[0][1].reset_index(drop=True)


def _frame(batch: Any) -> Any:
    """Return a batch of another form as a data frame."""
    if hasattr(batch, "to_pandas"):  # Arrow, polars
        return batch.to_pandas()
    return pd.DataFrame({name: list(values) for name, values in batch.items()} if isinstance(batch, Mapping) else batch)


def fit_dataset(
    ds: Any,
    router: UniRouter | None = None,
    *,
    sample: int = SAMPLE,
    columns: GivenColumns | None = None,
    scale: GivenScale | None = None,
    prices: Mapping[str, Prices] | None = None,
    workers: int = 4,
) -> UniRouter:
    """Fit a router on a stream of graded answers; memory does not grow with the stream.

    All is learned, as by `UniRouter.fit`, from a uniform sample of the stream's different prompts with all of their
    answers. A stream of fewer prompts than `sample` gives the very fit that the whole table gives.

    Parameters
    ----------
    ds : Ray Dataset, or iterable of batches
        Rows of a table that `read_outcomes` takes, a row per answer or a column per model. A batch is a data frame, an
        Arrow table, columns or rows. Ray's workers pass on only rows that may be in the sample.
    router : UniRouter, optional
        It is fitted, with its own settings; a new one when not given.
    sample : int
        The most prompts to learn from.
    columns, scale, prices
        As `read_outcomes` takes them.
    workers : int
        The most of Ray's workers that read the stream, a processor each.

    Raises
    ------
    InvalidDataError
        When a batch has no columns of graded answers, or an answer in the sample cannot be read.

    Examples
    --------
    >>> sums = [{"prompt": f"{a} + {b}?", "poet": 0, "sage": 1} for a in range(20) for b in range(10)]
    >>> poems = [{"prompt": f"A poem of {n} lines.", "poet": 1, "sage": 1} for n in range(200)]
    >>> fitted = fit_dataset([sums, poems], sample=300)
    >>> fitted.fit_.training_models, len(fitted.fit_.seen)
    (('poet', 'sage'), 300)
    """
    drawn = PromptSample(sample, columns)
    if hasattr(ds, "map_batches"):
        from ray.data import ActorPoolStrategy

        arguments, pool = {"size": sample, "columns": columns}, ActorPoolStrategy(min_size=1, max_size=workers)
        rows = ds.map_batches(PromptSample, fn_constructor_kwargs=arguments, batch_format="pandas", compute=pool)
        batches: Iterable[Any] = rows.iter_batches(batch_format="pandas", batch_size=None)
    else:
        batches = ds
    for batch in batches:
        drawn.add(batch)
    if drawn.left_out:
        warnings.warn(f"{drawn.left_out:,} rows without a prompt were left out.", stacklevel=2)
    outcomes = read_outcomes(drawn.frame(), columns=columns, scale=scale, prices=prices)
    return (UniRouter() if router is None else router).fit(outcomes)
