"""Prompts to vectors: the embedder protocol, adapters for other libraries' embedders, and the default embedder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from unirouter_core.exceptions import EmbedderMismatchError, InvalidDataError, NotFittedError

Array: TypeAlias = npt.NDArray[np.floating[Any]]  # each docstring gives shape and unit
Mask: TypeAlias = npt.NDArray[np.bool_]
Labels: TypeAlias = npt.NDArray[np.integer[Any]]  # they index rows or clusters

CHECK_PROMPTS = (  # a router keeps their vectors, to detect another embedder
    "What is 17 times 23?",
    "Write a short poem about the sea at night.",
    "def add(a, b): return a + b  # explain this function",
)
CURE = "load it with the embedder it was fitted with, or fit it again"
SAME_VECTOR = 0.999  # vectors of one prompt with a smaller cosine come from another embedder


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


# --- Embedders of any library -----------------------------------------------------------------------------------------


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
        return _rows(self._function(list(prompts)), self.name)


def as_embedder(source: Any) -> Embedder:
    """Return an `Embedder` around `source`; raise `InvalidDataError` when it is none.

    Parameters
    ----------
    source : object
        An `Embedder`, a LangChain ``Embeddings``, a LlamaIndex ``BaseEmbedding``, or a function from a list of
        strings to a list of vectors. Neither framework is imported: they are recognised by their methods.

    Examples
    --------
    >>> as_embedder(lambda prompts: [[len(prompt), 1.0] for prompt in prompts]).encode(["four"]).tolist()
    [[4.0, 1.0]]
    """
    name = type(source).__name__
    if isinstance(source, type):
        raise InvalidDataError(f"{source.__name__} is a class, not an embedder; give an object of it.")
    if any(cls.__module__.startswith("sentence_transformers") for cls in type(source).__mro__):
        return _FunctionEmbedder(source.encode, name)  # without its `fit`, which trains the network
    if isinstance(source, Embedder) and not isinstance(source, str):  # a str has an `encode` to bytes
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
    """Return the embedder's name in messages and in a saved router."""
    return embedder.name if isinstance(embedder, _FunctionEmbedder) else type(embedder).__name__


def _rows(returned: Any, name: str) -> Array:
    try:
        return np.asarray(returned, np.float32)
    except (TypeError, ValueError) as failed:
        raise InvalidDataError(
            f"{name} returned no table of numbers ({failed}); it must return one row of numbers for each prompt."
        ) from failed


def embed(embedder: Embedder, prompts: Sequence[str]) -> Array:
    """Return the prompts' vectors (n, d), float32, rows of length 1 or 0; raise `InvalidDataError` for other shapes."""
    vectors = _rows(embedder.encode(list(prompts)), name_of(embedder))
    if vectors.ndim != 2 or len(vectors) != len(prompts) or not vectors.shape[1]:
        raise InvalidDataError(
            f"{name_of(embedder)} returned shape {vectors.shape} for {len(prompts)} prompts; "
            "encode must return one row of numbers for each prompt."
        )
    return normalise(vectors)


