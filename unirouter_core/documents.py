"""What was retrieved for a prompt, and one vector of the question, its documents and how well they fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias

import numpy as np

from unirouter_core.costs import TokenCounter
from unirouter_core.embedding import Array, Embedder, embed, normalise
from unirouter_core.exceptions import InvalidDataError

STATISTICS = (  # of a retrieval, each in the unit of its standard deviation over the training prompts
    "documents, log",
    "characters, log",
    "highest retrieval score",
    "mean retrieval score",
    "spread of retrieval scores",
    "cosine of the question with the documents' mean",
    "highest cosine of the question with a document",
)
FARTHEST = 3.0  # standard deviations; a statistic beyond is an outlier, which would drown the question


@dataclass(frozen=True)
class Documents:
    """What was retrieved for one prompt.

    Raises `InvalidDataError` when a text is no string, or a score is missing or infinite.

    Parameters
    ----------
    scores : sequence of float, optional
        The retriever's, one for each text, in whatever unit it has; NaN where it gave none.

    Examples
    --------
    >>> found = Documents(["Lamps have two years of warranty."], scores=[0.83])
    >>> len(found), Documents.of(["Lamps have two years of warranty."]).scores is None
    (1, True)
    """

    texts: Sequence[str] = ()
    scores: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise InvalidDataError(f"{self.texts!r:.60} is one document; put it in a list.")
        object.__setattr__(self, "texts", tuple(self.texts))
        for position, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise InvalidDataError(f"Document {position} is {text!r:.60}, which is no text; give its text.")
        if self.scores is None:
            return
        try:
            scores = tuple(float(score) for score in self.scores)
        except (TypeError, ValueError) as failed:
            raise InvalidDataError(f"Retrieval scores {self.scores!r:.60} are not numbers; give one each.") from failed
        if len(scores) != len(self.texts) or any(map(math.isinf, scores)):
            raise InvalidDataError(
                f"{len(self)} documents but retrieval scores {scores!r:.60}; give one finite number for each."
            )
        object.__setattr__(self, "scores", scores)

    @classmethod
    def of(cls, given: GivenDocuments | None) -> Documents:
        """Return what was given as `Documents`: texts alone have no scores; None means that nothing was retrieved."""
        if isinstance(given, Documents):
            return given
        if given is not None and not isinstance(given, Sequence):
            raise InvalidDataError(f"documents={given!r:.60} must be a list of texts, or Documents(texts, scores).")
        return cls() if given is None else cls(given)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.texts)


GivenDocuments: TypeAlias = Documents | Sequence[str]  # with retrieval scores, or the texts alone


def check_documents(given: Sequence[GivenDocuments | None], n: int) -> tuple[Documents, ...]:
    """Return the documents of n prompts; raise `InvalidDataError` unless there are n."""
    if isinstance(given, (str, Documents)) or not isinstance(given, Sequence) or len(given) != n:
        found = f" {len(given)}" if isinstance(given, (list, tuple)) else f"={given!r:.60}"
        raise InvalidDataError(f"{n} prompts but documents{found}; give a list of documents for each prompt.")
    return tuple(Documents.of(each) for each in given)


def as_one_prompt(prompt: str, documents: Sequence[str]) -> str:
    """Return the plain form in which a prompt is sent with its documents: they come first, a blank line after each."""
    return "\n\n".join((*documents, prompt))


def distinct_texts(documents: Sequence[Documents]) -> list[str]:
    """Return the texts of all documents, each once: the same page is retrieved for many prompts."""
    return list(dict.fromkeys(text for each in documents for text in each.texts))


def count_tokens(counter: TokenCounter, prompts: Sequence[str], documents: Sequence[Documents] | None) -> Array:
    """Return the tokens of each prompt together with its documents, (n,)."""
    tokens = counter.count(prompts)
    if documents is None:
        return tokens
    texts = distinct_texts(documents)
    known = dict(zip(texts, counter.count(texts).tolist(), strict=True))
    return np.asarray(tokens + [sum(known[text] for text in each.texts) for each in documents])


def embed_with_documents(
    embedder: Embedder, prompts: Sequence[str], documents: Sequence[Documents]
) -> tuple[Array, list[Array]]:
    """Return the prompts' vectors (n, d), and those of each prompt's documents, in one call of the embedder."""
    texts = [text for text in distinct_texts(documents) if text.strip()]  # providers refuse to embed blank text
    vectors = embed(embedder, [*prompts, *texts])
    Q, blank = vectors[: len(prompts)], np.zeros(vectors.shape[1], np.float32)
    of = dict(zip(texts, vectors[len(prompts) :], strict=True))
    rows = [[of.get(text, blank) for text in each.texts] for each in documents]
    return Q, [np.array(each, np.float32).reshape(-1, Q.shape[1]) for each in rows]


@dataclass(eq=False)
class DocumentFeatures:
    """A question's vector, the mean of its documents', and statistics of the retrieval, in one row of length 1.

    The weights say how much each block counts where distances are taken; they are kept with a router. The documents'
    block is half the question's, because documents mostly repeat the question's topic. All statistics together weigh
    as much as the question: whether the answer was found decides as much as what the question is. A prompt without
    documents has zeros for what is not known. `fit` keeps the mean of each of `STATISTICS` over the training prompts,
    `centres_`, and 1 / standard deviation, `weights_`; both are 0 where never known.
    """

    question: float = 1.0
    documents: float = 0.5
    statistics: float = 1.0
    centres_: Array = field(init=False, repr=False)
    weights_: Array = field(init=False, repr=False)

    def dims(self, width: int) -> int:
        """Return the length of an embedding whose longer vector has `width`."""
        return (width - len(STATISTICS)) // 2

    def fit(self, Q: Array, found: Sequence[Array], documents: Sequence[Documents]) -> Self:
        """Learn the usual statistics from the vectors Q (n, d) of prompts, and those of each prompt's documents."""
        rows = _statistics(Q, found, documents)
        known = ~np.isnan(rows)
        n = np.maximum(known.sum(0), 1)
        self.centres_ = np.where(known, rows, 0).sum(0) / n
        spread = np.sqrt((np.where(known, rows - self.centres_, 0) ** 2).sum(0) / n)
        constant = spread < 1e-6  # what rounding leaves; another value is then one unit off for each unit
        self.weights_ = np.where(known.any(0), 1 / np.where(constant, 1, spread), 0)
        return self

    def join(self, Q: Array, found: Sequence[Array], documents: Sequence[Documents]) -> Array:
        """Return the longer vectors, float32, (n, 2 * d + 7), rows of length 1; parameters as in `fit`."""
        means = np.stack([rows.mean(0) if len(rows) else np.zeros(Q.shape[1], np.float32) for rows in found])
        unusual = np.nan_to_num((_statistics(Q, found, documents) - self.centres_) * self.weights_)
        scaled = np.clip(unusual, -FARTHEST, FARTHEST) / math.sqrt(len(STATISTICS))  # about as long as a unit vector
        return normalise(np.hstack([self.question * Q, self.documents * means, self.statistics * scaled]))


def _statistics(Q: Array, found: Sequence[Array], documents: Sequence[Documents]) -> Array:
    """Return `STATISTICS` of each prompt, (n, 7), NaN where they are not known."""
    rows = np.full((len(Q), len(STATISTICS)), np.nan)
    for row, question, vectors, each in zip(rows, Q, found, documents, strict=True):
        row[:2] = math.log1p(len(each)), math.log1p(sum(map(len, each.texts)))
        scores = [score for score in each.scores or () if score == score]
        if scores:
            row[2:5] = max(scores), sum(scores) / len(scores), max(scores) - min(scores)
        if len(vectors):
            mean = vectors.mean(0)
            row[5:] = question @ mean / max(float(np.linalg.norm(mean)), 1e-12), (vectors @ question).max()
    return rows
