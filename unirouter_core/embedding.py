"""Prompts to vectors: what an embedder is, how foreign ones are taken in, and how a router knows its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from unirouter_core.exceptions import EmbedderMismatchError, InvalidDataError

Array: TypeAlias = npt.NDArray[np.floating[Any]]
"""Floating-point numbers; each docstring gives shape and unit."""

Mask: TypeAlias = npt.NDArray[np.bool_]
"""Yes or no for each entry."""

Labels: TypeAlias = npt.NDArray[np.integer[Any]]
"""Whole numbers that index rows or clusters."""

CHECK_PROMPTS = (
    "What is 17 times 23?",
    "Write a short poem about the sea at night.",
    "def add(a, b): return a + b  # explain this function",
)
"""The three prompts whose vectors a router keeps, to know its embedder again."""

SAME_VECTOR = 0.999
"""Vectors of one prompt with a smaller cosine come from another embedder."""


@runtime_checkable
class Embedder(Protocol):
    """Anything with ``encode``; sentence-transformers and model2vec models fit as they are.

    One that learns has ``fit(prompts)`` too; `UniRouter.fit` calls it.
    """

    def encode(self, prompts: Sequence[str]) -> Any:
        """Return one vector for each prompt, shape (n_prompts, d)."""
        ...


class _FunctionEmbedder:
    """An embedder around one batch function."""

    def __init__(self, function: Callable[[list[str]], Any], name: str) -> None:
        self._function, self.name = function, name

    def encode(self, prompts: Sequence[str]) -> Array:
        """Return the function's vectors, shape (n_prompts, d)."""
        return _rows(self._function(list(prompts)), self.name)


def as_embedder(source: Any) -> Embedder:
    """Return an `Embedder` around `source`.

    Parameters
    ----------
    source : object
        An `Embedder`, a LangChain ``Embeddings``, a LlamaIndex ``BaseEmbedding``, or a function from a list of
        strings to a list of vectors. Neither framework is imported: their method names tell them apart.

    Raises
    ------
    InvalidDataError
        When `source` is none of these.

    Examples
    --------
    >>> as_embedder(lambda prompts: [[len(prompt), 1.0] for prompt in prompts]).encode(["four"]).tolist()
    [[4.0, 1.0]]
    """
    name = type(source).__name__
    if isinstance(source, type):
        raise InvalidDataError(f"{source.__name__} is a class, not an embedder; give an object of it.")
    if any(cls.__module__.startswith("sentence_transformers") for cls in type(source).__mro__):
        return _FunctionEmbedder(source.encode, name)  # its `fit` trains the network, which is not ours to start
    if isinstance(source, Embedder) and not isinstance(source, str):  # a str encodes too, to bytes
        return source
    for method in ("embed_documents", "get_text_embedding_batch"):  # LangChain, LlamaIndex
        if hasattr(source, method):
            return _FunctionEmbedder(getattr(source, method), name)
    if callable(source):
        return _FunctionEmbedder(source, getattr(source, "__name__", name))
    raise InvalidDataError(
        f"{source!r:.40} is not an embedder; give an object with encode(prompts), a LangChain Embeddings, "
        "a LlamaIndex BaseEmbedding, or a function from prompts to vectors."
    )


def name_of(embedder: Embedder) -> str:
    """Return what messages and a saved router call `embedder`."""
    return embedder.name if isinstance(embedder, _FunctionEmbedder) else type(embedder).__name__


def _rows(returned: Any, name: str) -> Array:
    try:
        return np.asarray(returned, np.float32)
    except (TypeError, ValueError) as failed:
        raise InvalidDataError(
            f"{name} returned no table of numbers ({failed}); it must return one row of numbers for each prompt."
        ) from failed


def embed(embedder: Embedder, prompts: Sequence[str]) -> Array:
    """Return the prompts' vectors with rows of length 1, float32, shape (n_prompts, d).

    A row of zeros (nothing in the prompt is known to the embedder) stays zero.

    Raises
    ------
    InvalidDataError
        When the embedder returns another number of rows, or numbers that are not finite.
    """
    vectors = _rows(embedder.encode(list(prompts)), name_of(embedder))
    if vectors.ndim != 2 or len(vectors) != len(prompts) or not vectors.shape[1]:
        raise InvalidDataError(
            f"{name_of(embedder)} returned shape {vectors.shape} for {len(prompts)} prompts; "
            "encode must return one row of numbers for each prompt."
        )
    return normalise(vectors)


def normalise(vectors: Array) -> Array:
    """Return `vectors` (n, d) as float32 with rows of length 1; rows of zeros stay.

    Raises
    ------
    InvalidDataError
        When a number is not finite.
    """
    vectors = np.asarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    if not math.isfinite(lengths.sum()):
        row = int(np.argmin(np.isfinite(lengths)))
        raise InvalidDataError(f"The vector of prompt {row} holds NaN or infinity; check the embedder on that prompt.")
    if not lengths.all():
        lengths[lengths == 0] = 1
    return np.asarray(vectors / lengths)


def check_same_embedder(embedder: Embedder, kept: Array) -> None:
    """Raise `EmbedderMismatchError` unless `embedder` gives the vectors `kept` (3, d) for `CHECK_PROMPTS`."""
    vectors = embed(embedder, CHECK_PROMPTS)
    if vectors.shape != kept.shape:
        raise EmbedderMismatchError(
            f"{name_of(embedder)} gives {vectors.shape[1]} numbers a prompt, but the router was fitted on "
            f"{kept.shape[1]}; load it with the embedder it was fitted with, or fit it again."
        )
    cosines = np.einsum("ij,ij->i", vectors, kept) + (~vectors.any(1) & ~kept.any(1))
    if cosines.min() < SAME_VECTOR:
        raise EmbedderMismatchError(
            f"{name_of(embedder)} gives other vectors than the router was fitted on (cosine {cosines.min():.3f}, "
            f"at least {SAME_VECTOR} is needed); load it with the embedder it was fitted with, or fit it again."
        )


def as_rows(vectors: Any, n: int) -> Array:
    """Return given vectors as an array (n, d), checked to be numbers."""
    try:
        array = np.asarray(vectors)
    except ValueError as ragged:
        raise InvalidDataError(
            f"The vectors given differ in length ({ragged}); give one row for each prompt."
        ) from ragged
    if array.dtype.kind not in "fiu" or array.ndim != 2 or len(array) != n:
        raise InvalidDataError(
            f"The vectors given have shape {array.shape} and type {array.dtype} for {n} prompts; give one row of "
            "numbers for each."
        )
    return array