def normalise(vectors: Array) -> Array:
    """Return `vectors` (n, d) as float32, rows of length 1 or all 0; raise `InvalidDataError` for NaN or infinity."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if np.count_nonzero(np.isfinite(lengths)) < len(lengths):  # on one row half the time of all()
        row = int(np.argmin(np.isfinite(lengths)))
        raise InvalidDataError(f"The vector of prompt {row} holds NaN or infinity; check the embedder on that prompt.")
    if np.count_nonzero(lengths) < len(lengths):
        lengths[lengths == 0] = 1
    return np.asarray(vectors / lengths[:, None])


def check_same_embedder(embedder: Embedder, kept: Array) -> None:
    """Raise `EmbedderMismatchError` unless `embedder` gives the vectors `kept` (3, d) for `CHECK_PROMPTS`."""
    vectors = check_width(embed(embedder, CHECK_PROMPTS), kept.shape[1], embedder)
    cosines = np.einsum("ij,ij->i", vectors, kept) + (~vectors.any(1) & ~kept.any(1))
    if cosines.min() < SAME_VECTOR:
        raise EmbedderMismatchError(
            f"{name_of(embedder)} gives other vectors than the router was fitted on (cosine {cosines.min():.3f}, "
            f"at least {SAME_VECTOR} is needed); {CURE}."
        )


def check_width(vectors: Array, width: int, embedder: Embedder) -> Array:
    """Return the vectors (n, d); raise `EmbedderMismatchError` unless d is `width`."""
    if vectors.shape[1] != width:
        raise EmbedderMismatchError(
            f"{name_of(embedder)} gives {vectors.shape[1]} numbers a prompt, but the router was fitted on {width}; "
            f"{CURE}."
        )
    return vectors


def as_rows(vectors: Any, n: int) -> Array:
    """Return the vectors given as an array (n, d); raise `InvalidDataError` unless it is n rows of numbers."""
    try:
        array = np.asarray(vectors)
    except ValueError as ragged:
        raise InvalidDataError(f"The vectors given differ in length ({ragged}); give one row a prompt.") from ragged
    if array.dtype.kind not in "fiu" or array.ndim != 2 or len(array) != n:
        raise InvalidDataError(
            f"The vectors given have shape {array.shape} and type {array.dtype} for {n} prompts; give one row of "
            "numbers for each."
        )
    return array


# --- The default embedder: tokens -------------------------------------------------------------------------------------

_SPACE, _WORD, _NUMBER, _MARK = range(4)  # kinds of characters; each mark is a token, the others make tokens in runs
_SPACES = "\0 \x7f\xa0\u2000\u200d\u2028\u202f\u3000\u3000"  # ranges: the first and the last character of each
_NUMBERS = "09"
_MARKS = (
    "!/:@[`{~\xa1\xa9\xab\xb4\xb6\xb9\xbb\xbf\xd7\xd7\xf7\xf7\u2010\u2027\u2030\u2bff"
    # Scripts without spaces: each character is a word, and two neighbours are a pair as two words are.
    "\u0e00\u0fff\u1000\u109f\u1780\u17ff"  # Thai, Lao, Tibetan, Myanmar, Khmer
    "\u2e00\ua4cf\uac00\ud7af\uf900\ufaff"  # Chinese, kana, Hangul
    "\ufe30\uffff"  # full-width forms; the last stands for all that lies beyond: emoji, rare Chinese
)
_KINDS = np.full(2**16, _WORD, np.uint8)
for _kind, _ranges in ((_MARK, _MARKS), (_SPACE, _SPACES), (_NUMBER, _NUMBERS)):
    for _first, _last in zip(_ranges[::2], _ranges[1::2], strict=True):
        _KINDS[ord(_first) : ord(_last) + 1] = _kind

_PRIME = np.uint32(0x01000193)  # of the FNV hash; any large odd number would do, as `_mix` follows
_POWERS = np.cumprod(np.full(64, _PRIME), dtype=np.uint32)  # one for each place in a word; the 65th letter starts again
_SIZES = np.round(2 ** (np.arange(80) / 4))  # words in a prompt, four steps to each doubling
_NEAR = np.arange(4)  # a prompt has its own step and the next three, so prompts of about one length share some
_BUCKETS = 2**20  # distinct values of a hash: a hundred thousand prompts have a few million tokens
_LONGEST = 2**16  # characters of a prompt that are read: its first half and its last
_CHUNK = 2**16  # characters at a time: their arrays stay in the processor's cache


def _mix(hashes: Labels) -> Labels:
    """Return uint32 `hashes` with each bit depending on all bits (the last step of MurmurHash 3)."""
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


def _tokens(prompts: Sequence[str]) -> tuple[Labels, Labels]:
    """Return each token's prompt and hash.

    First, for each prompt, the `_NEAR` tokens of its number of words; then pairs of neighbours, the number of digits
    of each number, and the words, numbers and marks.
    """
    ends = np.cumsum([len(prompt) + 1 for prompt in prompts])
    text = np.frombuffer("\0".join([*prompts, ""]).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _KINDS.take(text, mode="clip")  # `take` and comparing neighbours cost half of indexing and `np.diff`
    begins = kinds == _MARK
    begins[0] = True
    begins[1:] |= kinds[1:] != kinds[:-1]
    starts = begins.nonzero()[0]
    sizes = np.append(starts[1:], len(text)) - starts
    places = np.arange(len(text)) - starts.repeat(sizes)
    words = _mix(np.add.reduceat(text * _POWERS.take(places & 63), starts, dtype=np.uint32))

    visible = kinds.take(starts) != _SPACE
    words, starts, sizes = words[visible], starts[visible], sizes[visible]
    owners = ends.searchsorted(starts, side="right")
    pairs = words[:-1] * _PRIME + words[1:]
    together = owners[1:] == owners[:-1]
    numbers = kinds.take(starts) == _NUMBER
    digits = sizes[numbers].astype(np.uint32)
    steps = _SIZES.searchsorted(np.bincount(owners, minlength=len(prompts)), side="right")
    lengths = (2**16 + steps[:, None] + _NEAR).astype(np.uint32).ravel()  # from 2^16, above all numbers of digits
    all_prompts = np.arange(len(prompts)).repeat(len(_NEAR))
    return (
        np.concatenate([all_prompts, owners[1:][together], owners[numbers], owners]),
        np.concatenate([_mix(np.concatenate([lengths, pairs[together], digits])), words]),
    )


def _distinct(owners: Labels, columns: Labels) -> Labels:
    """Return owners and columns, each pair once and in order, shape (2, n): a token counts once a prompt."""
    keys = owners * 2**32 + columns
    keys.sort()
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return np.array(np.divmod(keys[first], 2**32))


def _chunks(prompts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield runs of about `_CHUNK` characters, each with its first prompt's position; in lower case, long ones cut."""
    first, size, chunk = 0, 0, list[str]()
    for position, prompt in enumerate(prompts):
        if len(prompt) > _LONGEST:
            prompt = f"{prompt[: _LONGEST // 2]} {prompt[-_LONGEST // 2 :]}"
        chunk.append(prompt.lower())
        size += len(prompt)
        if size >= _CHUNK or position == len(prompts) - 1:
            yield first, chunk
            first, size, chunk = position + 1, 0, []


# --- The default embedder: vectors ------------------------------------------------------------------------------------


@dataclass(eq=False)
class HashingEmbedder:
    """The default embedder: TF-IDF of hashed words and word pairs, reduced by SVD. It learns in seconds.

    Words, numbers, the digits in a number, punctuation marks, pairs of neighbours, and the number of words: each counts
    once a prompt. In a script without spaces each character is a word. A prompt's vector is the weighted sum of its
    tokens' rows in one table, so `encode` needs numpy only. A prompt without any known token gets zeros. Of a prompt
    beyond 65,536 characters, the first and the last 32,768 are read. Raises `InvalidDataError` when `dims` or
    `features` is outside its range.

    Parameters
    ----------
    dims : int
        The dimension of the vectors; lower when the prompts have a lower rank.
    features : int
        Tokens in the table, the most frequent ones; below 65,536.
    characters : int
        Characters of text that `fit` reads, of a random sample of the prompts when there are more.
    seed : int
        Of that sample and of the SVD.

    Examples
    --------
    >>> embedder = HashingEmbedder().fit(["Add 2 and 3.", "Add 4 and 5.", "A poem on rain.", "A poem on the sea."])
    >>> sum_, other, poem = embedder.encode(["Add 6 and 7.", "Please add 8 and 9!", "One more poem on it."])
    >>> bool(sum_ @ other > sum_ @ poem)
    True
    """

    dims: int = 128
    features: int = 24_576
    characters: int = 10_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dims < 1 or not 1 <= self.features < 2**16:
            raise InvalidDataError(f"dims={self.dims}, features={self.features}: give dims >= 1, features 1 to 65,535.")

    # What `fit` sets: `rows_`, uint16 (2^20,), for each value of a hash its row in the table, from 1, 0 if unknown;
    # `table_`, int8 (n_tokens, dims), what each token adds, in steps of `scales_`, float32 (n_tokens,): how rare it is.
    def fit(self, prompts: Sequence[str]) -> Self:
        """Learn the table from `prompts`; needs scikit-learn. Prompts without a word are an `InvalidDataError`."""
        from scipy.sparse import csr_array
        from sklearn.utils.extmath import randomized_svd

        order = np.random.default_rng(self.seed).permutation(len(prompts))
        total = np.cumsum([min(len(prompts[position]), _LONGEST) for position in order])
        sample = [prompts[position] for position in order[: max(1, np.searchsorted(total, self.characters))]]
        pairs = [np.zeros((2, 0), int)]  # each prompt's position and each bucket of its tokens
        for first, chunk in _chunks(sample):
            owners, hashes = _tokens(chunk)
            pairs.append(_distinct(first + owners, hashes % _BUCKETS))
        owners, buckets = np.concatenate(pairs, axis=1)
        if len(buckets) <= len(_NEAR) * len(sample):
            raise InvalidDataError(f"There is no word in the {len(prompts)} prompts; give prompts with text.")
        holders = np.bincount(buckets, minlength=_BUCKETS)  # how many prompts have the token
        kept = np.argsort(-holders, kind="stable")[: min(self.features, np.count_nonzero(holders))]
        self.rows_ = np.zeros(_BUCKETS, np.uint16)
        self.rows_[kept] = np.arange(1, len(kept) + 1)

        rarity = (1 + np.log((1 + len(sample)) / (1 + holders[kept]))).astype(np.float32)
        columns = self.rows_[buckets].astype(int) - 1
        owners, columns = owners[columns >= 0], columns[columns >= 0]
        lengths = np.sqrt(np.bincount(owners, rarity[columns] ** 2)).astype(np.float32)
        matrix = csr_array((rarity[columns] / lengths[owners], (owners, columns)), (len(sample), len(kept)))
        rank = min(self.dims, *matrix.shape)
        _, strengths, axes = randomized_svd(matrix, rank, n_iter=4, random_state=self.seed)
        table = axes[strengths > 1e-5 * strengths[0]].T * rarity[:, None]  # weaker axes are rounding
        steps = np.maximum(np.abs(table).max(axis=1) / 127, np.finfo(np.float32).tiny)
        self.table_ = np.ascontiguousarray(np.round(table / steps[:, None]), np.int8)
        self.scales_ = steps.astype(np.float32)
        return self

    def encode(self, prompts: Sequence[str]) -> Array:
        """Return the prompts' vectors, float32, shape (n_prompts, dims)."""
        if not hasattr(self, "table_"):
            raise NotFittedError("This HashingEmbedder has learned no words yet; call fit(prompts) first.")
        vectors = np.zeros((len(prompts), self.table_.shape[1]), np.float32)
        for first, chunk in _chunks(prompts):
            owners, hashes = _tokens(chunk)
            rows = self.rows_.take(hashes % len(self.rows_))
            known = rows > 0
            words = slice(len(_NEAR) * len(chunk), None)
            known &= (np.bincount(owners[words], known[words], len(chunk)) > 0)[owners]  # its length alone says nothing
            owners, rows = _distinct(owners[known], rows[known] - 1)
            ends = owners.searchsorted(np.arange(len(chunk) + 1)).tolist()
            for position, (start, end) in enumerate(pairwise(ends), first):
                own = rows[start:end]
                vectors[position] = self.scales_.take(own) @ self.table_.take(own, axis=0).astype(np.float32)
        return vectors
